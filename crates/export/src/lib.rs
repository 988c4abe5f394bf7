//! What stock engines load, made of a checkpoint: one module a layout.

mod error;
pub mod gguf;
pub mod vllm;

pub use error::ExportError;
