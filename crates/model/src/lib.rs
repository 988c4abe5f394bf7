//! Checkpoints: read, run forward and backward, cut, save. Llama, Mistral, Qwen2 and Qwen3, told apart by data.
//!
//! [`Checkpoint`] (files, checked) → [`Model`] (weights, units as rows) → [`Model::cut`] (views) → losses, gradients, files.

mod attention;
mod checkpoint;
mod config;
mod cut;
mod decode;
mod engine;
mod error;
mod gradient;
mod header;
mod importance;
mod load;
mod machine;
mod memory;
mod mlp;
mod model;
mod parameter;
mod pass;
mod save;
mod tree;

pub use checkpoint::Checkpoint;
pub use config::read as spec_of;
pub use decode::{Decoder, Part, Passed, greedy};
pub use engine::{Batch, Observer};
pub use error::{ModelError, Result};
pub use gradient::{Gradient, Gradients, Sink};
pub use importance::{Calibration, calibrate};
pub use memory::PassMemory;
pub use model::{Model, rope_frequencies};
pub use parameter::{Parameter, Place, parameter_count, parameters};
pub use pass::{Branches, Pass, PassOptions, Recompute, Slopes};
pub use save::{StoredType, save};
pub use tree::{Continuation, Scored, new_tokens};
