//! Why a model could not be had or written.

use std::path::PathBuf;

/// What went wrong; messages never hold the token.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Neither a folder nor a Hub id.
    #[error("`{name}` is neither a folder here nor a Hub id such as owner/name: {reason}")]
    Name {
        /// The name given.
        name: String,
        /// Why it is neither.
        reason: &'static str,
    },
    /// The Hub refused, or could not be reached.
    #[error("{id}@{revision}{file}: {hint}")]
    Hub {
        /// Repository.
        id: String,
        /// Revision asked for.
        revision: String,
        /// ", file x" or nothing.
        file: String,
        /// What to do.
        hint: String,
        /// What the client says.
        #[source]
        cause: Box<hf_hub::HFError>,
    },
    /// Not in the cache, and no network is to be used.
    #[error("{id}@{revision}: offline, and {file} is not in the cache {}; unset HF_HUB_OFFLINE to download it", cache.display())]
    Offline {
        /// Repository.
        id: String,
        /// Revision asked for.
        revision: String,
        /// The file that is missing.
        file: String,
        /// The cache's folder.
        cache: PathBuf,
    },
    /// Weights only in a format that can run code.
    #[error("{id}@{revision} has no safetensors, only {files}: a pickle can run code when it is read; convert it first, or look for a revision with safetensors")]
    OnlyPickle {
        /// Repository.
        id: String,
        /// Commit.
        revision: String,
        /// The pickle files.
        files: String,
    },
    /// A repository without weights.
    #[error("{id}@{revision} lacks {file}; it is no transformers checkpoint")]
    Lacks {
        /// Repository.
        id: String,
        /// Commit.
        revision: String,
        /// The file.
        file: &'static str,
    },
    /// An index that names something else than files beside it.
    #[error("{}: {reason}", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("{}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system says.
        #[source]
        cause: std::io::Error,
    },
}

/// For `map_err`: what the system said of `path`.
pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> HubError {
    let path = path.into();
    move |cause| HubError::Io { path, cause }
}
