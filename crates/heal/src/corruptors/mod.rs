//! What becomes of a sequence of tokens before the model is to predict it: one file a corruptor.

pub mod causal;
pub mod ul2;

use serde_json::Value;
use taper_base::registry::{self, Entry, MethodError};

/// A sequence to train on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// What the model sees.
    pub input: Vec<u32>,
    /// The token that each place is to predict, none if it is not to be learnt.
    pub targets: Vec<Option<u32>>,
    /// For each place the first place that it sees: what comes before is another document, or 0.
    pub first: Vec<u32>,
}

/// What a corruptor is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence<'a> {
    /// Tokens of one or several documents, one after the other.
    pub ids: &'a [u32],
    /// Where documents start, besides 0: ascending, below the number of tokens.
    pub starts: &'a [usize],
    /// Size of the vocabulary.
    pub vocab: usize,
    /// Seed of the run.
    pub seed: u64,
    /// Number of the sequence in the run: with `seed` the address of its random numbers.
    pub index: u64,
}

/// A way to make an example of a sequence.
pub trait Corruptor: Send + Sync + std::fmt::Debug {
    /// The example, no longer than the sequence. Documents do not see one another if `apart`.
    fn example(&self, sequence: Sequence<'_>, apart: bool) -> Example;
}

/// All corruptors, sorted by name.
pub const ALL: &[Entry<dyn Corruptor>] = &[causal::ENTRY, ul2::ENTRY];

/// The corruptor `name` with its parameters, `Null` for none.
///
/// # Errors
/// [`MethodError`] naming the nearest known name, or the parameter that is wrong.
pub fn build(name: &str, params: &Value) -> Result<Box<dyn Corruptor>, MethodError> {
    registry::build("corruptor", ALL, name, params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_unique_and_match_files() {
        let names: Vec<_> = ALL.iter().map(|entry| entry.name).collect();
        assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
        assert_eq!(names, testkit::method_files(env!("CARGO_MANIFEST_DIR"), "src/corruptors"));
        assert!(names.iter().all(|name| build(name, &Value::Null).is_ok()));
    }
}
