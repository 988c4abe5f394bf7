//! Relations among tokens of the last attention: `A Aᵀ / sqrt(w)` of the student's queries, keys and values against the
//! teacher's, each re-split into `heads` relation heads of `w` values, so that head counts may differ.
//!
//! `mse`: mean of the squared differences over sequences, relation heads and pairs of tokens. `kl`: mean over rows of
//! `KL(softmax(teacher) ‖ softmax(student))`. Averaged over queries, keys and values. A pair's two orders both count, and a
//! token's relation to later ones too: it is of states, which see no later token themselves.
//!
//! Sources: arXiv:2201.12507 (AutoDistil, method 40: `mse`), arXiv:2012.15828 (MiniLMv2: relation heads, `kl`). Deviation:
//! queries and keys are taken after rotary positions, as they are attended.

use serde::Deserialize;
use taper_base::registry::{Entry, MethodError, params};

use super::{Objective, OfRelations, Pair, View};
use crate::error::{HealError, Result};
use crate::matrix::Matrix;

const NAME: &str = "qkv-relations";

/// Values of a relation head of the teacher, at least, if the number of heads is not said.
const WIDTH: usize = 64;

/// The table's entry.
pub const ENTRY: Entry<dyn Objective> = Entry {
    name: NAME,
    summary: "relations among tokens in the last attention's queries, keys and values",
    source: "arXiv:2201.12507",
    build: |value| {
        let made: QkvRelations = params(NAME, value)?;
        if made.heads == Some(0) {
            let reason = "heads is 0, wanted 1 or more, or none for heads of about 64 values".to_owned();
            return Err(MethodError::Parameters { method: NAME, reason });
        }
        Ok(Box::new(made))
    },
};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct QkvRelations {
    heads: Option<usize>,
    distance: Distance,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Distance {
    #[default]
    Mse,
    Kl,
}

impl Objective for QkvRelations {
    fn view(&self) -> View<'_> {
        View::Relations(self)
    }
}

impl OfRelations for QkvRelations {
    fn loss(&self, pair: Pair<'_>) -> Result<(f64, Vec<f32>)> {
        let ([own, other], [sequences, length]) = (pair.widths, pair.shape);
        let heads = self.heads(own, other)?;
        let (width, width_of_teacher) = (own / heads, other / heads);
        let share = 1.0 / (sequences * heads) as f64;
        let mut gradient = vec![0.0; pair.student.len()];
        let mut loss = 0.0;
        for sequence in 0..sequences {
            let at = |stride: usize| sequence * length * stride..(sequence + 1) * length * stride;
            let (student, teacher) = (&pair.student[at(own)], &pair.teacher[at(other)]);
            for head in 0..heads {
                let a = Matrix::columns(student, own, (head * width, width))?;
                let t = Matrix::columns(teacher, other, (head * width_of_teacher, width_of_teacher))?;
                let (found, slopes) = self.relation(&a, &t, [width, width_of_teacher], length)?;
                loss += share * found;
                let slopes = slopes.times(&a)?;
                let slopes = slopes.values()?;
                for (row, slopes) in gradient[at(own)].chunks_exact_mut(own).zip(slopes.chunks_exact(width)) {
                    let to = &mut row[head * width..(head + 1) * width];
                    to.iter_mut().zip(slopes).for_each(|(to, slope)| *to = share as f32 * slope);
                }
            }
        }
        Ok((loss, gradient))
    }
}

impl QkvRelations {
    fn heads(&self, own: usize, other: usize) -> Result<usize> {
        let divides = |heads: &usize| own.is_multiple_of(*heads) && other.is_multiple_of(*heads);
        match self.heads {
            Some(heads) if !divides(&heads) => {
                let reason = format!("qkv-relations: {heads} relation heads do not divide widths of {own} and {other}");
                Err(HealError::Setting { key: "objectives", reason })
            }
            Some(heads) => Ok(heads),
            None => Ok((1..=(other / WIDTH).max(1)).rev().find(divides).unwrap_or(1)),
        }
    }

    /// Loss of one relation head, and the matrix that `A` is multiplied with for its gradient.
    fn relation(&self, a: &Matrix, t: &Matrix, widths: [usize; 2], length: usize) -> Result<(f64, Matrix)> {
        let [own, other] = widths.map(|width| 1.0 / (width as f32).sqrt());
        let (scores, wanted) = (a.times_turned(a)?, t.times_turned(t)?);
        let (scores, wanted) = (scores.values()?, wanted.values()?);
        let (mut loss, mut slopes) = (0.0, vec![0.0_f32; length * length]);
        let rows = scores.chunks_exact(length).zip(wanted.chunks_exact(length)).zip(slopes.chunks_exact_mut(length));
        for ((row, wanted), slopes) in rows {
            loss += match self.distance {
                Distance::Mse => {
                    let share = 1.0 / (length * length) as f64;
                    let mut sum = 0.0;
                    for ((slope, s), t) in slopes.iter_mut().zip(row).zip(wanted) {
                        let difference = f64::from(s * own) - f64::from(t * other);
                        sum += difference * difference;
                        *slope = (2.0 * share * difference) as f32;
                    }
                    share * sum
                }
                Distance::Kl => {
                    let (log_q, log_p) = (log_softmax(row, own), log_softmax(wanted, other));
                    let share = 1.0 / length as f64;
                    let mut sum = 0.0;
                    for ((slope, q), p) in slopes.iter_mut().zip(log_q).zip(log_p) {
                        sum += p.exp() * (p - q);
                        *slope = (share * (q.exp() - p.exp())) as f32;
                    }
                    share * sum
                }
            };
        }
        // both factors of A Aᵀ move
        let both = |at: usize| own * (slopes[at] + slopes[at % length * length + at / length]);
        Ok((loss, Matrix::new((0..slopes.len()).map(both).collect(), length)?))
    }
}

/// `log softmax(scale · x)`.
fn log_softmax(x: &[f32], scale: f32) -> Vec<f64> {
    let scaled: Vec<f64> = x.iter().map(|x| f64::from(x * scale)).collect();
    let most = scaled.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = most + scaled.iter().map(|x| (x - most).exp()).sum::<f64>().ln();
    scaled.into_iter().map(|x| x - log_sum).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check_gradient, drawn, loss};
    use super::*;
    use serde_json::json;

    #[test]
    fn gradients_are_finite_differences_with_fewer_heads_too() {
        for distance in ["mse", "kl"] {
            for widths in [[8, 8], [4, 8]] {
                check_gradient(&ENTRY, &json!({"distance": distance, "heads": 2}), [2, 5], widths);
            }
        }
    }

    #[test]
    fn equal_relations_have_no_loss_and_turning_within_a_head_changes_none() {
        let x = drawn(40, 1);
        let (sin, cos) = 0.4_f32.sin_cos();
        let turn = |pair: &[f32]| [cos * pair[0] - sin * pair[1], sin * pair[0] + cos * pair[1]];
        let turned: Vec<f32> = x.chunks(2).flat_map(turn).collect();
        let crossed: Vec<f32> = x.chunks(4).flat_map(|row| [row[0], row[2], row[1], row[3]]).collect();
        for distance in ["mse", "kl"] {
            let params = json!({"distance": distance, "heads": 2});
            let of = |other: &[f32]| loss(&ENTRY, &params, [&x, other], [2, 5], [4, 4]);
            assert!(of(&x) == 0.0 && of(&turned).abs() < 1e-9, "{distance} {}", of(&turned));
            assert!(of(&crossed) > 1e-3, "{distance}");
        }
    }

    #[test]
    fn heads_divide_both_widths() {
        let heads = |heads: Option<usize>, own, other| QkvRelations { heads, ..Default::default() }.heads(own, other);
        assert_eq!(heads(None, 512, 768).unwrap(), 8);
        assert_eq!(heads(None, 64, 64).unwrap(), 1);
        assert_eq!(heads(Some(4), 8, 12).unwrap(), 4);
        let refusal = heads(Some(3), 8, 12).unwrap_err().to_string();
        assert_eq!(refusal, "objectives: qkv-relations: 3 relation heads do not divide widths of 8 and 12");
        assert!((ENTRY.build)(&json!({"heads": 0})).is_err());
    }
}
