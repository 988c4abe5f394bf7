//! The operations wherever their operands lie: each goes to its form for the CPU or its launcher. All operands lie on one
//! device; if not, that is [`KernelError::Places`](crate::KernelError::Places).

mod attention;
mod gates;
mod loss;
mod norms;
mod products;
mod sums;

pub use attention::{Attended, Rope, attention, attention_backward};
pub use gates::{geglu, geglu_backward, gelu, gelu_backward, swiglu, swiglu_backward};
pub use loss::{HeadGradients, cross_entropy, logits_in_pieces, predictions, through_head, token_losses};
pub use norms::{
    layer_norm, layer_norm_backward, layer_norm_parameter_gradients, rms_norm, rms_norm_backward,
    rms_norm_weight_gradient,
};
pub use products::{
    add_unit_gradient, from_units, gather_rows, into_units, scatter_rows, set_unit_gradient, unit_gradient,
};
pub use sums::{
    abs_product_sum, accumulate, add, column_dots, column_square_sums, column_sums, moments, row_abs_sums,
    scale_columns, scale_sequences, square_sum,
};
