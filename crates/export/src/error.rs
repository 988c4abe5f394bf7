//! What can go wrong while a checkpoint is written for an engine.

use std::path::PathBuf;

use taper_data::DataError;
use taper_model::ModelError;

/// Why a layout could not be written, or read.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A model that the engine cannot hold.
    #[error("{target} cannot hold this model: {rule}")]
    Rule {
        /// The engine.
        target: &'static str,
        /// What forbids it.
        rule: String,
    },
    /// A tokenizer that the engine has no counterpart of.
    #[error("{}: llama.cpp has no counterpart of this tokenizer: {reason}", path.display())]
    Tokenizer {
        /// The tokenizer's file.
        path: PathBuf,
        /// Which part.
        reason: String,
    },
    /// Weights that cannot be stored with fewer bits.
    #[error("tensor `{tensor}` as {kind}")]
    Quantize {
        /// Its name in the file.
        tensor: String,
        /// How it was to be stored.
        kind: &'static str,
        /// Why not.
        #[source]
        cause: Box<candle_core::Error>,
    },
    /// A file that cannot be read or written.
    #[error("{}: cannot be read or written", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        #[source]
        cause: std::io::Error,
    },
    /// A GGUF file that cannot become a checkpoint.
    #[error("{}: {reason}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The tokenizer's files.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The checkpoint.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl ExportError {
    /// For `map_err`: the file that could not be read or written.
    pub(crate) fn file(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |cause| Self::File { path, cause }
    }
}
