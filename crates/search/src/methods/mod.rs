//! One file or folder a strategy.

pub mod evolution;
pub mod random;
pub mod uniform;
