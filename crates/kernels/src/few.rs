//! Products of a few rows with a weight: what a step of generation is made of. [`crate::into_units`] and
//! [`crate::from_units`] come here when there are few.
//!
//! Bound by reading the weight. A product of matrices would copy it into another order first, which pays for many rows
//! only; here each piece of it is read from memory once, and used for all rows while it is in the first cache.

use rayon::prelude::*;

use crate::accumulate::add;
use crate::host::Weight;
use crate::matrix::{Onto, Out, View, multiply};

/// Rows from which on a product of matrices is taken.
const MANY: usize = 17;
/// Weights used at once for all rows: 16 KiB.
const TILE: usize = 1 << 12;
/// Multiply-adds that a task has at least: below it a thread is not worth waking.
const PIECE: usize = 1 << 18;

/// Whether so many rows are few.
pub(crate) fn are_few(rows: usize) -> bool {
    (1..MANY).contains(&rows)
}

/// `out += x · wᵀ`: `out` `[rows, units]`, `x` `[rows, d]`, `w` `[units, d]`.
pub(crate) fn into_units(out: &mut [f32], x: &[f32], w: &Weight<'_>, [rows, units, d]: [usize; 3]) {
    let step = (TILE / d.max(1)).max(1);
    let mut turned = vec![0.0; units * rows]; // [units, rows]
    let tiles = turned.par_chunks_mut(step * rows).enumerate();
    tiles.with_min_len(PIECE.div_ceil(step * d.max(1) * rows)).for_each_init(
        || (vec![0.0; step * d], vec![0.0; step]),
        |(tile, sums), (index, turned)| {
            let here = turned.len() / rows;
            let weight = w.window(d, index * step..index * step + here, 0..d, tile);
            for (row, x) in x.chunks(d.max(1)).enumerate() {
                let sums = &mut sums[..here];
                multiply(
                    Out { values: sums, stride: here, onto: Onto::Nothing },
                    1.0,
                    View::new(x, [1, d], d),
                    weight.t(),
                );
                turned.iter_mut().skip(row).step_by(rows).zip(sums).for_each(|(out, sum)| *out = *sum);
            }
        },
    );
    for (row, out) in out.chunks_mut(units.max(1)).enumerate() {
        out.iter_mut().zip(turned.iter().skip(row).step_by(rows)).for_each(|(out, x)| *out += *x);
    }
}

/// `out += h · w`: `out` `[rows, d]`, `h` `[rows, units]`, `w` `[units, d]`.
pub(crate) fn from_units(out: &mut [f32], h: &[f32], w: &Weight<'_>, [rows, units, d]: [usize; 3]) {
    let tasks = (rows * units * d / PIECE).clamp(1, 16); // by shape alone, as is the order of each sum
    let columns = d.div_ceil(tasks).next_multiple_of(16).max(16); // whole lines of the cache
    let parts = (0..d.div_ceil(columns)).into_par_iter().map(|task| {
        let (start, end) = (task * columns, d.min((task + 1) * columns));
        let width = end - start;
        let step = (TILE / width).max(1);
        let (mut out, mut tile) = (vec![0.0; rows * width], vec![0.0; step * width]);
        for first in (0..units).step_by(step) {
            let here = step.min(units - first);
            let weight = w.window(d, first..first + here, start..end, &mut tile);
            for (out, h) in out.chunks_mut(width).zip(h.chunks(units)) {
                let h = View::new(&h[first..first + here], [1, here], here);
                multiply(Out { values: out, stride: width, onto: Onto::There }, 1.0, h, weight);
            }
        }
        out
    });
    let parts: Vec<Vec<f32>> = parts.collect();
    for (row, out) in out.chunks_mut(d.max(1)).enumerate() {
        for (part, out) in parts.iter().zip(out.chunks_mut(columns)) {
            add(out, &part[row * out.len()..(row + 1) * out.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use crate::linear::{from_units, into_units};
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
            let half = w.to_dtype(DType::BF16).unwrap();
            let (by_unit, by_width) = (random(&[units], "units"), random(&[d], "width"));
            let into = into_units(&x, &w, Some(&by_unit)).unwrap();
            assert_eq!(into.dims(), [rows, units]);
            assert!(off(&into, &product(&x, &w.t().unwrap(), &by_unit)) < 2e-6, "into {rows} {units} {d}");
            let from = from_units(None, &[(&h, &w)], Some(&by_width)).unwrap();
            assert_eq!(from.dims(), [rows, d]);
            assert!(off(&from, &product(&h, &w, &by_width)) < 2e-6, "from {rows} {units} {d}");
            let widened = half.to_dtype(DType::F32).unwrap();
            let of_half = into_units(&x, &half, None).unwrap();
            assert!(off(&of_half, &into_units(&x, &widened, None).unwrap()) < 2e-6, "half into {rows} {units} {d}");
            let of_half = from_units(None, &[(&h, &half)], None).unwrap();
            let wanted = from_units(None, &[(&h, &widened)], None).unwrap();
            assert!(off(&of_half, &wanted) < 2e-6, "half from {rows} {units} {d}");
        }
    }
}
