//! How a gradient changes a parameter: one file an optimizer.

pub mod adamw;
pub mod lion;
pub mod muon;

use std::ops::Range;

use serde_json::Value;
use taper_base::registry::{self, Entry, MethodError};

/// What a parameter is, as far as optimizers care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind<'a> {
    /// Its shape as it lies in memory, units as rows.
    pub shape: &'a [usize],
    /// A matrix between the streams and units of a sub-block, not embedding, head, norm or bias.
    pub hidden: bool,
    /// Whether it lies in memory transposed to the form that checkpoints (and papers) have: `[d_out, d_in]`.
    pub transposed: bool,
}

/// A parameter to be updated, and all that goes with it; all of one length, row by row.
#[derive(Debug)]
pub struct Slot<'a> {
    /// What it is.
    pub kind: Kind<'a>,
    /// Its values.
    pub weight: &'a mut [f32],
    /// Gradient of the loss, to be multiplied with `scale` first.
    pub gradient: &'a [f32],
    /// What clips the gradient; 1 if nothing does.
    pub scale: f32,
    /// The optimizer's own buffers, as many as [`Optimizer::buffers`] says, zero before the first step.
    pub state: &'a mut [Vec<f32>],
}

/// A rule of updates. Same slot, same result, whatever the number of threads.
pub trait Optimizer: Send + Sync + std::fmt::Debug {
    /// How many buffers of its length a parameter needs.
    fn buffers(&self, kind: Kind<'_>) -> usize;

    /// Changes the parameter by step `step` (from 1) at learning rate `rate`.
    fn update(&self, slot: Slot<'_>, step: u64, rate: f64);
}

/// All optimizers, sorted by name.
pub const ALL: &[Entry<dyn Optimizer>] = &[adamw::ENTRY, lion::ENTRY, muon::ENTRY];

/// The optimizer `name` with its parameters, `Null` for none.
///
/// # Errors
/// [`MethodError`] naming the nearest known name, or the parameter that is wrong.
pub fn build(name: &str, params: &Value) -> Result<Box<dyn Optimizer>, MethodError> {
    registry::build("optimizer", ALL, name, params)
}

/// What a weight is multiplied with for its decay: matrices alone have one.
fn decay(kind: Kind<'_>, rate: f64, decay: f64) -> f32 {
    if kind.shape.len() == 2 { (1.0 - rate * decay) as f32 } else { 1.0 }
}

fn within(method: &'static str, key: &str, value: f64, range: Range<f64>) -> Result<(), MethodError> {
    if range.contains(&value) {
        return Ok(());
    }
    let most = if range.end.is_finite() { format!(" and less than {}", range.end) } else { String::new() };
    Err(MethodError::Parameters { method, reason: format!("{key} is {value}, wanted {} or more{most}", range.start) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_unique_and_match_files() {
        let names: Vec<_> = ALL.iter().map(|entry| entry.name).collect();
        assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
        assert_eq!(names, testkit::method_files(env!("CARGO_MANIFEST_DIR"), "src/optimizers"));
        for name in names {
            assert!(build(name, &Value::Null).is_ok());
            let refusal = build(name, &serde_json::json!({"weight_decay": -1.0})).map(|_| ()).unwrap_err().to_string();
            assert_eq!(refusal, format!("{name}: weight_decay is -1, wanted 0 or more"));
        }
    }
}
