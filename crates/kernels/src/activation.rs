//! SwiGLU's gate: `h = silu(gate) · up`, `silu(x) = x · σ(x)`. Source: arXiv:2002.05202.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::Result;
use crate::exp::sigmoid;
use crate::host::{self, Host};
use crate::simd::wide;

/// Elements handled as one task.
const PIECE: usize = 16 * 1024;

/// # Shapes
/// All as `gate`.
///
/// # Errors
/// If shapes, layout or device do not fit.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gated("swiglu", gate, up, |g, u| g * sigmoid(g) * u)
}

/// Gradients of gate and up: `dgate = dh · up · σ(1 + gate(1 − σ))`, `dup = dh · silu(gate)`.
///
/// # Shapes
/// All as `gate`.
///
/// # Errors
/// If shapes, layout or device do not fit.
pub fn swiglu_backward(gate: &Tensor, up: &Tensor, dh: &Tensor) -> Result<(Tensor, Tensor)> {
    gated_backward("swiglu_backward", [gate, up, dh], |g, u, dh| {
        let s = sigmoid(g);
        (dh * u * s * (1.0 + g * (1.0 - s)), dh * g * s)
    })
}

/// `f(gate, up)` entry by entry: the forward of any gate.
pub(crate) fn gated(
    op: &'static str,
    gate: &Tensor,
    up: &Tensor,
    f: impl Fn(f32, f32) -> f32 + Sync,
) -> Result<Tensor> {
    host::same_shape(op, "up", up, gate)?;
    let (g, u) = (Host::of(op, gate)?, Host::of(op, up)?);
    let mut out = vec![0.0; g.len()];
    let pieces = out.par_chunks_mut(PIECE).zip(g.par_chunks(PIECE)).zip(u.par_chunks(PIECE));
    pieces.for_each(|((out, g), u)| {
        wide!(|| {
            for ((out, g), u) in out.iter_mut().zip(g).zip(u) {
                *out = f(*g, *u);
            }
        });
    });
    host::tensor(op, out, gate.dims())
}

/// `(dgate, dup) = f(gate, up, dh)` entry by entry: the backward of any gate.
pub(crate) fn gated_backward(
    op: &'static str,
    [gate, up, dh]: [&Tensor; 3],
    f: impl Fn(f32, f32, f32) -> (f32, f32) + Sync,
) -> Result<(Tensor, Tensor)> {
    host::same_shape(op, "up", up, gate)?;
    host::same_shape(op, "dh", dh, gate)?;
    let (g, u, dh) = (Host::of(op, gate)?, Host::of(op, up)?, Host::of(op, dh)?);
    let (mut dgate, mut dup) = (vec![0.0; g.len()], vec![0.0; g.len()]);
    let outputs = dgate.par_chunks_mut(PIECE).zip(dup.par_chunks_mut(PIECE));
    let pieces = outputs.zip(g.par_chunks(PIECE)).zip(u.par_chunks(PIECE)).zip(dh.par_chunks(PIECE));
    pieces.for_each(|((((dgate, dup), g), u), dh)| {
        wide!(|| {
            for ((((dgate, dup), g), u), dh) in dgate.iter_mut().zip(dup).zip(g).zip(u).zip(dh) {
                (*dgate, *dup) = f(*g, *u, *dh);
            }
        });
    });
    Ok((host::tensor(op, dgate, gate.dims())?, host::tensor(op, dup, gate.dims())?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn matches_hand_computed_values() {
        let t = |v: f32| Tensor::from_slice(&[v], 1, &Device::Cpu).unwrap();
        let value = |t: Tensor| t.to_vec1::<f32>().unwrap()[0];
        let ln3 = 3.0_f32.ln(); // sigmoid is 3/4
        assert!((value(swiglu(&t(ln3), &t(2.0)).unwrap()) - 1.5 * ln3).abs() < 1e-6);
        let (dgate, dup) = swiglu_backward(&t(ln3), &t(2.0), &t(4.0)).unwrap();
        assert!((value(dgate) - 6.0 * (1.0 + ln3 / 4.0)).abs() < 1e-5);
        assert!((value(dup) - 3.0 * ln3).abs() < 1e-5);
        assert!(swiglu(&t(1.0), &Tensor::zeros(2, candle_core::DType::F32, &Device::Cpu).unwrap()).is_err());
    }
}
