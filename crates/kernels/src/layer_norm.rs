//! LayerNorm. `y = w · n + b`, `n = (x − mean(x)) / sqrt(var(x) + eps)` over the last dimension, the variance divided by `d`.
//! Source: arXiv:1607.06450.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::Result;
use crate::host::{self, Host};
use crate::norm::{PIECE, check};
use crate::simd::{sum, wide};

/// Mean, and inverse of the standard deviation: two sweeps, so that a large mean costs no digits.
#[inline(always)]
fn statistics(row: &[f32], eps: f64) -> (f32, f32) {
    let d = row.len() as f32;
    let mean = sum([row], |[x]| x) / d;
    let variance = sum([row], |[x]| (x - mean) * (x - mean)) / d;
    (mean, 1.0 / (variance + eps as f32).sqrt())
}

/// # Shapes
/// `x` `[…, d]`, `weight` and `bias` `[d]`; the result is as `x`.
///
/// # Errors
/// If shapes, layout or device do not fit.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    const OP: &str = "layer_norm";
    let (_, d) = check(OP, x, weight)?;
    host::same_shape(OP, "bias", bias, weight)?;
    let (input, weight, bias) = (Host::of(OP, x)?, Host::of(OP, weight)?, Host::of(OP, bias)?);
    let (weight, bias) = (&weight[..d], &bias[..d]);
    let mut out = vec![0.0; input.len()];
    out.par_chunks_mut(PIECE * d).zip(input.par_chunks(PIECE * d)).for_each(|(out, input)| {
        wide!(|| {
            for (out, row) in out.chunks_exact_mut(d).zip(input.chunks_exact(d)) {
                let (mean, scale) = statistics(row, eps);
                for i in 0..d {
                    out[i] = weight[i] * ((row[i] - mean) * scale) + bias[i];
                }
            }
        });
    });
    host::tensor(OP, out, x.dims())
}

/// Gradient of the input: `dx = s · (g − mean(g) − n · mean(g·n))`, `g = w·dy`, `s` the inverse of the standard deviation.
///
/// # Shapes
/// `x` and `dy` `[…, d]`, `weight` `[d]`; the result is as `x`.
///
/// # Errors
/// If shapes, layout or device do not fit.
pub fn layer_norm_backward(x: &Tensor, weight: &Tensor, eps: f64, dy: &Tensor) -> Result<Tensor> {
    const OP: &str = "layer_norm_backward";
    let (_, d) = check(OP, x, weight)?;
    host::same_shape(OP, "dy", dy, x)?;
    let (input, weight, dy) = (Host::of(OP, x)?, Host::of(OP, weight)?, Host::of(OP, dy)?);
    let weight = &weight[..d];
    let mut out = vec![0.0; input.len()];
    let pieces = out.par_chunks_mut(PIECE * d).zip(input.par_chunks(PIECE * d)).zip(dy.par_chunks(PIECE * d));
    pieces.for_each(|((out, input), dy)| {
        wide!(|| {
            for ((out, row), dy) in out.chunks_exact_mut(d).zip(input.chunks_exact(d)).zip(dy.chunks_exact(d)) {
                let (mean, scale) = statistics(row, eps);
                let level = sum([weight, dy], |[w, g]| w * g) / d as f32;
                let along = sum([weight, dy, row], |[w, g, x]| w * g * ((x - mean) * scale)) / d as f32;
                for i in 0..d {
                    out[i] = scale * (weight[i] * dy[i] - level - (row[i] - mean) * scale * along);
                }
            }
        });
    });
    host::tensor(OP, out, x.dims())
}

/// Gradients of weight and bias: `Σ_rows dy · n`, `Σ_rows dy`.
///
/// # Shapes
/// `x` and `dy` `[…, d]`; the results are `[d]`.
///
/// # Errors
/// If shapes, layout or device do not fit.
pub fn layer_norm_parameter_gradients(x: &Tensor, eps: f64, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    const OP: &str = "layer_norm_parameter_gradients";
    host::same_shape(OP, "dy", dy, x)?;
    let (_, d) = host::rows(OP, "x", x)?;
    let (input, dy) = (Host::of(OP, x)?, Host::of(OP, dy)?);
    let piece = PIECE * d.max(1);
    let pieces = input.par_chunks(piece).zip(dy.par_chunks(piece)).map(|(input, dy)| {
        let mut sums = vec![(0.0_f64, 0.0_f64); d];
        wide!(|| {
            for (row, dy) in input.chunks(d).zip(dy.chunks(d)) {
                let (mean, scale) = statistics(row, eps);
                for (((dw, db), x), g) in sums.iter_mut().zip(row).zip(dy) {
                    *dw += f64::from(g * ((x - mean) * scale));
                    *db += f64::from(*g);
                }
            }
        });
        sums
    });
    let mut total = vec![(0.0_f64, 0.0_f64); d];
    for piece in pieces.collect::<Vec<_>>() {
        for ((dw, db), (more_dw, more_db)) in total.iter_mut().zip(piece) {
            *dw += more_dw;
            *db += more_db;
        }
    }
    let (dw, db) = total.into_iter().map(|(dw, db)| (dw as f32, db as f32)).unzip();
    Ok((host::tensor(OP, dw, &[d])?, host::tensor(OP, db, &[d])?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn t(values: &[f32]) -> Tensor {
        Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap()
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn matches_a_hand_computed_row() {
        let (x, weight, dy) = (t(&[1.0, 3.0]), t(&[2.0, 3.0]), t(&[1.0, 1.0])); // mean 2, deviation 1
        assert_eq!(values(&layer_norm(&x, &weight, &t(&[10.0, 20.0]), 0.0).unwrap()), [8.0, 23.0]);
        assert_eq!(values(&layer_norm_backward(&x, &weight, 0.0, &dy).unwrap()), [0.0, 0.0]); // d = 2: a step
        let (dw, db) = layer_norm_parameter_gradients(&x, 0.0, &dy).unwrap();
        assert_eq!((values(&dw), values(&db)), (vec![-1.0, 1.0], vec![1.0, 1.0]));
        let halved = layer_norm(&x, &weight, &t(&[0.0, 0.0]), 3.0).unwrap(); // sqrt(1 + 3) = 2
        assert_eq!(values(&halved), [-1.0, 1.5]);
    }

    #[test]
    fn a_large_mean_costs_no_digits() {
        let near = t(&[-1.5, -0.5, 0.5, 1.5]);
        let far = (&near + 4096.0).unwrap();
        let (weight, bias) = (t(&[1.0; 4]), t(&[0.0; 4]));
        let normed = |x| values(&layer_norm(x, &weight, &bias, 0.0).unwrap());
        assert_eq!(normed(&far), normed(&near));
    }

    #[test]
    fn shapes_are_checked() {
        let (x, two, three) = (t(&[1.0, 3.0]), t(&[1.0; 2]), t(&[1.0; 3]));
        let refusal = |result: Result<Tensor>| result.unwrap_err().to_string();
        assert_eq!(refusal(layer_norm(&x, &two, &three, 0.0)), "layer_norm: bias has shape [3], wanted [2]");
        assert_eq!(refusal(layer_norm(&x, &three, &three, 0.0)), "layer_norm: weight has shape [3], wanted [2]");
        assert!(layer_norm_backward(&x, &two, 0.0, &three).is_err());
        assert!(layer_norm_parameter_gradients(&x, 0.0, &three).is_err());
    }
}
