//! Sums over arrays, in f64 and in a fixed order.

use super::launch::Kernel;
use super::parts::{PIECE, sum_parts};
use super::{Array, CudaError, Kind, Result, Storage};
use crate::Moments;

const FILE: &str = "stats.cu";
/// Values summed by one block where rows do not say.
const VALUES: usize = 16 * 1024;

/// What one sweep over two arrays gives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sums {
    /// First and second moments.
    pub moments: Moments,
    /// `Σ |x · y|`.
    pub abs_product: f64,
}

/// `Σ_rows x²` of each column.
///
/// # Shapes
/// `x` `[tokens, d]`; the result has `d` entries.
///
/// # Errors
/// If the type does not fit, or the machine fails.
pub fn column_square_sums(x: &Array) -> Result<Vec<f64>> {
    columns("column_square_sums", x, 2, Kind::F64)?.to_host_f64()
}

/// Sum of each column: the gradient of a bias.
///
/// # Shapes
/// `dy` `[tokens, d]`; the result is `[d]` in f32.
///
/// # Errors
/// If the type does not fit, or the machine fails.
pub fn column_sums(dy: &Array) -> Result<Array> {
    columns("column_sums", dy, 1, Kind::F32)
}

fn columns(op: &'static str, x: &Array, power: i32, kind: Kind) -> Result<Array> {
    let ((rows, d), machine) = (x.as_rows(), x.machine());
    let pieces = rows.div_ceil(PIECE);
    let parts = Array::uninitialised(machine, &[pieces, d], Kind::F64)?;
    let kernel = Kernel::new(op, FILE, "column_parts", x.storage(op, "x")?).array(&parts).array(x).size("rows", rows);
    let kernel = kernel.size("d", d).size("piece", PIECE).flag(power);
    kernel.covering(d).along_y(pieces).run(machine)?;
    sum_parts(op, &parts, kind)
}

/// `Σ_columns |w|` of each row.
///
/// # Shapes
/// `w` `[rows, columns]`; the result has `rows` entries.
///
/// # Errors
/// If the type does not fit, or the machine fails.
pub fn row_abs_sums(w: &Array) -> Result<Vec<f64>> {
    const OP: &str = "row_abs_sums";
    let ((rows, d), machine) = (w.as_rows(), w.machine());
    let out = Array::uninitialised(machine, &[rows], Kind::F64)?;
    let kernel = Kernel::new(OP, FILE, OP, w.storage(OP, "w")?).array(&out).array(w).size("columns", d);
    kernel.grid([rows, 1, 1]).run(machine)?;
    out.to_host_f64()
}

/// Sums that the machine may still be at.
#[derive(Debug)]
pub struct Coming {
    count: usize,
    total: Array, // [6]
}

impl Coming {
    /// The sums, once all commands before have run.
    ///
    /// # Errors
    /// What the machine says of the commands before.
    pub fn wait(&self) -> Result<Sums> {
        let sums = self.total.to_host_f64()?;
        let moments = Moments { n: self.count as f64, x: sums[0], xx: sums[1], y: sums[2], yy: sums[3], xy: sums[4] };
        Ok(Sums { moments, abs_product: sums[5] })
    }
}

/// Moments of the entries of `x`, a gradient in f32, and those of the `rows` of `y`, row by row; without `rows`, of all
/// pairs in order.
///
/// # Shapes
/// `x` `[rows.len(), d]`, `y` `[any, d]`; without `rows` `y` is as `x`.
///
/// # Errors
/// If shapes or types do not fit, or the machine fails.
pub fn moments(x: &Array, y: &Array, rows: Option<&[usize]>) -> Result<Coming> {
    const OP: &str = "moments";
    let ((kept, d), (all, wide), machine) = (x.as_rows(), y.as_rows(), x.machine());
    let (count, storage) = (x.count(), y.storage(OP, "y")?);
    x.expect(OP, "x", x.shape(), Kind::F32)?;
    let (blocks, width, table) = match rows {
        None => {
            y.expect(OP, "y", x.shape(), y.kind())?;
            (count.div_ceil(VALUES), VALUES, None)
        }
        Some(rows) => {
            if rows.len() != kept || d != wide {
                let want = format!("[{}, {wide}]", rows.len());
                return Err(CudaError::Shape { op: OP, what: "x", got: x.shape().to_vec(), want });
            }
            if let Some(row) = rows.iter().find(|row| **row >= all) {
                let want = format!("rows below {all}");
                return Err(CudaError::Shape { op: OP, what: "rows", got: vec![*row], want });
            }
            let rows: Vec<i32> = rows.iter().map(|row| *row as i32).collect();
            (kept, d, Some(Array::of_numbers(machine, &rows)?))
        }
    };
    let parts = Array::uninitialised(machine, &[blocks, 6], Kind::F64)?;
    let kernel = Kernel::new(OP, FILE, "moments_parts", storage).array(&parts).array(x).array(y).maybe(table.as_ref());
    kernel.size("d", width).count(count).grid([blocks, 1, 1]).run(machine)?;
    let total = Array::uninitialised(machine, &[6], Kind::F64)?;
    let kernel = Kernel::new(OP, FILE, "moments_total", Storage::F32).array(&total).array(&parts);
    kernel.size("pieces", blocks).run(machine)?;
    Ok(Coming { count, total })
}
