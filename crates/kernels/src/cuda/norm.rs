//! RMSNorm and LayerNorm over the last dimension; formulas in `kernels/norm.cu`.

use taper_nvrtc::Storage;

use super::launch::{BLOCK, Kernel, at_once};
use super::parts::{PIECE, sum_parts};
use super::{Array, CudaError, Kind, Result};

const FILE: &str = "norm.cu";

/// Which norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norm {
    /// `w · x / sqrt(mean(x²) + eps)`.
    Rms,
    /// `w · (x − mean(x)) / sqrt(var(x) + eps) + b`.
    Layer,
}

/// RMSNorm.
///
/// # Shapes
/// `x` `[…, d]`, `weight` `[d]`; the result is as `x`.
///
/// # Errors
/// If shapes or types do not fit, or the machine fails.
pub fn rms_norm(x: &Array, weight: &Array, eps: f64) -> Result<Array> {
    const OP: &str = "rms_norm";
    let rows = Rows::of(OP, x, &[("weight", weight)])?;
    let out = x.like()?;
    rows.kernel("rms_norm").array(&out).array(x).array(weight).size("d", rows.d).float(eps).run(x.machine())?;
    Ok(out)
}

/// `base + dx`, `dx` the gradient of RMSNorm's input; no base is zero.
///
/// # Shapes
/// `x`, `dy` and `base` `[…, d]`, `weight` `[d]`; the result is as `x`.
///
/// # Errors
/// If shapes or types do not fit, or the machine fails.
pub fn rms_norm_backward(base: Option<&Array>, x: &Array, weight: &Array, eps: f64, dy: &Array) -> Result<Array> {
    const OP: &str = "rms_norm_backward";
    let rows = Rows::of(OP, x, &[("weight", weight)])?;
    dy.expect(OP, "dy", x.shape(), x.kind())?;
    base.map_or(Ok(()), |base| base.expect(OP, "base", x.shape(), x.kind()))?;
    let out = x.like()?;
    let kernel = rows.kernel(OP).array(&out).maybe(base).array(x).array(weight).array(dy);
    kernel.size("d", rows.d).float(eps).run(x.machine())?;
    Ok(out)
}

/// LayerNorm.
///
/// # Shapes
/// `x` `[…, d]`, `weight` and `bias` `[d]`; the result is as `x`.
///
/// # Errors
/// If shapes or types do not fit, or the machine fails.
pub fn layer_norm(x: &Array, weight: &Array, bias: &Array, eps: f64) -> Result<Array> {
    const OP: &str = "layer_norm";
    let rows = Rows::of(OP, x, &[("weight", weight), ("bias", bias)])?;
    let out = x.like()?;
    let kernel = rows.kernel("layer_norm").array(&out).array(x).array(weight).array(bias);
    kernel.size("d", rows.d).float(eps).run(x.machine())?;
    Ok(out)
}

/// Gradient of LayerNorm's input.
///
/// # Shapes
/// `x` and `dy` `[…, d]`, `weight` `[d]`; the result is as `x`.
///
/// # Errors
/// If shapes or types do not fit, or the machine fails.
pub fn layer_norm_backward(x: &Array, weight: &Array, eps: f64, dy: &Array) -> Result<Array> {
    const OP: &str = "layer_norm_backward";
    let rows = Rows::of(OP, x, &[("weight", weight)])?;
    dy.expect(OP, "dy", x.shape(), x.kind())?;
    let out = x.like()?;
    let kernel = rows.kernel(OP).array(&out).array(x).array(weight).array(dy);
    kernel.size("d", rows.d).float(eps).run(x.machine())?;
    Ok(out)
}

/// Gradient of either norm's weight: `Σ_rows dy · z`, `z` the normalised input. LayerNorm's bias has
/// [`column_sums`](super::column_sums) of `dy`.
///
/// # Shapes
/// `x` and `dy` `[…, d]`; the result is `[d]` in f32.
///
/// # Errors
/// If shapes or types do not fit, or the machine fails.
pub fn norm_weight_gradient(norm: Norm, x: &Array, eps: f64, dy: &Array) -> Result<Array> {
    const OP: &str = "norm_weight_gradient";
    let rows = Rows::of(OP, x, &[])?;
    dy.expect(OP, "dy", x.shape(), x.kind())?;
    let statistics = Array::uninitialised(x.machine(), &[rows.rows, 2], Kind::F32)?;
    let kernel = rows.kernel("norm_statistics").array(&statistics).array(x).size("d", rows.d).float(eps);
    kernel.flag(i32::from(norm == Norm::Layer)).run(x.machine())?;
    let pieces = rows.rows.div_ceil(PIECE);
    let parts = Array::uninitialised(x.machine(), &[pieces, rows.d], Kind::F64)?;
    let kernel = rows.kernel("norm_weight_parts").array(&parts).array(x).array(dy).array(&statistics);
    let kernel = kernel.size("rows", rows.rows).size("d", rows.d).size("piece", PIECE).block(BLOCK);
    kernel.covering(rows.d).along_y(pieces).run(x.machine())?;
    sum_parts(OP, &parts, Kind::F32)
}

struct Rows {
    op: &'static str,
    storage: Storage,
    rows: usize,
    d: usize,
}

impl Rows {
    fn of(op: &'static str, x: &Array, weights: &[(&'static str, &Array)]) -> Result<Self> {
        let (storage, (rows, d)) = (x.storage(op, "x")?, x.as_rows());
        if d == 0 {
            return Err(CudaError::Shape {
                op,
                what: "x",
                got: x.shape().to_vec(),
                want: "[…, d], d at least 1".into(),
            });
        }
        for (what, weight) in weights {
            weight.expect(op, what, &[d], x.kind())?;
        }
        Ok(Self { op, storage, rows, d })
    }

    /// One block a row: four turns of its threads for a long one, so that many rows are on their way at once.
    fn kernel(&self, name: &'static str) -> Kernel {
        let threads = self.d.div_ceil(4 * at_once(self.storage)).div_ceil(32).clamp(1, 16) as u32 * 32;
        Kernel::new(self.op, FILE, name, self.storage).grid([self.rows, 1, 1]).block(threads)
    }
}
