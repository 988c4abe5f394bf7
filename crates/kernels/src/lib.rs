//! Forward and backward of every operation the engine is made of, on candle tensors.
//!
//! Each operation is a pair of plain functions, not a node of a graph: the engine calls the backward itself, block by
//! block, and forms only the gradients somebody asked for. candle's `Tensor::backward` would form both operands'
//! gradients of each product and keep every activation alive.
//!
//! All tensors are `f32`, contiguous unless a function says otherwise. Reductions run over fixed pieces in a fixed
//! order, so results do not depend on the number of threads.

mod accumulate;
mod activation;
mod attention;
pub mod cuda;
mod decode;
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
mod rope;
mod scores;
mod simd;
mod stats;
mod tree;

use candle_core::Device;

pub use accumulate::accumulate;
pub use activation::{swiglu, swiglu_backward};
pub use attention::{Attended, Heads, attention, attention_backward};
pub use decode::{KvCache, decode_attention};
pub use embedding::{gather_rows, scatter_rows};
pub use gelu::{Gelu, geglu, geglu_backward, gelu, gelu_backward};
pub use host::TILE;
pub use layer_norm::{layer_norm, layer_norm_backward, layer_norm_parameter_gradients};
pub use linear::{add_unit_gradient, column_sums, from_units, into_units, unit_gradient};
pub use loss::{HeadGradients, LOGITS, cross_entropy, token_losses};
pub use moments::Moments;
pub use norm::{rms_norm, rms_norm_backward, rms_norm_weight_gradient};
pub use rope::{Rope, Turn};
pub use scores::{TokenScore, token_scores};
pub use stats::{abs_product_sum, column_square_sums, row_abs_sums, square_sum};
pub use tree::{Run, Tree, tree_attention};

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
