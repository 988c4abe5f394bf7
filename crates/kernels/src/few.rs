//! Products of a few rows with a weight, as [`crate::into_units`] and [`crate::from_units`] take many: what a step of
//! generation is made of.
//!
//! Bound by reading the weight. A product of matrices would copy it into another order first, which pays for many rows
//! only; here each piece of it is read from memory once, and used for all rows while it is in the first cache.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::host::{self, Host};
use crate::matrix::{View, multiply};
use crate::{KernelError, Result, from_units, into_units};

/// Rows from which on a product of matrices is taken.
const MANY: usize = 17;
/// Weights used at once for all rows: 16 KiB.
const TILE: usize = 1 << 12;
/// Multiply-adds that a task has at least: below it a thread is not worth waking.
const PIECE: usize = 1 << 18;

/// `x · wᵀ + bias`, as [`into_units`].
///
/// # Shapes
/// `x` `[rows, d_model]`, `w` `[units, d_model]`, `bias` `[units]`; the result is `[rows, units]`.
///
/// # Errors
/// If shapes, layout or device do not fit.
pub fn few_into_units(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    const OP: &str = "few_into_units";
    let (rows, d) = host::rows(OP, "x", x)?;
    let units = w.dims().first().copied().unwrap_or(0);
    if rows >= MANY || w.dims() != [units, d] || units * d == 0 {
        return into_units(x, w, bias);
    }
    let (input, weight) = (Host::of(OP, x)?, Host::of(OP, w)?);
    let mut turned = vec![0.0; units * rows]; // [units, rows]
    let tile = (TILE / d).max(1);
    let tiles = turned.par_chunks_mut(tile * rows).zip(weight.par_chunks(tile * d));
    tiles.with_min_len(PIECE.div_ceil(tile * d * rows)).for_each(|(out, weight)| {
        let here = weight.len() / d;
        let mut sums = [0.0; TILE];
        for (row, x) in input.chunks(d).enumerate() {
            multiply(&mut sums, here, false, 1.0, View::new(x, [1, d], d), View::new(weight, [here, d], d).t());
            out.iter_mut().skip(row).step_by(rows).zip(&sums).for_each(|(out, sum)| *out = *sum);
        }
    });
    let mut out = vec![0.0; rows * units];
    for (row, out) in out.chunks_mut(units).enumerate() {
        out.iter_mut().zip(turned.iter().skip(row).step_by(rows)).for_each(|(out, x)| *out = *x);
    }
    with_bias(OP, host::tensor(OP, out, &[rows, units])?, bias)
}

/// `h · w + bias`, as [`from_units`].
///
/// # Shapes
/// `h` `[rows, units]`, `w` `[units, d_model]`, `bias` `[d_model]`; the result is `[rows, d_model]`.
///
/// # Errors
/// If shapes, layout or device do not fit.
pub fn few_from_units(h: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    const OP: &str = "few_from_units";
    let (rows, units) = host::rows(OP, "h", h)?;
    let d = w.dims().last().copied().unwrap_or(0);
    if rows >= MANY || w.dims() != [units, d] || units * d == 0 {
        return from_units(h, w, bias);
    }
    let (input, weight) = (Host::of(OP, h)?, Host::of(OP, w)?);
    let tasks = (rows * units * d / PIECE).clamp(1, 16); // by shape alone, as is the order of each sum
    let columns = d.div_ceil(tasks).next_multiple_of(16); // whole lines of the cache
    let parts = (0..d.div_ceil(columns)).into_par_iter().map(|task| {
        let start = task * columns;
        let width = columns.min(d - start);
        let mut out = vec![0.0; rows * width];
        let tile = (TILE / width).max(1);
        for first in (0..units).step_by(tile) {
            let here = tile.min(units - first);
            let weight = View::new(&weight[first * d + start..], [here, width], d);
            for (out, h) in out.chunks_mut(width).zip(input.chunks(units)) {
                multiply(out, width, true, 1.0, View::new(&h[first..first + here], [1, here], here), weight);
            }
        }
        out
    });
    let parts: Vec<Vec<f32>> = parts.collect();
    let mut out = Vec::with_capacity(rows * d);
    for row in 0..rows {
        for part in &parts {
            let width = part.len() / rows;
            out.extend_from_slice(&part[row * width..(row + 1) * width]);
        }
    }
    with_bias(OP, host::tensor(OP, out, &[rows, d])?, bias)
}

fn with_bias(op: &'static str, y: Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    bias.map_or(Ok(y.clone()), |bias| y.broadcast_add(bias)).map_err(|cause| KernelError::Tensor { op, cause })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};
    use taper_base::rng::{normal, stream};

    fn random(shape: &[usize], name: &str) -> Tensor {
        let mut rng = stream(5, name, 0, 0);
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| normal(&mut rng) as f32).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    /// `|got − want|` at most, of all `want`'s largest.
    fn off(got: &Tensor, want: &Tensor) -> f64 {
        let flat =
            |x: &Tensor| -> Vec<f64> { x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap() };
        let (got, want) = (flat(got), flat(want));
        assert_eq!(got.len(), want.len());
        let largest = want.iter().fold(0.0_f64, |most, x| most.max(x.abs()));
        got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / largest
    }

    /// In f64, entry by entry.
    fn product(a: &Tensor, b: &Tensor, bias: &Tensor) -> Tensor {
        let wide = |x: &Tensor| x.to_dtype(DType::F64).unwrap();
        let (a, b, bias) = (
            wide(a).to_vec2::<f64>().unwrap(),
            wide(b).to_vec2::<f64>().unwrap(),
            wide(bias).to_vec1::<f64>().unwrap(),
        );
        let entry = |row: &Vec<f64>, column: usize| -> f64 {
            row.iter().zip(&b).map(|(x, b)| x * b[column]).sum::<f64>() + bias[column]
        };
        let rows: Vec<Vec<f64>> =
            a.iter().map(|row| (0..bias.len()).map(|column| entry(row, column)).collect()).collect();
        Tensor::new(rows, &Device::Cpu).unwrap()
    }

    #[test]
    fn both_are_the_definition_at_odd_sizes_and_on_views() {
        for (rows, units, d) in
            [(1, 1, 2), (1, 300, 96), (3, 77, 33), (16, 130, 500), (17, 40, 9), (2, 2000, 640), (1, 5, 5000)]
        {
            let (x, h, w) = (random(&[rows, d], "x"), random(&[rows, units], "h"), random(&[units + 3, d], "w"));
            let w = w.narrow(0, 0, units).unwrap(); // a prefix of units
            let (by_unit, by_width) = (random(&[units], "units"), random(&[d], "width"));
            let into = few_into_units(&x, &w, Some(&by_unit)).unwrap();
            assert_eq!(into.dims(), [rows, units]);
            assert!(off(&into, &product(&x, &w.t().unwrap(), &by_unit)) < 2e-6, "into {rows} {units} {d}");
            let from = few_from_units(&h, &w, Some(&by_width)).unwrap();
            assert_eq!(from.dims(), [rows, d]);
            assert!(off(&from, &product(&h, &w, &by_width)) < 2e-6, "from {rows} {units} {d}");
        }
    }

    #[test]
    fn shapes_are_checked_as_for_many_rows() {
        let (x, w) = (random(&[1, 3], "x"), random(&[4, 2], "w"));
        assert_eq!(
            few_into_units(&x, &w, None).unwrap_err().to_string(),
            "into_units: w has shape [4, 2], wanted [units, 3]"
        );
        assert!(few_from_units(&x, &w, None).is_err());
    }
}
