//! Squared distance of the residual stream after a block from the teacher's after the block that it was:
//! `mean over tokens of ‖y − t‖² / ‖t‖²`, or with `relative: false` of `‖y − t‖² / d`.
//!
//! Where blocks were removed, the block before them is compared with the last of them, as what it now has to make.
//! Streams of other widths, `d` and `d_t`: `t` is replaced by `t Pᵀ`, `P` `[d, d_t]` fixed, with orthonormal rows (columns if
//! `d > d_t`) drawn at random.
//!
//! Sources: arXiv:1909.10351 (TinyBERT, equation 8). Deviations: relative by default, since the stream grows over blocks and
//! the last ones would be all that counts; `P` is not learnt.

use serde::Deserialize;
use taper_base::registry::{Entry, params};
use taper_base::rng::{normal, stream};

use super::{Objective, OfStreams, Pair, View, spans};
use crate::error::Result;
use crate::matrix::Matrix;

const NAME: &str = "hidden-mse";

/// The table's entry.
pub const ENTRY: Entry<dyn Objective> = Entry {
    name: NAME,
    summary: "squared distance of residual streams from the teacher's",
    source: "arXiv:1909.10351",
    build: |value| params::<HiddenMse>(NAME, value).map(|made| Box::new(made) as _),
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct HiddenMse {
    relative: bool,
    last: bool,
}

impl Default for HiddenMse {
    fn default() -> Self {
        Self { relative: true, last: false }
    }
}

impl Objective for HiddenMse {
    fn view(&self) -> View<'_> {
        View::Streams(self)
    }
}

impl OfStreams for HiddenMse {
    fn pairs(&self, origin: &[usize], blocks: usize) -> Vec<[usize; 2]> {
        let all = spans(origin, blocks);
        if self.last { all.last().copied().into_iter().collect() } else { all }
    }

    fn loss(&self, pair: Pair<'_>) -> Result<(f64, Vec<f32>)> {
        let [d, other] = pair.widths;
        let projected;
        let teacher = if d == other {
            pair.teacher
        } else {
            let rows = Matrix::new(pair.teacher.to_vec(), other)?;
            projected = rows.times_turned(&projection(d, other)?)?.values()?.to_vec();
            &projected
        };
        let tokens = (pair.student.len() / d.max(1)).max(1) as f64;
        let mut gradient = vec![0.0; pair.student.len()];
        let rows = pair.student.chunks_exact(d).zip(teacher.chunks_exact(d)).zip(gradient.chunks_exact_mut(d));
        let mut loss = 0.0;
        for ((y, t), gradient) in rows {
            let square = |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x).powi(2)).sum::<f64>();
            let size = if self.relative { square(&mut t.iter().copied()) } else { d as f64 };
            let share = 1.0 / (tokens * size.max(f64::MIN_POSITIVE));
            loss += share * square(&mut y.iter().zip(t).map(|(y, t)| y - t));
            let slope = (2.0 * share) as f32;
            gradient.iter_mut().zip(y).zip(t).for_each(|((g, y), t)| *g = slope * (y - t));
        }
        Ok((loss, gradient))
    }
}

/// `[d, other]`, rows orthonormal, or columns if they are fewer: a Gaussian matrix, orthonormalised (Gram and Schmidt, twice).
fn projection(d: usize, other: usize) -> Result<Matrix> {
    let (few, many) = (d.min(other), d.max(other));
    let mut rng = stream(0, NAME, d as u64, other as u64);
    let mut rows: Vec<Vec<f64>> = Vec::with_capacity(few);
    for _ in 0..few {
        let mut row: Vec<f64> = (0..many).map(|_| normal(&mut rng)).collect();
        for _ in 0..2 {
            for before in &rows {
                let dot: f64 = row.iter().zip(before).map(|(a, b)| a * b).sum();
                row.iter_mut().zip(before).for_each(|(a, b)| *a -= dot * b);
            }
        }
        let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
        row.iter_mut().for_each(|x| *x /= norm);
        rows.push(row);
    }
    let value = |row: usize, column: usize| if d <= other { rows[row][column] } else { rows[column][row] };
    let values = (0..d * other).map(|at| value(at / other, at % other) as f32).collect();
    Ok(Matrix::new(values, other)?)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check_gradient, drawn, loss};
    use super::*;
    use serde_json::json;

    #[test]
    fn gradients_are_finite_differences_with_and_without_a_projection() {
        for params in [json!({}), json!({"relative": false})] {
            for widths in [[6, 6], [4, 6], [6, 4]] {
                check_gradient(&ENTRY, &params, [2, 5], widths);
            }
        }
    }

    #[test]
    fn an_equal_stream_has_no_loss_and_none_at_all_has_one() {
        let x = drawn(60, 1);
        assert_eq!(loss(&ENTRY, &json!({}), [&x, &x], [2, 5], [6, 6]), 0.0);
        assert!((loss(&ENTRY, &json!({}), [&[0.0; 60], &x], [2, 5], [6, 6]) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn projections_keep_lengths_and_the_map_knows_removed_blocks() {
        for (d, other) in [(3, 5), (5, 3)] {
            let p = projection(d, other).unwrap();
            let gram = if d < other { p.times_turned(&p).unwrap() } else { p.turned_times(&p).unwrap() };
            let gram = gram.values().unwrap().to_vec();
            assert!(gram.iter().enumerate().all(|(at, x)| (x - f32::from(u8::from(at % 4 == 0))).abs() < 1e-6));
        }
        let made = HiddenMse::default();
        assert_eq!(made.pairs(&[0, 2, 3], 6), [[0, 1], [1, 2], [2, 5]]);
        assert_eq!(HiddenMse { last: true, ..made }.pairs(&[0, 2, 3], 6), [[2, 5]]);
    }
}
