//! What can go wrong between a name in a recipe and a folder of weights. Each message ends with what to do about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use hf_hub::HFError;

/// What was asked of the Hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// `model` or `dataset`.
    pub kind: &'static str,
    /// `owner/name`.
    pub id: String,
    /// Branch, tag or commit.
    pub revision: String,
    /// The file in the repository, if it was about one.
    pub file: Option<String>,
}

impl Location {
    /// The same place, about `file`.
    pub(crate) fn file(&self, file: &str) -> Box<Self> {
        Box::new(Self { file: Some(file.to_owned()), ..self.clone() })
    }

    /// The same place, for an error.
    pub(crate) fn boxed(&self) -> Box<Self> {
        Box::new(self.clone())
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} at revision {}", self.kind, self.id, self.revision)?;
        self.file.as_ref().map_or(Ok(()), |file| write!(f, ", file {file}"))
    }
}

/// Why a model or a file could not be fetched or written.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// A text that names neither a folder nor something on the Hub.
    #[error("`{text}`: {reason}")]
    Source {
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A folder that is not there.
    #[error("{}: no such folder; a model on the Hub is named `owner/name`, without ./ or / before it", path.display())]
    NoFolder {
        /// The folder.
        path: PathBuf,
    },
    /// The Hub knows no such repository, or hides it.
    #[error(
        "{at}: the Hub knows no such repository or revision{}; check the spelling, and set HF_TOKEN if it is private",
        said(message)
    )]
    NotFound {
        /// What was asked for.
        at: Box<Location>,
        /// The Hub's words, empty if it gave none.
        message: String,
    },
    /// The repository has no such branch, tag or commit.
    #[error("{at}: the repository has no such revision; wanted a branch, a tag or a full commit")]
    NoRevision {
        /// What was asked for.
        at: Box<Location>,
    },
    /// The repository has no such file.
    #[error("{at}: the repository has no such file{advice}")]
    NoFile {
        /// What was asked for.
        at: Box<Location>,
        /// What it means or what to do, from `; ` on, or nothing.
        advice: &'static str,
    },
    /// The Hub refused.
    #[error("{at}: the Hub refused with status {status}{}; {advice}", said(message))]
    Denied {
        /// What was asked for.
        at: Box<Location>,
        /// The HTTP status: 401 or 403.
        status: u16,
        /// The Hub's words, empty if it gave none.
        message: String,
        /// What to do.
        advice: &'static str,
    },
    /// A token that cannot be sent.
    #[error("HF_TOKEN or the token file holds characters that no token has; log in again or unset it")]
    Token,
    /// Asking the Hub is forbidden, and the cache lacks something.
    #[error(
        "{at}: not in the cache at {}, and HF_HUB_OFFLINE forbids to ask the Hub; \
         unset it, fetch the files where there is a network, or point HF_HOME to a cache that has them",
        cache.display()
    )]
    NotCached {
        /// What was looked for.
        at: Box<Location>,
        /// The cache.
        cache: PathBuf,
    },
    /// Weights only as pickles.
    #[error(
        "{at}: the weights are only there as pickles ({files}), and reading a pickle can run any code; \
         use a repository or revision with safetensors, or convert them on a machine you can spare"
    )]
    Pickle {
        /// What was asked for.
        at: Box<Location>,
        /// The pickles' names.
        files: String,
    },
    /// No weights under the names that transformers gives them.
    #[error("{at}: wanted model.safetensors or model.safetensors.index.json, found {found}")]
    NoWeights {
        /// What was asked for.
        at: Box<Location>,
        /// The files at the top of the repository.
        found: String,
    },
    /// An index of shards that cannot be followed.
    #[error("{at}: {reason}")]
    Index {
        /// The index.
        at: Box<Location>,
        /// What is wrong with it.
        reason: String,
    },
    /// What arrived is not what the Hub lists. Nothing of it is kept.
    #[error(
        "{at}: wanted {want}, {got} arrived; nothing of it was kept. The connection broke or something between answered \
         in the Hub's place: try again"
    )]
    Damaged {
        /// The file.
        at: Box<Location>,
        /// The size or digest that the Hub lists.
        want: String,
        /// That of what arrived.
        got: String,
    },
    /// An answer that is none.
    #[error("{at}: the Hub's answer cannot be used: {reason}; is HF_ENDPOINT a Hub?")]
    Answer {
        /// What was asked for.
        at: Box<Location>,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The Hub wants fewer questions.
    #[error(
        "{at}: the Hub asks to slow down{}; wait and run the same again: what is done is kept{}",
        after.map(|after| format!(", for {} s", after.as_secs())).unwrap_or_default(),
        if *has_token { "" } else { "; with a token in HF_TOKEN it allows more" }
    )]
    Busy {
        /// What was asked for.
        at: Box<Location>,
        /// How long to wait.
        after: Option<std::time::Duration>,
        /// Whether it knows who asks.
        has_token: bool,
    },
    /// Somebody else has changed the repository meanwhile.
    #[error("{at}: somebody else changed the repository meanwhile{}; run the same again", said(message))]
    Moved {
        /// What was asked for.
        at: Box<Location>,
        /// The Hub's words, empty if it gave none.
        message: String,
    },
    /// Publishing while asking is forbidden.
    #[error("{at}: HF_HUB_OFFLINE forbids to ask the Hub, and publishing must; unset it")]
    Offline {
        /// Where to.
        at: Box<Location>,
    },
    /// Publishing without a name.
    #[error("{at}: publishing needs a token: set HF_TOKEN to one that may write, or log in with `hf auth login`")]
    NoToken {
        /// Where to.
        at: Box<Location>,
    },
    /// A private publication to where everybody reads.
    #[error(
        "{at}: the repository is there and public, wanted a private one; make it private on its page, or name another"
    )]
    Public {
        /// Where to.
        at: Box<Location>,
    },
    /// The Hub could not be asked, or said something unforeseen.
    #[error("{at}: the request failed; HF_HUB_OFFLINE=1 uses what is cached")]
    Request {
        /// What was asked for.
        at: Box<Location>,
        /// What the client says.
        #[source]
        cause: Box<HFError>,
    },
    /// A file or folder on this machine.
    #[error("{}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system says.
        #[source]
        cause: io::Error,
    },
}

impl HubError {
    /// For `map_err`: what the system said of `path`.
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self::Io { path: path.to_owned(), cause }
    }
}

/// What the server said, in brackets.
fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(" ({message})") }
}
