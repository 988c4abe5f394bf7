//! `taper logits`: what taper computes, in a file that any other program can compare with.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use serde::Serialize;
use taper_base::files;
use taper_hub::ModelSource;
use taper_model::{Batch, Checkpoint, Model};

use crate::error::io;
use crate::{Console, PipelineError};

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogitsReport {
    /// Rows of token ids.
    pub sequences: usize,
    /// Tokens of each.
    pub length: usize,
    /// Logits of each token.
    pub vocab: usize,
}

/// Writes `input_ids` `[sequences, length]` and `logits` `[sequences, length, vocab]` f32 as safetensors to `out`.
///
/// # Errors
/// If model or ids cannot be had or do not fit each other, or `out` cannot be written.
pub fn logits(
    model: &ModelSource,
    tokens: &Path,
    (sequences, length): (usize, usize),
    out: &Path,
    console: &dyn Console,
) -> Result<LogitsReport, PipelineError> {
    let local = crate::local::model(model, console)?;
    let checkpoint = Checkpoint::open(&local.dir)?;
    let vocab = checkpoint.spec().vocab;
    let ids = taper_data::read_ids(tokens, vocab)?;
    let tokens = taper_data::Tokens::new(ids, sequences, length)?;
    let logits = Model::load(&checkpoint)?.logits(Batch::new(tokens.ids(), length)?)?;
    let tensors = || -> candle_core::Result<HashMap<&str, Tensor>> {
        let ids: Vec<i64> = tokens.ids().iter().map(|id| i64::from(*id)).collect();
        let ids = Tensor::from_vec(ids, (sequences, length), &Device::Cpu)?;
        Ok(HashMap::from([("input_ids", ids), ("logits", logits.reshape((sequences, length, vocab))?)]))
    };
    let name = out.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let temporary = out.with_file_name(format!(".taper-{name}.{}", std::process::id()));
    let written = tensors().and_then(|tensors| candle_core::safetensors::save(&tensors, &temporary));
    let placed = written.map_err(std::io::Error::other).and_then(|()| files::persist(&temporary, out));
    if placed.is_err() {
        drop(std::fs::remove_file(&temporary)); // the failure before is what matters
    }
    placed.map_err(io(out))?;
    Ok(LogitsReport { sequences, length, vocab })
}
