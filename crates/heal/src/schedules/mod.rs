//! How the learning rate goes over a run: one file a schedule.

use serde_json::Value;
use taper_base::registry::{self, Entry, MethodError};

/// A course of the learning rate.
pub trait Schedule: Send + Sync + std::fmt::Debug {
    /// What the peak rate is multiplied with in step `step` (from 0) of `steps`: in [0, 1].
    fn factor(&self, step: u64, steps: u64) -> f64;
}

/// All schedules, sorted by name.
pub const ALL: &[Entry<dyn Schedule>] = &[];

/// The schedule `name` with its parameters, `Null` for none.
///
/// # Errors
/// [`MethodError`] naming the nearest known name, or the parameter that is wrong.
pub fn build(name: &str, params: &Value) -> Result<Box<dyn Schedule>, MethodError> {
    registry::build("schedule", ALL, name, params)
}
