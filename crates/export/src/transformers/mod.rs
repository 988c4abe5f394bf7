//! A folder that stock transformers loads, and through it others: everything but the weights. `README.md` names every key.

mod images;
mod layout;

use std::fs::{self, File};
use std::io;
use std::path::Path;

use serde_json::Value;
use taper_arch::ModelSpec;
use taper_base::files;

use crate::ExportError;

pub use layout::{Layout, layout};

/// Files copied from the source where it has them. Plain data all of them: no code, no weights.
pub const COPIED: [&str; 10] = [
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "merges.txt",
    "preprocessor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
];

/// Writes into `dir` all but the weights of the cut model `spec`: `config.json`, the model file if blocks differ, and
/// copies of the tokenizer and the generation settings in `source_dir`. `source_config` is the source's `config.json`.
///
/// # Errors
/// [`ExportError::File`] with the file that could not be read or written.
pub fn write(dir: &Path, spec: &ModelSpec, source_dir: &Path, source_config: &Value) -> Result<Layout, ExportError> {
    fs::create_dir_all(dir).map_err(ExportError::file(dir))?;
    let layout = layout(spec, source_config);
    let config = dir.join("config.json");
    files::write_json(&config, &layout.config).map_err(ExportError::file(&config))?;
    for (name, content) in &layout.files {
        let path = dir.join(name);
        files::write(&path, content.as_bytes()).map_err(ExportError::file(&path))?;
    }
    for name in COPIED {
        let (from, to) = (source_dir.join(name), dir.join(name));
        let mut source = match File::open(&from) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => continue,
            opened => opened.map_err(ExportError::file(&from))?,
        };
        files::write_with(&to, |out| io::copy(&mut source, out).map(drop)).map_err(ExportError::file(&to))?;
    }
    let processor = dir.join("preprocessor_config.json");
    if let Some(content) = images::processor(source_config).filter(|_| !processor.is_file()) {
        files::write_json(&processor, &content).map_err(ExportError::file(&processor))?;
    }
    Ok(layout)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use taper_arch::spec::example;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn configuration_model_file_and_tokenizer_are_written_and_nothing_else_is_copied() {
        let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let dir = target.path().join("model");
        for name in ["tokenizer.json", "vocab.json", "model.safetensors", "modeling_other.py", "config.json"] {
            files::write(&source.path().join(name), name.as_bytes()).unwrap();
        }
        let config = json!({ "model_type": "llama", "num_attention_heads": 4 });
        let layout = write(&dir, &example(), source.path(), &config).unwrap();
        assert!(!layout.remote_code);
        assert_eq!(names(&dir), ["config.json", "tokenizer.json", "vocab.json"]);
        assert_eq!(fs::read(dir.join("tokenizer.json")).unwrap(), b"tokenizer.json");
        let written: Value = serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap();
        assert_eq!(written, layout.config);

        let mut spec = example();
        spec.blocks[1].mlp = None;
        let layout = write(&dir, &spec, source.path(), &config).unwrap();
        assert!(layout.remote_code);
        assert_eq!(names(&dir), ["config.json", "modeling_taper.py", "tokenizer.json", "vocab.json"]);
        assert_eq!(fs::read_to_string(dir.join("modeling_taper.py")).unwrap(), layout.files[0].1);
    }

    #[test]
    fn a_file_that_cannot_be_copied_is_named() {
        let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(source.path().join("vocab.json")).unwrap();
        let error = write(target.path(), &example(), source.path(), &Value::Null).unwrap_err();
        assert!(error.to_string().contains("vocab.json: "), "{error}");
    }
}
