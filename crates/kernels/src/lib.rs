//! Forward and backward of every operation the engine is made of.
//!
//! Each operation is a pair of plain functions, not a node of a graph: the engine calls the backward itself, block by
//! block, and forms only the gradients somebody asked for. candle's `Tensor::backward` would form both operands'
//! gradients of each product and keep every activation alive.
//!
//! An operation takes and returns [`Tensor`]s, and runs where they lie: by its form in [`cpu`], or by its launcher in
//! [`cuda`].

mod accumulate;
mod activation;
mod attention;
mod blocked;
pub mod cpu;
pub mod cuda;
mod decode;
mod dispatch;
mod embedding;
mod exp;
mod few;
mod gelu;
mod host;
mod layer_norm;
mod linear;
mod loss;
mod matrix;
mod moments;
mod norm;
mod pending;
mod rope;
pub mod rows;
mod scale;
mod scores;
mod simd;
mod stats;
mod tensor;
mod tree;
pub mod update;

use candle_core::Device;

pub use attention::{Heads, Sight};
pub use blocked::PACKED;
pub use dispatch::*;
pub use gelu::Gelu;
pub use host::TILE;
pub use loss::LOGITS;
pub use moments::Moments;
pub use pending::Pending;
pub use rope::Turn;
pub use scores::TokenScore;
pub use tensor::Tensor;
pub use tree::{Run, Tree};

/// Why an operation could not run.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A tensor of the wrong size.
    #[error("{op}: {what} has shape {got:?}, wanted {want}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// Which argument.
        what: &'static str,
        /// Its shape.
        got: Vec<usize>,
        /// What was wanted.
        want: String,
    },
    /// A tensor that is not contiguous `f32`.
    #[error("{op}: wanted contiguous f32, got {got}")]
    Layout {
        /// The operation.
        op: &'static str,
        /// Type and contiguity found.
        got: String,
    },
    /// No kernel for this device.
    #[error("{op}: no kernel for {device:?}")]
    Device {
        /// The operation.
        op: &'static str,
        /// The tensor's device.
        device: Device,
    },
    /// Operands on several devices, or an operation that has no form for the one they lie on.
    #[error("{op}: operands on several devices, or on one that the operation cannot use")]
    Places {
        /// The operation.
        op: &'static str,
    },
    /// What a GPU, or its driver, says.
    #[error(transparent)]
    Cuda(#[from] cuda::CudaError),
    /// candle refused.
    #[error("{op}")]
    Tensor {
        /// The operation.
        op: &'static str,
        /// candle's reason.
        #[source]
        cause: candle_core::Error,
    },
}

/// Result of an operation.
pub type Result<T> = std::result::Result<T, KernelError>;
