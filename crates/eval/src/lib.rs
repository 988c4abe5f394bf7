//! Evaluation of checkpoints, taper's own or not: tasks, perplexity on text, classes of images, latency on this machine.

pub mod classify;
pub mod harness;
pub mod latency;
pub mod perplexity;

use taper_data::DataError;
use taper_model::ModelError;

pub use classify::{Classification, Sample, answers, classify, likeliest, logits_of};
pub use latency::{Latency, Spread, latency, latency_table};
pub use perplexity::{Perplexity, Settings, bytes_per_pass, documents_to_ids, perplexity};

/// Why a model could not be evaluated.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// The text or its windows.
    #[error("text to evaluate on")]
    Data {
        /// What is wrong with it.
        #[source]
        cause: DataError,
    },
    /// A text with nothing to predict.
    #[error("text to evaluate on: {documents} documents with {tokens} tokens leave none to predict")]
    Empty {
        /// Documents given.
        documents: usize,
        /// Their tokens.
        tokens: usize,
    },
    /// An image without a label, or with one that the model has no class for.
    #[error(
        "{image}: {}, wanted a class below {classes}",
        label.map_or("no label".to_owned(), |label| format!("label {label}"))
    )]
    NoLabel {
        /// The image.
        image: String,
        /// Its label, if it has one.
        label: Option<u32>,
        /// Classes of the model.
        classes: usize,
    },
    /// No image at all.
    #[error("no image to evaluate on")]
    NoImages,
    /// A model of tokens.
    #[error("the model reads tokens, not images")]
    NotImages,
    /// Architectures of the table of times.
    #[error("table of times")]
    Arch {
        /// What does not fit.
        #[source]
        cause: taper_arch::ArchError,
    },
    /// The forward pass.
    #[error("evaluation")]
    Model {
        /// Where, and why.
        #[source]
        cause: ModelError,
    },
}

impl From<DataError> for EvalError {
    fn from(cause: DataError) -> Self {
        Self::Data { cause }
    }
}

impl From<taper_arch::ArchError> for EvalError {
    fn from(cause: taper_arch::ArchError) -> Self {
        Self::Arch { cause }
    }
}

impl From<ModelError> for EvalError {
    fn from(cause: ModelError) -> Self {
        Self::Model { cause }
    }
}
