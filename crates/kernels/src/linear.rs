//! Products with a weight stored unit by unit: `w` `[units, d_model]`, a unit being what pruning keeps or removes.
//!
//! q, k, v, gate and up lead from the residual stream into units ([`into_units`]); o and down, stored transposed, lead
//! back ([`from_units`]). Each is the other's input gradient, and a prefix of units is a contiguous view in both.
//! The weight gradient of either is [`unit_gradient`].

use candle_core::Tensor;

use crate::{KernelError, Result, host};

/// `x · wᵀ + bias`.
///
/// # Shapes
/// `x` `[tokens, d_model]`, `w` `[units, d_model]`, `bias` `[units]`; the result is `[tokens, units]`.
///
/// # Errors
/// If shapes or device do not fit.
pub fn into_units(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    const OP: &str = "into_units";
    let (_, d) = host::rows(OP, "x", x)?;
    check(OP, w, 1, d)?;
    let cause = |cause| KernelError::Tensor { op: OP, cause };
    with_bias(OP, x.matmul(&w.t().map_err(cause)?).map_err(cause)?, bias)
}

/// `h · w + bias`.
///
/// # Shapes
/// `h` `[tokens, units]`, `w` `[units, d_model]`, `bias` `[d_model]`; the result is `[tokens, d_model]`.
///
/// # Errors
/// If shapes or device do not fit.
pub fn from_units(h: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    const OP: &str = "from_units";
    let (_, units) = host::rows(OP, "h", h)?;
    check(OP, w, 0, units)?;
    with_bias(OP, h.matmul(w).map_err(|cause| KernelError::Tensor { op: OP, cause })?, bias)
}

/// `unitsᵀ · other`: the gradient of a weight from the two sides of its product.
///
/// # Shapes
/// `units` `[tokens, units]`, `other` `[tokens, d]`; the result is `[units, d]`.
///
/// # Errors
/// If shapes or device do not fit.
pub fn unit_gradient(units: &Tensor, other: &Tensor) -> Result<Tensor> {
    const OP: &str = "unit_gradient";
    units.t().and_then(|units| units.matmul(other)).map_err(|cause| KernelError::Tensor { op: OP, cause })
}

/// Sum of each column: the gradient of a bias.
///
/// # Shapes
/// `dy` `[tokens, d]`; the result is `[d]`.
///
/// # Errors
/// If shapes or device do not fit.
pub fn column_sums(dy: &Tensor) -> Result<Tensor> {
    dy.sum(0).map_err(|cause| KernelError::Tensor { op: "column_sums", cause })
}

fn check(op: &'static str, w: &Tensor, axis: usize, size: usize) -> Result<()> {
    if w.dims().len() == 2 && w.dims()[axis] == size {
        return Ok(());
    }
    let want = if axis == 1 { format!("[units, {size}]") } else { format!("[{size}, d_model]") };
    Err(host::shape(op, "w", w, want))
}

fn with_bias(op: &'static str, y: Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    bias.map_or(Ok(y.clone()), |bias| y.broadcast_add(bias)).map_err(|cause| KernelError::Tensor { op, cause })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn t(values: &[f32], shape: (usize, usize)) -> Tensor {
        Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
    }

    #[test]
    fn match_hand_computed_products() {
        let w = t(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], (3, 2));
        let (x, bias) =
            (t(&[1.0, -1.0], (1, 2)), Tensor::from_slice(&[10.0_f32, 20.0, 30.0], 3, &Device::Cpu).unwrap());
        let h = into_units(&x, &w, Some(&bias)).unwrap();
        assert_eq!(h.to_vec2::<f32>().unwrap(), [[9.0, 19.0, 29.0]]);
        assert_eq!(from_units(&h, &w, None).unwrap().to_vec2::<f32>().unwrap(), [[211.0, 268.0]]);
        let gradient = unit_gradient(&h, &x).unwrap();
        assert_eq!(gradient.to_vec2::<f32>().unwrap(), [[9.0, -9.0], [19.0, -19.0], [29.0, -29.0]]);
        assert_eq!(column_sums(&w).unwrap().to_vec1::<f32>().unwrap(), [9.0, 12.0]);
    }

    #[test]
    fn a_prefix_of_units_is_a_view() {
        let w = t(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], (3, 2));
        let prefix = w.narrow(0, 0, 2).unwrap();
        let x = t(&[1.0, -1.0], (1, 2));
        assert_eq!(into_units(&x, &prefix, None).unwrap().to_vec2::<f32>().unwrap(), [[-1.0, -1.0]]);
        let refusal = from_units(&x, &w, None).unwrap_err().to_string();
        assert_eq!(refusal, "from_units: w has shape [3, 2], wanted [2, d_model]");
    }
}
