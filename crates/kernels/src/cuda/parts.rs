//! The second stage of sums over rows: parts that blocks left, added in their order.

use super::launch::{BLOCK, Kernel};
use super::{Array, Kind, Result};
use taper_nvrtc::Storage;

/// Rows summed as one piece, as on the CPU; fixed, so that the sum's order is.
pub(crate) const PIECE: usize = 64;

/// `Σ_pieces part[piece, column]`, as `kind` (f32 or f64).
///
/// # Shapes
/// `parts` `[pieces, columns]` in f64; the result is `[columns]`.
pub(crate) fn sum_parts(op: &'static str, parts: &Array, kind: Kind) -> Result<Array> {
    let (pieces, columns) = parts.as_rows();
    let out = Array::uninitialised(parts.machine(), &[columns], kind)?;
    let kernel = if kind == Kind::F64 { "sum_parts_f64" } else { "sum_parts_f32" };
    Kernel::new(op, "stats.cu", kernel, Storage::F32)
        .array(&out)
        .array(parts)
        .size("pieces", pieces)
        .size("columns", columns)
        .grid([columns.div_ceil(BLOCK as usize), 1, 1])
        .run(parts.machine())?;
    Ok(out)
}
