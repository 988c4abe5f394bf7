//! RMSNorm. `y = w · x / sqrt(mean(x²) + eps)` over the last dimension. Source: arXiv:1910.07467.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::Result;
use crate::host::{self, Host};
use crate::simd::{sum, wide};

/// Rows summed as one piece in the weight gradient; fixed, so that the sum's order is.
pub(crate) const PIECE: usize = 64;

#[inline(always)]
fn inverse_rms(row: &[f32], eps: f64) -> f32 {
    let sum = sum([row], |[x]| x * x);
    1.0 / (sum / row.len() as f32 + eps as f32).sqrt()
}

/// # Shapes
/// `x` `[…, d]`, `weight` `[d]`; the result is as `x`.
///
/// # Errors
/// If shapes, layout or device do not fit.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    const OP: &str = "rms_norm";
    let (_, d) = check(OP, x, weight)?;
    let (input, weight) = (Host::of(OP, x)?, Host::of(OP, weight)?);
    let mut out = vec![0.0; input.len()];
    out.par_chunks_mut(d).zip(input.par_chunks(d)).for_each(|(out, row)| {
        wide!(|| {
            let scale = inverse_rms(row, eps);
            for ((out, x), w) in out.iter_mut().zip(row).zip(&*weight) {
                *out = w * (x * scale);
            }
        });
    });
    host::tensor(OP, out, x.dims())
}

/// `base + dx`, `dx = s · (w·dy − x · s² · mean(w·dy·x))` the gradient of the input, `s` the inverse RMS; no base is zero.
///
/// # Shapes
/// `x`, `dy` and `base` `[…, d]`, `weight` `[d]`; the result is as `x`.
///
/// # Errors
/// If shapes, layout or device do not fit.
pub fn rms_norm_backward(base: Option<&Tensor>, x: &Tensor, weight: &Tensor, eps: f64, dy: &Tensor) -> Result<Tensor> {
    const OP: &str = "rms_norm_backward";
    let (_, d) = check(OP, x, weight)?;
    host::same_shape(OP, "dy", dy, x)?;
    let mut out = match base {
        Some(base) => {
            host::same_shape(OP, "base", base, x)?;
            Host::of(OP, base)?.to_vec()
        }
        None => vec![0.0; x.elem_count()],
    };
    let (input, weight, dy) = (Host::of(OP, x)?, Host::of(OP, weight)?, Host::of(OP, dy)?);
    let rows = out.par_chunks_mut(d).zip(input.par_chunks(d)).zip(dy.par_chunks(d));
    rows.for_each(|((out, row), dy)| {
        wide!(|| {
            let scale = inverse_rms(row, eps);
            let along = sum([&*weight, dy, row], |[w, g, x]| w * g * x);
            let pull = along / d as f32 * scale * scale;
            for (((out, x), g), w) in out.iter_mut().zip(row).zip(dy).zip(&*weight) {
                *out += scale * (w * g - x * pull);
            }
        });
    });
    host::tensor(OP, out, x.dims())
}

/// Gradient of the weight: `Σ_rows dy · x · s`.
///
/// # Shapes
/// `x` and `dy` `[…, d]`; the result is `[d]`.
///
/// # Errors
/// If shapes, layout or device do not fit.
pub fn rms_norm_weight_gradient(x: &Tensor, eps: f64, dy: &Tensor) -> Result<Tensor> {
    const OP: &str = "rms_norm_weight_gradient";
    host::same_shape(OP, "dy", dy, x)?;
    let (_, d) = host::rows(OP, "x", x)?;
    let (input, dy) = (Host::of(OP, x)?, Host::of(OP, dy)?);
    let piece = PIECE * d.max(1);
    let pieces = input.par_chunks(piece).zip(dy.par_chunks(piece)).map(|(input, dy)| {
        let mut sum = vec![0.0_f64; d];
        wide!(|| {
            for (row, dy) in input.chunks(d).zip(dy.chunks(d)) {
                let scale = inverse_rms(row, eps);
                for ((sum, x), g) in sum.iter_mut().zip(row).zip(dy) {
                    *sum += f64::from(g * x * scale);
                }
            }
        });
        sum
    });
    let mut total = vec![0.0_f64; d];
    for piece in pieces.collect::<Vec<_>>() {
        total.iter_mut().zip(piece).for_each(|(total, part)| *total += part);
    }
    host::tensor(OP, total.into_iter().map(|x| x as f32).collect(), &[d])
}

/// Rows and width of `x`, which are not zero wide and fit the weight.
pub(crate) fn check(op: &'static str, x: &Tensor, weight: &Tensor) -> Result<(usize, usize)> {
    let (rows, d) = host::rows(op, "x", x)?;
    if d == 0 {
        return Err(host::shape(op, "x", x, "rows of at least one".to_owned()));
    }
    if weight.dims() == [d] { Ok((rows, d)) } else { Err(host::shape(op, "weight", weight, format!("[{d}]"))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn t(values: &[f32]) -> Tensor {
        Tensor::from_slice(values, (values.len() / 2, 2), &Device::Cpu).unwrap()
    }

    #[test]
    fn matches_a_hand_computed_row() {
        let weight = Tensor::from_slice(&[2.0_f32, 1.0], 2, &Device::Cpu).unwrap();
        let y = rms_norm(&t(&[3.0, 4.0]), &weight, 0.0).unwrap().to_vec2::<f32>().unwrap();
        let rms = 12.5_f32.sqrt();
        assert!((y[0][0] - 6.0 / rms).abs() < 1e-6 && (y[0][1] - 4.0 / rms).abs() < 1e-6);
    }

    #[test]
    fn the_weight_s_length_is_checked() {
        let weight = Tensor::from_slice(&[2.0_f32, 1.0, 0.0], 3, &Device::Cpu).unwrap();
        let refusal = rms_norm(&t(&[3.0, 4.0]), &weight, 0.0).unwrap_err().to_string();
        assert_eq!(refusal, "rms_norm: weight has shape [3], wanted [2]");
    }
}
