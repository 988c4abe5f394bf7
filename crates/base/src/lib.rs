//! What every taper crate shares: units as types, the method registry, a counter-based RNG, fingerprints, atomic
//! files and the progress sink. Knows nothing of models, data or search.

pub mod files;
pub mod fingerprint;
pub mod heap;
pub mod progress;
pub mod registry;
pub mod rng;
pub mod units;
pub mod workers;

pub use fingerprint::Fingerprint;
pub use units::{Bytes, Flops, Nanos, Parameters};
