//! The operations on the CPU, on candle tensors: `f32`, contiguous unless a function says otherwise. Reductions run over
//! fixed pieces in a fixed order, so results do not depend on the number of threads.

pub use crate::accumulate::accumulate;
pub use crate::activation::{swiglu, swiglu_backward};
pub use crate::attention::{Attended, attention, attention_backward};
pub use crate::decode::{KvCache, decode_attention};
pub use crate::embedding::{add_rows, gather_rows, scatter_rows};
pub use crate::gelu::{geglu, geglu_backward, gelu, gelu_backward};
pub use crate::host::{Host as Values, change};
pub use crate::layer_norm::{layer_norm, layer_norm_backward, layer_norm_parameter_gradients};
pub use crate::linear::{add_unit_gradient, column_sums, from_units, into_units, set_unit_gradient, unit_gradient};
pub use crate::loss::{HeadGradients, LOGITS, cross_entropy, logits_in_pieces, through_head, token_losses};
pub use crate::norm::{rms_norm, rms_norm_backward, rms_norm_weight_gradient};
pub use crate::rope::Rope;

pub use crate::scale::{column_dots, scale_columns, scale_sequences};
pub use crate::scores::token_scores;
pub use crate::stats::{abs_product_sum, column_square_sums, row_abs_sums, square_sum};
pub use crate::tree::tree_attention;
