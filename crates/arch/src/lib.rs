//! What a model is and what it may become, as data: [`ModelSpec`], [`Architecture`] (the genome), [`SearchSpace`],
//! [`Budget`], [`Selection`] and exact costs. No tensor, no file format, no method.

mod adjust;
pub mod budget;
pub mod cost;
mod fit;
pub mod genome;
pub mod image;
pub mod latency;
mod price;
mod repair;
pub mod select;
mod slots;
pub mod space;
pub mod spec;
pub mod trial;

pub use budget::{Budget, BudgetRange};
pub use cost::{Costs, Workload, cost};
pub use genome::{Architecture, AttentionGenes, BlockGenes, MlpGenes};
pub use image::{ImageSpec, Pool};
pub use latency::{Generation, LatencyTable};
pub use select::{Candidate, KeptBlock, SelectedAttention, SelectedBlock, Selection, UnitOrder};
pub use space::SearchSpace;
pub use spec::{Activation, AttentionSpec, BlockSpec, Family, MlpSpec, ModelSpec, NormKind, RopeScaling, SubBlock};
pub use trial::{Provenance, Trial};

/// What this crate refuses, with where and why.
#[derive(Debug, thiserror::Error)]
pub enum ArchError {
    /// A dimension that no model has or that costs could not be computed with.
    #[error("{what} is {got}, wanted {want}")]
    Dimension {
        /// Which dimension, and of which block.
        what: String,
        /// The value found.
        got: String,
        /// The values allowed.
        want: String,
    },
    /// An architecture and a model that do not belong together.
    #[error("{place}: {reason}")]
    Mismatch {
        /// Block and sub-block.
        place: String,
        /// What does not fit.
        reason: String,
    },
    /// A text that is no architecture, budget or unit list.
    #[error("`{text}` is not {what}: {reason}")]
    Text {
        /// The text given.
        text: String,
        /// What it was to be.
        what: &'static str,
        /// Why it is not.
        reason: String,
    },
    /// No architecture of the search space fits the budget.
    #[error(
        "no architecture of this search space has {} between {} and {}: it reaches from {} to {}",
        counted.unit(), counted.shown(*least), counted.shown(*most), counted.shown(*smallest), counted.shown(*largest)
    )]
    Infeasible {
        /// What is counted.
        counted: budget::Counted,
        /// Lower end of the budget.
        least: u64,
        /// Upper end of the budget.
        most: u64,
        /// The smallest architecture of the space.
        smallest: u64,
        /// The largest.
        largest: u64,
    },
}
