//! Why a candidate could not be scored.

use taper_arch::ArchError;
use taper_model::ModelError;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The pass did not compute what the proxy looks at.
    #[error("{proxy}: {what} was not observed")]
    NotObserved {
        /// The proxy.
        proxy: &'static str,
        /// What is missing.
        what: &'static str,
    },
    /// The candidate does not fit the model.
    #[error("candidate")]
    Candidate {
        /// Which block, and why.
        #[source]
        cause: ArchError,
    },
    /// The pass failed.
    #[error("pass over the tokens")]
    Pass {
        /// Where, and why.
        #[source]
        cause: ModelError,
    },
    /// No nested parts.
    #[error("parts of {got:?} sequences, wanted rising numbers up to {sequences}")]
    Parts {
        /// Sequences of each part.
        got: Vec<usize>,
        /// Sequences of the batch.
        sequences: usize,
    },
    /// A part that cannot be looked at, or not any more.
    #[error("part {part} was asked for, wanted {least} to below {count}")]
    Part {
        /// The part asked for, from 0.
        part: usize,
        /// The next one.
        least: usize,
        /// Parts in all.
        count: usize,
    },
    /// A sketch without a dimension.
    #[error("sketch rank is {rank}, wanted 1 to {most}")]
    Rank {
        /// The rank asked for.
        rank: usize,
        /// The model's width: more is not a sketch.
        most: usize,
    },
}

impl From<ModelError> for ProxyError {
    fn from(cause: ModelError) -> Self {
        Self::Pass { cause }
    }
}

impl From<ArchError> for ProxyError {
    fn from(cause: ArchError) -> Self {
        Self::Candidate { cause }
    }
}
