//! What can go wrong while a model heals.

use std::path::PathBuf;

use taper_data::DataError;
use taper_kernels::KernelError;
use taper_model::ModelError;

/// Why a model could not be healed.
#[derive(Debug, thiserror::Error)]
pub enum HealError {
    /// Loss or gradient is no number, or the loss has grown for long.
    #[error("step {step}: {what}; the gradient's norm was {norm:.3e}{checkpoint}")]
    Diverged {
        /// The step.
        step: u64,
        /// What was found.
        what: String,
        /// Norm of the gradient of all parameters.
        norm: f64,
        /// "; the last good checkpoint is …", or nothing.
        checkpoint: String,
    },
    /// A pattern that names no parameter.
    #[error("{key}: `{pattern}` names none of the model's parameters, such as `{example}`")]
    Pattern {
        /// Where it stands.
        key: &'static str,
        /// The pattern.
        pattern: String,
        /// A name that there is.
        example: String,
    },
    /// Settings that do not fit one another, or the models.
    #[error("{key}: {reason}")]
    Setting {
        /// Which.
        key: &'static str,
        /// Wanted and found.
        reason: String,
    },
    /// A checkpoint or a teacher's cache that is not one.
    #[error("{}: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A folder that holds the progress of another training.
    #[error("{}: holds the progress of another training: `{key}` is another one here", path.display())]
    Other {
        /// The folder.
        path: PathBuf,
        /// What differs.
        key: String,
    },
    /// A file cannot be read or written.
    #[error("{}: cannot be read or written", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        #[source]
        cause: std::io::Error,
    },
    /// The text.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The engine.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// An operation of training.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

pub(crate) type Result<T> = std::result::Result<T, HealError>;

/// For `map_err`: the file that could not be read or written.
pub(crate) fn file(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> HealError + use<> {
    let path = path.to_owned();
    move |cause| HealError::File { path, cause }
}
