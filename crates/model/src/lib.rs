//! Checkpoints: read, run forward and backward, cut, save. Language models (Llama, Mistral, Qwen2, Qwen3) and classifiers of
//! images (ViT, DeiT, DINOv2), told apart by data.
//!
//! [`Checkpoint`] (files, checked) → [`Model`] (weights, units as rows) → [`Model::cut`] (views) → losses, gradients, files.

mod attention;
mod batch;
mod checkpoint;
mod config;
mod cut;
mod decode;
mod engine;
mod error;
mod gradient;
mod header;
mod images;
mod importance;
mod load;
mod machine;
mod memory;
mod mlp;
mod model;
mod names;
mod norm;
mod parameter;
mod pass;
mod resolution;
mod save;
mod tree;

pub use batch::Batch;
pub use checkpoint::Checkpoint;
pub use config::read as spec_of;
pub use decode::{Decoder, Part, Passed, greedy};
pub use engine::Observer;
pub use error::{ModelError, Result};
pub use gradient::{Gradient, Gradients, Sink};
pub use importance::{Calibration, calibrate};
pub use memory::PassMemory;
pub use model::{Model, rope_frequencies};
pub use parameter::{Parameter, Place, parameter_count, parameters};
pub use pass::{Branches, Pass, PassOptions, Recompute, Slopes};
pub use save::{StoredType, save};
pub use tree::{Continuation, Scored, new_tokens};
