//! GELU, plain and as a gate, in PyTorch's two forms. Source: arXiv:1606.08415.
//!
//! Exact: `x · Φ(x)`, `Φ(x) = (1 + erf(x/√2)) / 2`; its slope is `Φ(x) + x · φ(x)`, `φ(x) = e^(−x²/2) / √(2π)`.
//! Tanh: `x · (1 + tanh u) / 2`, `u = √(2/π) · (x + 0.044715 x³)`, computed as `x · σ(2u)`, which is the same; its slope is
//! `s + x · s · (1 − s) · 2u'`, `s = σ(2u)`.

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use candle_core::Tensor;
use rayon::prelude::*;

use crate::Result;
use crate::activation::{gated, gated_backward};
use crate::exp::{exp, sigmoid};
use crate::host::{self, Host};
use crate::simd::wide;

/// Elements handled as one task.
const PIECE: usize = 16 * 1024;
/// Weight of the cube in the tanh form.
const CUBE: f32 = 0.044_715;
/// `2 √(2/π)`.
const TWICE_SCALE: f32 = 2.0 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2;

/// Which GELU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gelu {
    /// By the error function: `gelu` in Hugging Face configurations.
    Exact,
    /// By its approximation: `gelu_pytorch_tanh`, `gelu_new`.
    Tanh,
}

impl Gelu {
    /// Value and slope at `x`.
    #[inline(always)]
    fn at(self, x: f32) -> (f32, f32) {
        match self {
            Self::Exact => {
                let below = 0.5 * (1.0 + erf(x * FRAC_1_SQRT_2));
                let density = 0.5 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2 * exp(-0.5 * x * x);
                (x * below, below + x * density)
            }
            Self::Tanh => {
                let s = sigmoid(TWICE_SCALE * (x + CUBE * x * x * x));
                let slope = s * (1.0 - s) * TWICE_SCALE * (1.0 + 3.0 * CUBE * x * x);
                (x * s, s + x * slope)
            }
        }
    }
}

/// `erf` in f32, absolute error below 5e-7: a rational function of degree 13 over 10 (Eigen's and XLA's), ±1 beyond 4.
#[inline(always)]
fn erf(input: f32) -> f32 {
    let x = input.clamp(-4.0, 4.0);
    let y = x * x;
    let p = -2.726_142_3e-10;
    let p = p * y + 2.770_681_5e-8;
    let p = p * y - 2.101_024e-6;
    let p = p * y - 5.692_506_5e-5;
    let p = p * y - 7.349_906_3e-4;
    let p = p * y - 2.954_6e-3;
    let p = p * y - 1.609_603_3e-2;
    let q = -1.456_607_2e-5;
    let q = q * y - 2.133_740_6e-4;
    let q = q * y - 1.682_827e-3;
    let q = q * y - 7.373_329_2e-3;
    let q = q * y - 1.426_473_9e-2;
    if x == input { x * p / q } else { x.signum() }
}

/// # Shapes
/// The result is as `x`.
///
/// # Errors
/// If layout or device do not fit.
pub fn gelu(x: &Tensor, form: Gelu) -> Result<Tensor> {
    const OP: &str = "gelu";
    let input = Host::of(OP, x)?;
    let mut out = vec![0.0; input.len()];
    out.par_chunks_mut(PIECE).zip(input.par_chunks(PIECE)).for_each(|(out, x)| {
        wide!(|| {
            for (out, x) in out.iter_mut().zip(x) {
                *out = form.at(*x).0;
            }
        });
    });
    host::tensor(OP, out, x.dims())
}

/// Gradient of the input: `dy · slope(x)`.
///
/// # Shapes
/// All as `x`.
///
/// # Errors
/// If shapes, layout or device do not fit.
pub fn gelu_backward(x: &Tensor, dy: &Tensor, form: Gelu) -> Result<Tensor> {
    const OP: &str = "gelu_backward";
    host::same_shape(OP, "dy", dy, x)?;
    let (input, dy) = (Host::of(OP, x)?, Host::of(OP, dy)?);
    let mut out = vec![0.0; input.len()];
    out.par_chunks_mut(PIECE).zip(input.par_chunks(PIECE)).zip(dy.par_chunks(PIECE)).for_each(|((out, x), dy)| {
        wide!(|| {
            for ((out, x), dy) in out.iter_mut().zip(x).zip(dy) {
                *out = dy * form.at(*x).1;
            }
        });
    });
    host::tensor(OP, out, x.dims())
}

/// The gate `gelu(gate) · up`. Source: arXiv:2002.05202.
///
/// # Shapes
/// All as `gate`.
///
/// # Errors
/// If shapes, layout or device do not fit.
pub fn geglu(gate: &Tensor, up: &Tensor, form: Gelu) -> Result<Tensor> {
    gated("geglu", gate, up, |g, u| form.at(g).0 * u)
}

/// Gradients of gate and up: `dgate = dh · up · slope(gate)`, `dup = dh · gelu(gate)`.
///
/// # Shapes
/// All as `gate`.
///
/// # Errors
/// If shapes, layout or device do not fit.
pub fn geglu_backward(gate: &Tensor, up: &Tensor, dh: &Tensor, form: Gelu) -> Result<(Tensor, Tensor)> {
    gated_backward("geglu_backward", [gate, up, dh], |g, u, dh| {
        let (value, slope) = form.at(g);
        (dh * u * slope, dh * value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn t(values: &[f32]) -> Tensor {
        Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap()
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.to_vec1().unwrap()
    }

    #[test]
    fn the_error_function_agrees_with_the_library() {
        let worst = (-60_000..60_000).map(|i| {
            let x = i as f32 * 1e-4;
            (f64::from(erf(x)) - libm::erf(f64::from(x))).abs()
        });
        assert!(worst.fold(0.0, f64::max) < 5e-7);
        assert!(erf(f32::NAN).is_nan());
    }

    #[test]
    fn matches_hand_computed_values() {
        for form in [Gelu::Exact, Gelu::Tanh] {
            let y = values(&gelu(&t(&[0.0, 30.0, -30.0]), form).unwrap());
            assert!(y[..2] == [0.0, 30.0] && y[2].abs() < 1e-30, "{y:?}");
            let slopes = values(&gelu_backward(&t(&[0.0, 30.0, -30.0]), &t(&[2.0; 3]), form).unwrap());
            assert!(slopes[..2] == [1.0, 2.0] && slopes[2].abs() < 1e-30, "{slopes:?}");
        }
        // Φ(1) = 0.841344746, φ(1) = 0.241970725; the tanh form at 1 is 0.841191991, as PyTorch says
        let one = |form| values(&gelu(&t(&[1.0]), form).unwrap())[0];
        assert!((one(Gelu::Exact) - 0.841_344_7).abs() < 5e-7 && (one(Gelu::Tanh) - 0.841_192).abs() < 5e-7);
        let slope = values(&gelu_backward(&t(&[1.0]), &t(&[1.0]), Gelu::Exact).unwrap())[0];
        assert!((slope - 1.083_315_5).abs() < 1e-6);
    }

    #[test]
    fn the_gate_is_gelu_times_up() {
        let (gate, up, dh) = (t(&[0.5, -1.5]), t(&[2.0, 3.0]), t(&[4.0, 5.0]));
        for form in [Gelu::Exact, Gelu::Tanh] {
            let plain = gelu(&gate, form).unwrap();
            assert_eq!(values(&geglu(&gate, &up, form).unwrap()), values(&(&plain * &up).unwrap()));
            let (dgate, dup) = geglu_backward(&gate, &up, &dh, form).unwrap();
            assert_eq!(values(&dup), values(&(&plain * &dh).unwrap()));
            assert_eq!(values(&dgate), values(&gelu_backward(&gate, &(&dh * &up).unwrap(), form).unwrap()));
        }
    }

    #[test]
    fn shapes_are_checked() {
        let refusal = geglu(&t(&[1.0]), &t(&[1.0, 2.0]), Gelu::Exact).unwrap_err().to_string();
        assert_eq!(refusal, "geglu: up has shape [2], wanted [1]");
        assert!(gelu_backward(&t(&[1.0]), &t(&[1.0, 2.0]), Gelu::Tanh).is_err());
        assert!(geglu_backward(&t(&[1.0]), &t(&[1.0]), &t(&[1.0, 2.0]), Gelu::Tanh).is_err());
    }
}
