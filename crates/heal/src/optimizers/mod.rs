//! How a gradient changes a parameter: one file an optimizer.

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
    /// Gradient of the loss.
    pub gradient: &'a [f32],
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
pub const ALL: &[Entry<dyn Optimizer>] = &[];

/// The optimizer `name` with its parameters, `Null` for none.
///
/// # Errors
/// [`MethodError`] naming the nearest known name, or the parameter that is wrong.
pub fn build(name: &str, params: &Value) -> Result<Box<dyn Optimizer>, MethodError> {
    registry::build("optimizer", ALL, name, params)
}
