//! Why a run stopped.

use std::path::PathBuf;

use taper_arch::ArchError;
use taper_arch::budget::Counted;
use taper_base::registry::MethodError;
use taper_data::DataError;
use taper_eval::EvalError;
use taper_eval::harness::HarnessError;
use taper_export::ExportError;
use taper_heal::HealError;
use taper_hub::HubError;
use taper_kernels::cuda::CudaError;
use taper_model::ModelError;
use taper_proxies::ProxyError;
use taper_search::SearchError;

use crate::recipe::RecipeError;
use crate::run_dir::RunDirError;
use crate::store::StoreError;

/// Whatever the crates below say, and what only a run can find out.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The recipe.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// The run folder.
    #[error(transparent)]
    Run(#[from] RunDirError),
    /// The trial store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The device that the recipe asks for.
    #[error("device: cuda")]
    Device {
        /// What is missing.
        #[source]
        cause: CudaError,
    },
    /// Fetching or exporting.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The checkpoint or the engine.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Text and tokens.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Architecture, space or budget.
    #[error(transparent)]
    Arch(#[from] ArchError),
    /// A method's name or parameters.
    #[error(transparent)]
    Method(#[from] MethodError),
    /// A candidate's pass.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The strategy.
    #[error(transparent)]
    Search(#[from] SearchError),
    /// Evaluation.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// Tasks.
    #[error(transparent)]
    Harness(#[from] HarnessError),
    /// A layout for another engine.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// Healing.
    #[error(transparent)]
    Heal(#[from] HealError),
    /// A file of ours.
    #[error("{}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system says.
        #[source]
        cause: std::io::Error,
    },
    /// A file of ours, or given by the user, that does not hold what it should.
    #[error("{}: {reason}", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The tokenizer and the model do not belong together.
    #[error("{}: the tokenizer has {tokens} tokens, the model's embedding {vocab} rows", dir.display())]
    Vocabulary {
        /// The model's folder.
        dir: PathBuf,
        /// Ids the tokenizer may give.
        tokens: usize,
        /// Ids the model takes.
        vocab: usize,
    },
    /// Sequences longer than the model was made for.
    #[error("{what} is {got} tokens, the model was made for {most}")]
    TooLong {
        /// Which setting.
        what: &'static str,
        /// Its value.
        got: usize,
        /// The model's context.
        most: usize,
    },
    /// Text for a model of images, or the other way round.
    #[error("the model reads {reads}, and is given `{given}`")]
    OtherData {
        /// What the model reads.
        reads: &'static str,
        /// What it is given.
        given: &'static str,
    },
    /// A loss that cannot be worked with.
    #[error("{what} is {found}: the numbers inside the model overflow on this data")]
    NotFinite {
        /// Which loss.
        what: String,
        /// Infinite or NaN.
        found: f64,
    },
    /// Racing by a proxy that costs nothing.
    #[error("search.fidelity: the proxy `{proxy}` looks at no tokens, so there are none to save")]
    NothingToSave {
        /// The proxy.
        proxy: String,
    },
    /// No candidate got a score.
    #[error("none of {trials} candidates could be scored")]
    NothingScored {
        /// Candidates tried.
        trials: u64,
    },
    /// No training to go on with.
    #[error("{}: no training with these models, texts and settings was begun here", dir.display())]
    NothingToResume {
        /// The folder.
        dir: PathBuf,
    },
    /// A result that another training has made.
    #[error("{}: the result of another training, with other models, texts or settings", dir.display())]
    OtherResult {
        /// The result's folder.
        dir: PathBuf,
    },
    /// Worker threads could not be started.
    #[error("{threads} worker threads")]
    Threads {
        /// How many were wanted.
        threads: usize,
        /// Why not.
        #[source]
        cause: rayon::ThreadPoolBuildError,
    },
}

impl PipelineError {
    /// What a user can do about it, if that is known and the message does not say so already.
    /// `in_recipe`: whether it came up in a recipe's run.
    pub fn help(&self, in_recipe: bool) -> Option<&'static str> {
        const PATHS: &str = "relative paths in a recipe start at the recipe's folder";
        match self {
            Self::Arch(ArchError::Infeasible { counted: Counted::Latency, .. }) => {
                Some("set `budget.latency` between these limits, or let `space` take away more")
            }
            Self::Arch(ArchError::Infeasible { .. }) => {
                Some("set `budget.params` between these limits, or let `space` take away more")
            }
            Self::NothingToResume { .. } => Some("without `--resume` it begins anew"),
            Self::OtherResult { .. } => Some("give another `--out`, or throw it away with `--fresh`"),
            Self::Device { .. } => Some("`device: cpu` runs without a GPU; `auto` takes one if there is one"),
            Self::Hub(HubError::NoFolder { .. }) => in_recipe.then_some(PATHS),
            Self::Data(DataError::Read { cause, .. }) => {
                (in_recipe && cause.kind() == std::io::ErrorKind::NotFound).then_some(PATHS)
            }
            Self::Harness(HarnessError::Read { cause, .. }) => {
                (in_recipe && cause.kind() == std::io::ErrorKind::NotFound).then_some(PATHS)
            }
            _ => None,
        }
    }
}

/// `value`, if JSON and people can work with it.
pub(crate) fn finite(value: f64, what: impl FnOnce() -> String) -> Result<f64, PipelineError> {
    if value.is_finite() { Ok(value) } else { Err(PipelineError::NotFinite { what: what(), found: value }) }
}

/// For `map_err`: what the system said of `path`.
pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> PipelineError {
    let path = path.into();
    move |cause| PipelineError::Io { path, cause }
}
