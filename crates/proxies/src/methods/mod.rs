//! One file a proxy; `ALL` in the crate's root lists them.

pub mod gradient_norm;
pub mod gradient_trace;
pub mod loss;
pub mod parameters;
pub mod random;
pub mod synaptic_saliency;
pub mod weight_magnitude;

use serde::Deserialize;

/// The parameters of a proxy that has none.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoParameters {}
