//! Where the backward pass hands over what gradients are made of.

use std::collections::BTreeMap;

use taper_kernels::{
    Result, Tensor, accumulate, add_unit_gradient, column_dots, column_sums, cpu, from_units,
    layer_norm_parameter_gradients, rms_norm_weight_gradient, scatter_rows, unit_gradient,
};

use crate::{Parameter, Place};

/// A parameter's gradient, not yet formed: the sink decides what of it is worth computing.
#[derive(Debug)]
pub enum Gradient<'a> {
    /// Of a matrix, units as rows: `unitsᵀ · other`.
    Matrix {
        /// `[tokens, units]`.
        units: &'a Tensor,
        /// `[tokens, d_model]`.
        other: &'a Tensor,
        /// The weight, `[units, d_model]`.
        weight: &'a Tensor,
    },
    /// Of a bias: the column sums of `dy`.
    Bias {
        /// `[tokens, d]`.
        dy: &'a Tensor,
    },
    /// Of an RMSNorm's weight.
    Norm {
        /// Its input, `[…, d]`.
        x: &'a Tensor,
        /// Its `eps`.
        eps: f64,
        /// Gradient of its output.
        dy: &'a Tensor,
    },
    /// Of a LayerNorm's weight.
    LayerNorm {
        /// Its input, `[…, d]`.
        x: &'a Tensor,
        /// Its `eps`.
        eps: f64,
        /// Gradient of its output.
        dy: &'a Tensor,
    },
    /// Of the factors of a sub-block's result `y = units · weight + bias`: the column sums of `dy · y`.
    Scale {
        /// `[tokens, units]`.
        units: &'a Tensor,
        /// `[units, d_model]`.
        weight: &'a Tensor,
        /// `[d_model]`.
        bias: Option<&'a Tensor>,
        /// Gradient of the product with the factors, `[tokens, d_model]`.
        dy: &'a Tensor,
    },
    /// Of the embedding: row `t` of `dy` belongs to row `ids[t]`.
    Rows {
        /// One a token.
        ids: &'a [u32],
        /// `[tokens, d_model]`.
        dy: &'a Tensor,
        /// Rows of the embedding.
        vocab: usize,
    },
}

impl Gradient<'_> {
    /// The gradient itself; of a matrix, units as rows.
    ///
    /// # Errors
    /// What the operation says.
    pub fn form(&self) -> Result<Tensor> {
        match self {
            Self::Matrix { units, other, .. } => unit_gradient(units, other),
            Self::Bias { dy } => column_sums(dy),
            Self::Norm { x, eps, dy } => rms_norm_weight_gradient(x, *eps, dy),
            Self::LayerNorm { x, eps, dy } => Ok(layer_norm_parameter_gradients(x, *eps, dy)?.0),
            Self::Scale { units, weight, bias, dy } => column_dots(&from_units(None, &[(units, weight)], *bias)?, dy),
            Self::Rows { ids, dy, vocab } => scatter_rows(ids, dy, *vocab),
        }
    }

    /// Adds the gradient to `sum`, in place: whoever shares that tensor sees it.
    ///
    /// # Errors
    /// What the operation says.
    pub fn add_to(&self, sum: &Tensor) -> Result<()> {
        match self {
            Self::Matrix { units, other, .. } => add_unit_gradient(sum, units, other),
            Self::Rows { ids, dy, .. } if sum.machine().is_none() => {
                cpu::add_rows(sum.host("gradient")?, ids, dy.host("gradient")?)
            }
            _ => accumulate(sum, &self.form()?),
        }
    }
}

/// Takes what the backward pass comes by, in the order of the pass: last block first. A parameter may come more than once
/// (micro-batches, pieces of the head, a tied head and its embedding); its gradient is the sum.
pub trait Sink {
    /// Takes `gradient` of the parameter at `place`.
    ///
    /// # Errors
    /// Whatever the operations on it return.
    fn take(&mut self, place: Place, gradient: Gradient<'_>) -> Result<()>;
}

/// Forms and sums every gradient. A tied head's goes to the embedding.
#[derive(Debug, Default)]
pub struct Gradients {
    /// By place; o and down transposed to their stored form, as all matrices of sub-blocks are units by `d_model`.
    pub by_place: BTreeMap<Place, Tensor>,
    /// Whether the model's head is its embedding.
    pub tied_head: bool,
}

impl Sink for Gradients {
    fn take(&mut self, mut place: Place, gradient: Gradient<'_>) -> Result<()> {
        if self.tied_head && place.parameter == Parameter::Head {
            place.parameter = Parameter::Embedding;
        }
        match self.by_place.get(&place) {
            Some(sum) => gradient.add_to(sum),
            None => {
                self.by_place.insert(place, gradient.form()?);
                Ok(())
            }
        }
    }
}
