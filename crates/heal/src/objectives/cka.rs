//! Representational alignment with the teacher: `1 − CKA` of the residual streams, mean over blocks.
//!
//! Linear CKA of `X` `[n, d]` and `Y` `[n, d_t]`, columns centred, `n` tokens:
//! `‖Yᵀ X‖² / (‖Xᵀ X‖ ‖Yᵀ Y‖)`, Frobenius norms. It is 1 for `Y = s X Q` with `Q` orthogonal, so it asks for the teacher's
//! geometry, not for its coordinates, and widths may differ. Gradient, with `a = ‖Yᵀ X‖²`, `b = ‖Xᵀ X‖`, `c = ‖Yᵀ Y‖`:
//! `2 / (b c) · (Y Yᵀ X − a / b² · X Xᵀ X)` of CKA.
//!
//! Sources: arXiv:2410.20035 (guidance, method 18), arXiv:1905.00414 §3 (linear CKA). Deviations: blocks are compared with
//! those that they were, which is the paper's even map where nothing was removed; over the tokens of a piece of the batch
//! (at most 4,096), since the products of a piece need not be kept for the next.

use serde::Deserialize;
use taper_base::registry::{Entry, params};

use super::{Objective, OfStreams, Pair, View, spans};
use crate::error::Result;
use crate::matrix::Matrix;

const NAME: &str = "cka";

/// The table's entry.
pub const ENTRY: Entry<dyn Objective> = Entry {
    name: NAME,
    summary: "alignment of residual streams with the teacher's: 1 - linear CKA",
    source: "arXiv:2410.20035",
    build: |value| params::<Cka>(NAME, value).map(|made| Box::new(made) as _),
};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Cka {}

impl Objective for Cka {
    fn view(&self) -> View<'_> {
        View::Streams(self)
    }
}

impl OfStreams for Cka {
    fn pairs(&self, origin: &[usize], blocks: usize) -> Vec<[usize; 2]> {
        spans(origin, blocks)
    }

    fn loss(&self, pair: Pair<'_>) -> Result<(f64, Vec<f32>)> {
        let [x, y] = [centred(pair.student, pair.widths[0])?, centred(pair.teacher, pair.widths[1])?];
        let (cross, own, other) = (y.turned_times(&x)?, x.turned_times(&x)?, y.turned_times(&y)?);
        let square = |matrix: &Matrix| -> Result<f64> {
            Ok(matrix.values()?.iter().map(|value| f64::from(*value).powi(2)).sum())
        };
        let (a, b, c) = (square(&cross)?, square(&own)?.sqrt(), square(&other)?.sqrt());
        if b == 0.0 || c == 0.0 {
            return Ok((1.0, vec![0.0; pair.student.len()])); // a stream that never changes is aligned with nothing
        }
        let scale = 2.0 / (b * c);
        let [to, from] = [scale as f32, (scale * a / (b * b)) as f32];
        let (pull, push) = (y.times(&cross)?, x.times(&own)?);
        let (pull, push) = (pull.values()?, push.values()?);
        let gradient = pull.iter().zip(push.iter()).map(|(pull, push)| from * push - to * pull).collect();
        Ok((1.0 - a / (b * c), gradient))
    }
}

/// Rows of `width` with the mean of each column taken off.
fn centred(values: &[f32], width: usize) -> Result<Matrix> {
    let count = (values.len() / width.max(1)).max(1) as f64;
    let mut means = vec![0.0; width];
    for row in values.chunks_exact(width) {
        means.iter_mut().zip(row).for_each(|(mean, x)| *mean += f64::from(*x));
    }
    means.iter_mut().for_each(|mean| *mean /= count);
    let rows = values.chunks_exact(width);
    let centred = rows.flat_map(|row| row.iter().zip(&means).map(|(x, mean)| (f64::from(*x) - mean) as f32)).collect();
    Ok(Matrix::new(centred, width)?)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check_gradient, drawn, loss};
    use super::*;
    use serde_json::json;

    #[test]
    fn gradients_are_finite_differences() {
        for widths in [[4, 4], [3, 5], [5, 3]] {
            check_gradient(&ENTRY, &json!({}), [3, 8], widths);
        }
    }

    #[test]
    fn turning_scaling_and_moving_change_nothing() {
        let x = drawn(96, 1);
        let (sin, cos) = 0.7_f32.sin_cos();
        let turned: Vec<f32> = x
            .chunks(4)
            .flat_map(|r| {
                let [a, b] = [cos * r[0] - sin * r[3], sin * r[0] + cos * r[3]];
                [3.0 * a + 5.0, 3.0 * r[1], 3.0 * r[2] - 1.0, 3.0 * b]
            })
            .collect();
        assert!(loss(&ENTRY, &json!({}), [&x, &turned], [3, 8], [4, 4]).abs() < 1e-6);
        let other = loss(&ENTRY, &json!({}), [&x, &drawn(96, 2)], [3, 8], [4, 4]);
        assert!(other > 0.5, "{other}");
        assert_eq!(loss(&ENTRY, &json!({}), [&[1.0; 96], &x], [3, 8], [4, 4]), 1.0);
    }
}
