//! Classifiers of images for ONNX runtimes: a folder of `model.onnx`, the configuration and the processor's settings.
//!
//! `pixel_values` `[batch, channels, height, width]`, ready as `preprocessor_config.json` says, become `logits`
//! `[batch, classes]`; names are those of Optimum. Operators of opset 17 alone, so each runtime of 2022 or later takes it, and
//! every block has its own sizes: blocks that differ need no code beside. All in f32. A file holds 2 GiB at most, so
//! the weights of larger models lie in `model.onnx.data` beside it. Source: ONNX 1.12, `onnx.proto3` and `Operators.md`.

mod graph;
mod proto;
mod weights;

use std::fs;
use std::path::Path;

use prost::Message;
use serde_json::Value;
use taper_arch::ModelSpec;
use taper_base::files;
use taper_model::Checkpoint;

use crate::{ExportError, transformers};
use weights::Weights;

/// The graph's file.
pub const FILE: &str = "model.onnx";
/// Bytes of weights from which on they get a file of their own.
const INSIDE: u64 = 1 << 30;

/// Whether a runtime can be told of the model.
///
/// # Errors
/// The rule that forbids it.
pub fn check(spec: &ModelSpec) -> Result<(), String> {
    match spec.image {
        None => Err("only classifiers of images become graphs; language models go as `gguf`, `vllm` or `transformers`"
            .to_owned()),
        Some(_) if spec.activation.gated() => Err("MLPs with a gate are not written".to_owned()),
        Some(_) => Ok(()),
    }
}

/// Writes all files into the folder `dir`, which is there.
///
/// # Errors
/// [`ExportError::Rule`] as [`check`]; what a file says, or a weight that is no number.
pub fn write(checkpoint: &Checkpoint, dir: &Path) -> Result<(), ExportError> {
    let bytes = 4 * taper_model::parameter_count(checkpoint.spec());
    write_with(checkpoint, dir, bytes > INSIDE)
}

fn write_with(checkpoint: &Checkpoint, dir: &Path, beside: bool) -> Result<(), ExportError> {
    let spec = checkpoint.spec();
    check(spec).map_err(|rule| ExportError::Rule { target: "ONNX", rule })?;
    settings(checkpoint, dir)?;
    let path = dir.join(FILE);
    let weights = if beside { Weights::beside(&path)? } else { Weights::inside() };
    let model = graph::model(checkpoint, weights)?;
    files::write(&path, &model.encode_to_vec()).map_err(ExportError::file(&path))
}

/// `config.json` and the processor's settings, as transformers has them, but for what speaks of its own code.
fn settings(checkpoint: &Checkpoint, dir: &Path) -> Result<(), ExportError> {
    let layout = transformers::write(dir, checkpoint.spec(), checkpoint.dir(), checkpoint.config())?;
    for (name, _) in &layout.files {
        let path = dir.join(name);
        fs::remove_file(&path).map_err(ExportError::file(&path))?;
    }
    let mut config = layout.config;
    if let Some(keys) = config.as_object_mut() {
        keys.remove("auto_map");
        if let Some(Value::String(class)) = keys.get_mut("architectures").and_then(|classes| classes.get_mut(0)) {
            *class = class.trim_start_matches("Taper").to_owned();
        }
    }
    let path = dir.join("config.json");
    files::write_json(&path, &config).map_err(ExportError::file(&path))
}

#[cfg(test)]
mod tests;
