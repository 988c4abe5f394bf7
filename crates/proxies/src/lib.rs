//! Scores of a candidate without training it.
//!
//! A [`Proxy`] says what it [`Needs`] to see; [`Base`] looks once at the whole model and then, by one pass each, at
//! candidates; the proxy turns an [`Observation`] into a number. So all proxies share one pass, and a proxy is arithmetic.

mod base;
mod error;
pub mod methods;
mod observation;
mod parts;
mod pass;
mod plan;
mod sketch;
mod trace;

use std::fmt;

use serde_json::Value;
use taper_base::registry::{self, Entry, MethodError};

pub use base::{Base, Settings};
pub use error::ProxyError;
pub use observation::{Observation, Seen};
pub use parts::Parts;
pub use pass::Pass;
pub use plan::{Load, Plan};

/// What is to be computed for a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// The loss: a forward pass.
    pub loss: bool,
    /// The correlation of gradients with the whole model's: a backward pass.
    pub trace: Option<Projection>,
    /// Norm and saliency of the dense gradient: a backward pass, and every weight gradient formed.
    pub magnitudes: bool,
    /// The sum of the weights' magnitudes: no pass.
    pub weights: bool,
}

/// In which form gradients are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Projection {
    /// All entries.
    Dense,
    /// A random projection of each unit's gradient to this many numbers.
    Rank(usize),
}

/// A score without training; higher is better.
pub trait Proxy: Send + Sync + fmt::Debug {
    /// What it looks at.
    fn needs(&self) -> Needs;

    /// The score of what was seen.
    ///
    /// # Errors
    /// [`ProxyError::NotObserved`] if `seen` lacks what [`Proxy::needs`] names.
    fn score(&self, seen: &Observation) -> Result<f64, ProxyError>;
}

/// All proxies, sorted by name.
pub const ALL: &[Entry<dyn Proxy>] = &[
    methods::gradient_norm::ENTRY,
    methods::gradient_trace::ENTRY,
    methods::loss::ENTRY,
    methods::parameters::ENTRY,
    methods::random::ENTRY,
    methods::synaptic_saliency::ENTRY,
    methods::weight_magnitude::ENTRY,
];

/// The proxy `name` with its parameters, `Null` for none.
///
/// # Errors
/// [`MethodError`] naming the nearest known name, or the parameter that is wrong.
pub fn build(name: &str, params: &Value) -> Result<Box<dyn Proxy>, MethodError> {
    registry::build("proxy", ALL, name, params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_unique_and_match_files() {
        let names: Vec<_> = ALL.iter().map(|entry| entry.name).collect();
        assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
        assert_eq!(names, testkit::method_files(env!("CARGO_MANIFEST_DIR"), "src/methods"));
        assert!(names.iter().all(|name| build(name, &Value::Null).is_ok()));
    }
}
