//! What stock engines load, made of a checkpoint: one module a layout.

mod error;
pub mod gguf;
pub mod onnx;
pub mod pad;
mod target;
pub mod transformers;
pub mod vllm;

pub use error::ExportError;
pub use target::{Narrowed, Target};
