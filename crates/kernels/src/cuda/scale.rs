//! Rows of sequences multiplied with numbers of their own, and dot products of columns.

use super::launch::{BLOCK, Kernel, cover};
use super::parts::{PIECE, sum_parts};
use super::{Array, CudaError, Kind, Result, Storage};

const FILE: &str = "scale.cu";

/// `x · factors[sequence]`.
///
/// # Shapes
/// `x` `[sequences · tokens, d]`, one factor a sequence; the result is as `x`.
///
/// # Errors
/// If shapes or types do not fit, or the machine fails.
pub fn scale_sequences(x: &Array, factors: &[f32]) -> Result<Array> {
    const OP: &str = "scale_sequences";
    let (rows, d) = x.as_rows();
    if factors.is_empty() || !rows.is_multiple_of(factors.len()) {
        let want = format!("as many rows for each of {} sequences", factors.len());
        return Err(CudaError::Shape { op: OP, what: "x", got: x.shape().to_vec(), want });
    }
    let values = (rows / factors.len() * d).max(1);
    let (out, factors) = (x.like()?, Array::of(x.machine(), factors, &[factors.len()], Storage::F32)?);
    let kernel = Kernel::new(OP, FILE, OP, x.storage(OP, "x")?).array(&out).array(x).array(&factors).count(x.count());
    kernel.count(values).grid(cover(x.count())).run(x.machine())?;
    Ok(out)
}

/// `Σ_rows x · y` of each column.
///
/// # Shapes
/// `x` and `y` `[rows, d]`; the result is `[d]` in f32.
///
/// # Errors
/// If shapes or types do not fit, or the machine fails.
pub fn column_dots(x: &Array, y: &Array) -> Result<Array> {
    const OP: &str = "column_dots";
    let ((rows, d), machine) = (x.as_rows(), x.machine());
    y.expect(OP, "y", x.shape(), x.kind())?;
    let pieces = rows.div_ceil(PIECE);
    let parts = Array::uninitialised(machine, &[pieces, d], Kind::F64)?;
    let kernel = Kernel::new(OP, FILE, "column_dot_parts", x.storage(OP, "x")?).array(&parts).array(x).array(y);
    let kernel = kernel.size("rows", rows).size("d", d).size("piece", PIECE);
    kernel.grid([d.div_ceil(BLOCK as usize), pieces, 1]).run(machine)?;
    sum_parts(OP, &parts, Kind::F32)
}
