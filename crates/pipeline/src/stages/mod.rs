//! One file a stage. Each has a key, made of all that its result depends on, and a result in its own folder.

pub(crate) mod calibrate;
pub(crate) mod evaluate;
pub(crate) mod export;
pub(crate) mod heal;
pub(crate) mod load;
pub(crate) mod materialise;
pub(crate) mod measure;
pub(crate) mod search;

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::PipelineError;
use crate::error::io;

/// A result of ours from its file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, PipelineError> {
    let bytes = std::fs::read(path).map_err(io(path))?;
    let refuse = |cause: serde_json::Error| PipelineError::Content { path: path.to_owned(), reason: cause.to_string() };
    serde_json::from_slice(&bytes).map_err(refuse)
}

/// What the stage that made `folder` left of its key, `key` and `inputs`; null where no stage did.
pub(crate) fn read_key(folder: &Path) -> Result<serde_json::Value, PipelineError> {
    let path = folder.join("key.json");
    if path.is_file() { read_json(&path) } else { Ok(serde_json::Value::Null) }
}

pub(crate) fn write_json<T: serde::Serialize>(path: &Path, value: &T) -> Result<(), PipelineError> {
    taper_base::files::write_json(path, value).map_err(io(path))
}
