//! What stands beside the weights of a pruned checkpoint so that stock transformers loads it.

use std::path::Path;

use serde_json::Value;
use taper_arch::ModelSpec;
use taper_base::files;

use crate::HubError;
use crate::error::io;
use crate::layouts::{self, Layout};

/// Files of the source that hold for the pruned model too: tokenizer and generation settings.
const CARRIED: [&str; 9] = [
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
];

/// Writes into `dir` the configuration of the cut model `spec` (blocks of which nothing is left dropped), the model file
/// if blocks differ, and the source's tokenizer.
///
/// # Errors
/// [`HubError::Io`] with the file.
pub fn write_transformers(
    dir: &Path, spec: &ModelSpec, source_dir: &Path, source_config: &Value,
) -> Result<Layout, HubError> {
    let layout = layouts::transformers(spec, source_config);
    let config = dir.join("config.json");
    files::write_json(&config, &layout.config).map_err(io(&config))?;
    for (name, content) in &layout.files {
        let path = dir.join(name);
        files::write(&path, content.as_bytes()).map_err(io(&path))?;
    }
    for name in CARRIED {
        let from = source_dir.join(name);
        if from.is_file() {
            let bytes = std::fs::read(&from).map_err(io(&from))?;
            let path = dir.join(name);
            files::write(&path, &bytes).map_err(io(&path))?;
        }
    }
    Ok(layout)
}
