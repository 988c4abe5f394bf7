//! The operations on a GPU: launchers of `kernels/*.cu`, with the shapes of their CPU twins.
//!
//! A [`Machine`] holds memory and runs commands. `Device` is the real one (feature `cuda`); the tests bring a second one
//! that runs the same sources on the host, so everything here but `device.rs` is proven without a GPU. Values are stored
//! as bf16 or f32, and summed in f32; statistics in f64. No kernel uses atomics: the same input gives the same bits.

mod add;
mod array;
mod attention;
#[cfg(feature = "cuda")]
mod device;
mod embedding;
mod error;
mod gate;
mod launch;
mod linear;
mod loss;
mod machine;
mod norm;
mod parts;
mod rope;
mod scale;
mod stats;

pub use add::{accumulate, add, add_bias};
pub use array::{Array, Kind};
pub use attention::{Attended, attention, attention_backward};
#[cfg(feature = "cuda")]
pub use device::Device;
pub use embedding::{gather_rows, scatter_rows};
pub use error::{CudaError, Result};
pub use gate::{Activation, activation_backward, gate, gate_backward};
pub use linear::{add_unit_gradient, from_units, into_units, set_unit_gradient, unit_gradient};
pub use loss::{
    HeadGradients, LOGITS, Predictions, cross_entropy, logits_in_pieces, predictions, through_head, token_losses,
};
pub use machine::{Argument, Command, Launch, Machine, Matrix, Product, Transfer};
pub use norm::{Norm, layer_norm, layer_norm_backward, norm_weight_gradient, rms_norm, rms_norm_backward};
pub use rope::Rope;
pub use scale::{column_dots, scale_sequences};
pub use stats::{Coming, Sums, column_square_sums, column_sums, moments, row_abs_sums};
pub use taper_nvrtc::{Module, Storage};
