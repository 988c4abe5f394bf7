//! Strategies that ask for candidates and are told their scores; they know no tensor.
//!
//! A [`Strategy`] is a member of the family, parameters and all; [`Strategy::start`] makes of it a running [`Search`] over
//! one [`Problem`]. A search is a pure function of its seed and of the scores it is told, so a killed one is resumed by
//! replay: ask, tell what the store knows, ask again.

mod archive;
pub mod methods;
mod parameters;
mod problem;
mod racing;

use taper_arch::{ArchError, Architecture, Provenance, SubBlock};
use taper_base::registry::{self, Entry, MethodError};

pub use problem::{Importance, Problem};
pub use racing::{Dropping, Expected, Race, Raced, Racing, Rule};

/// A candidate and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// What is to be scored.
    pub architecture: Architecture,
    /// How it was made.
    pub provenance: Provenance,
}

/// A family member: parameters, parsed and checked.
pub trait Strategy: Send + Sync + std::fmt::Debug {
    /// Candidates it will ask for in all, at most.
    fn trials(&self) -> u64;

    /// A search over `problem`, before its first generation.
    ///
    /// # Errors
    /// [`SearchError::Arch`] if the space or the budget cannot be met, [`SearchError::Importance`] and
    /// [`SearchError::Blocks`] if the importance does not belong to the model.
    fn start(&self, problem: Problem) -> Result<Box<dyn Search>, SearchError>;
}

/// A running search. Deterministic: the same seed and the same scores told give the same proposals.
pub trait Search: Send {
    /// The next generation, never an architecture already asked for or twice in one generation; empty when the search is
    /// over.
    ///
    /// # Errors
    /// [`SearchError::Untold`] if the generation before has no scores yet.
    fn ask(&mut self) -> Result<Vec<Proposal>, SearchError>;

    /// Scores (higher is better; `None` could not be scored and is worse than any) of the proposals asked last, in order.
    /// Scores from [`Self::threshold`] on are exact, given all exact ones; one below it may be an estimate below it.
    ///
    /// # Errors
    /// [`SearchError::Scores`] for another number of scores than of proposals, [`SearchError::Score`] for one that is not
    /// finite. The search is then as before.
    fn tell(&mut self, scores: &[Option<f64>]) -> Result<(), SearchError>;

    /// Best so far; ties go to the earlier one.
    fn best(&self) -> Option<(&Architecture, f64)>;

    /// What a proposal asked last must score to matter, if others asked with it have the exact scores `known`: below it,
    /// neither what is asked next nor [`Self::best`] depends on its score. None as long as every score matters.
    fn threshold(&self, known: &[f64]) -> Option<f64>;
}

/// All strategies, sorted by name.
pub const ALL: &[Entry<dyn Strategy>] = &[methods::evolution::ENTRY, methods::random::ENTRY, methods::uniform::ENTRY];

/// Builds the strategy `name`.
///
/// # Errors
/// [`MethodError`] with the nearest known name, or with what is wrong in `params`.
pub fn build(name: &str, params: &serde_json::Value) -> Result<Box<dyn Strategy>, MethodError> {
    registry::build("strategy", ALL, name, params)
}

/// All ways to spend less on candidates that do not matter, sorted by name.
pub const FIDELITIES: &[Entry<Racing>] = &[racing::ENTRY];

/// Builds the fidelity `name`.
///
/// # Errors
/// As [`build`].
pub fn fidelity(name: &str, params: &serde_json::Value) -> Result<Racing, MethodError> {
    registry::build("fidelity", FIDELITIES, name, params).map(|racing| *racing)
}

/// What a search refuses.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// An importance that none can be.
    #[error("importance of block {block}, {half}, is {got}, wanted a finite number of 0 or more")]
    Importance {
        /// The block, from 0.
        block: usize,
        /// Which half of it.
        half: SubBlock,
        /// The value given.
        got: f64,
    },
    /// Importance of another model.
    #[error("importance has {got} blocks, the model {want}")]
    Blocks {
        /// Blocks of the model.
        want: usize,
        /// Blocks of the importance.
        got: usize,
    },
    /// Asked twice in a row.
    #[error("asked again before {pending} proposals were told their scores")]
    Untold {
        /// Proposals without a score.
        pending: usize,
    },
    /// Not one score for each proposal.
    #[error("{got} scores for {want} proposals")]
    Scores {
        /// Proposals asked last.
        want: usize,
        /// Scores told.
        got: usize,
    },
    /// A score that cannot be compared.
    #[error("score {index} of the generation is {got}, wanted a finite number or none")]
    Score {
        /// Place in the generation, from 0.
        index: usize,
        /// The value told.
        got: f64,
    },
    /// The search space, or the budget in it.
    #[error(transparent)]
    Arch(#[from] ArchError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_unique_and_match_files() {
        let names: Vec<_> = ALL.iter().map(|entry| entry.name).collect();
        assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
        assert_eq!(names, testkit::method_files(env!("CARGO_MANIFEST_DIR"), "src/methods"));
    }

    #[test]
    fn every_strategy_builds_with_defaults_and_unknown_names_get_a_hint() {
        for entry in ALL {
            let trials = build(entry.name, &serde_json::Value::Null).unwrap().trials();
            assert_eq!(trials, if entry.name == "uniform" { 64 } else { 1500 }, "{}", entry.name);
        }
        let refusal = build("evoluton", &serde_json::Value::Null).unwrap_err().to_string();
        assert_eq!(
            refusal,
            "unknown strategy `evoluton`, did you mean `evolution`?; known: evolution, random, uniform"
        );
    }
}
