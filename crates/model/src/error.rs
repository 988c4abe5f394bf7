//! What can go wrong between a folder and a model.

use std::path::PathBuf;

use taper_arch::ArchError;
use taper_kernels::KernelError;

/// Why a checkpoint could not be read, run, cut or saved: always with the file, tensor or block.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file or folder is missing or unreadable.
    #[error("{}: cannot be read", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system says.
        #[source]
        cause: std::io::Error,
    },
    /// A file could not be written.
    #[error("{}: cannot be written", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// What failed.
        #[source]
        cause: std::io::Error,
    },
    /// A folder without weights in a format that is only data.
    #[error("{}: no model.safetensors and no model.safetensors.index.json{pickles}", dir.display())]
    NoWeights {
        /// The folder.
        dir: PathBuf,
        /// The pickle files found instead, and why they are not read; or nothing.
        pickles: String,
    },
    /// A configuration that is no JSON object, or whose key is missing, of the wrong type or not supported.
    #[error("{}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Which key, wanted and found.
        reason: String,
    },
    /// A configuration that describes no possible model.
    #[error("{}", path.display())]
    Dimensions {
        /// The file.
        path: PathBuf,
        /// Which dimension.
        #[source]
        cause: ArchError,
    },
    /// A safetensors file or index whose header is damaged.
    #[error("{}: {reason}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A tensor that the configuration wants is in no file.
    #[error("{}: tensor `{tensor}` is missing", path.display())]
    MissingTensor {
        /// The file or index that should have it.
        path: PathBuf,
        /// Its name.
        tensor: String,
    },
    /// A tensor that the configuration knows nothing of.
    #[error("{}: unexpected tensor `{tensor}`; the configuration describes a model without it", path.display())]
    UnexpectedTensor {
        /// The file.
        path: PathBuf,
        /// Its name.
        tensor: String,
    },
    /// A tensor of another shape or type than the configuration says.
    #[error("{}: tensor `{tensor}` is {got}, wanted {want}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// Its name.
        tensor: String,
        /// Type or shape found.
        got: String,
        /// Type or shape wanted.
        want: String,
    },
    /// A NaN or infinity among the weights.
    #[error("{}: tensor `{tensor}` holds {value} at index {index}", path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Where, counted over the flattened tensor from 0.
        index: usize,
        /// What is there.
        value: f32,
    },
    /// A model that overflows.
    #[error("sequence {sequence}: a logit is infinite or NaN")]
    Logits {
        /// Which of those generated.
        sequence: usize,
    },
    /// Images that are no batch for the model, or a model that reads images where one that reads tokens is wanted.
    #[error("images: {reason}")]
    Images {
        /// What is wrong.
        reason: String,
    },
    /// Token ids that are no batch for this model.
    #[error("token ids: {reason}")]
    Ids {
        /// What is wrong.
        reason: String,
    },
    /// A selection that does not fit the model.
    #[error("{place}: {reason}")]
    Selection {
        /// Block and sub-block.
        place: String,
        /// What does not fit.
        reason: String,
    },
    /// An operation of the engine failed.
    #[error("{place}")]
    Compute {
        /// Block and sub-block, or part of the model.
        place: String,
        /// Which operation, and why.
        #[source]
        cause: Box<KernelError>,
    },
}

/// Result of this crate's functions.
pub type Result<T> = std::result::Result<T, ModelError>;

/// For `map_err`: an operation of the engine failed at `place`.
pub(crate) fn at(place: impl Into<String>) -> impl FnOnce(KernelError) -> ModelError {
    let place = place.into();
    move |cause| ModelError::Compute { place, cause: Box::new(cause) }
}

/// For `map_err`: candle refused `op`.
pub(crate) fn candle(op: &'static str) -> impl FnOnce(candle_core::Error) -> KernelError {
    move |cause| KernelError::Tensor { op, cause }
}
