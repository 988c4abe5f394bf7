//! Loops over one row of logits: what losses of predictions are made of.
//!
//! `softmax(x / T)_i = exp(x_i / T − L)`, `L = log Σ exp(x_i / T)`. Sums run in lanes, in one order.

use crate::exp::exp;
use crate::simd::{most, sum, wide};

/// `log Σ exp(x · inverse)`, `inverse = 1 / T`.
pub fn log_sum(x: &[f32], inverse: f32) -> f32 {
    wide!(|| {
        let most = most(x);
        most * inverse + sum([x], |[x]| exp((x - most) * inverse)).ln()
    })
}

/// `sum += scale · x`.
pub fn add_scaled(sum: &mut [f32], scale: f32, x: &[f32]) {
    wide!(|| sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += scale * x));
}

/// `sum += scale · softmax(x · inverse)`; `log_sum` is that of `x`.
pub fn add_softmax(sum: &mut [f32], scale: f32, x: &[f32], (inverse, log_sum): (f32, f32)) {
    wide!(|| sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += scale * exp(x * inverse - log_sum)));
}

/// `x ← scale · softmax(x)`; `log Σ exp(x)` is returned.
pub fn softmax_in_place(x: &mut [f32], scale: f32) -> f32 {
    wide!(|| {
        let most = most(x);
        x.iter_mut().for_each(|x| *x = exp(*x - most));
        let sum = sum([x], |[x]| x);
        let factor = scale / sum;
        x.iter_mut().for_each(|x| *x *= factor);
        most + sum.ln()
    })
}

/// How far two distributions are apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Divergence {
    /// `Σ p log(p / q)`.
    Forward,
    /// `Σ q log(q / p)`.
    Reverse,
    /// `β Σ p log(p / m) + (1 − β) Σ q log(q / m)`, `m = β p + (1 − β) q`.
    JensenShannon(f32),
}

impl Divergence {
    /// Of one outcome, by the logarithms of its probabilities: its part of the divergence, and `a = q · ∂D/∂q` but for a
    /// constant. If `q` is a softmax, the gradient with respect to what it is of is `a_i − q_i Σ a`.
    #[inline(always)]
    pub fn outcome(self, log_p: f32, log_q: f32) -> (f32, f32) {
        let (p, q) = (exp(log_p), exp(log_q));
        match self {
            Self::Forward => (p * (log_p - log_q), -p),
            Self::Reverse => (q * (log_q - log_p), q * (log_q - log_p)),
            Self::JensenShannon(beta) => {
                let log_m = (beta * p + (1.0 - beta) * q).max(f32::MIN_POSITIVE).ln();
                let of_q = (1.0 - beta) * q * (log_q - log_m);
                (beta * p * (log_p - log_m) + of_q, of_q)
            }
        }
    }
}

/// Logits of two models for one token, and the logarithms of their sums at a temperature.
#[derive(Debug, Clone, Copy)]
pub struct Logits<'a> {
    /// Of `p`, the model to be near to.
    pub p: &'a [f32],
    /// Of `q`.
    pub q: &'a [f32],
    /// One divided by the temperature.
    pub inverse: f32,
    /// [`log_sum`] of each.
    pub log_sums: [f32; 2],
}

impl<'a> Logits<'a> {
    /// Of two rows of one length at temperature `1 / inverse`.
    pub fn new(p: &'a [f32], q: &'a [f32], inverse: f32) -> Self {
        Self { p, q, inverse, log_sums: [log_sum(p, inverse), log_sum(q, inverse)] }
    }

    #[inline(always)]
    fn outcome(&self, divergence: Divergence, [p, q]: [f32; 2]) -> (f32, f32) {
        let [log_p, log_q] = self.log_sums;
        divergence.outcome(p * self.inverse - log_p, q * self.inverse - log_q)
    }

    #[inline(always)]
    fn q(&self, q: f32) -> f32 {
        exp(q * self.inverse - self.log_sums[1])
    }
}

/// The divergence of two rows of logits; adds `scale` times its gradient with respect to `q / T` to `slopes`.
pub fn divergence(kind: Divergence, rows: Logits<'_>, scale: f32, slopes: &mut [f32]) -> f32 {
    match kind {
        Divergence::Forward => diverge(Divergence::Forward, rows, scale, slopes), // one loop compiled for each
        Divergence::Reverse => diverge(Divergence::Reverse, rows, scale, slopes),
        other => diverge(other, rows, scale, slopes),
    }
}

#[inline(always)]
fn diverge(kind: Divergence, rows: Logits<'_>, scale: f32, slopes: &mut [f32]) -> f32 {
    wide!(|| {
        let loss = sum([rows.p, rows.q], |pair| rows.outcome(kind, pair).0);
        let all = sum([rows.p, rows.q], |pair| rows.outcome(kind, pair).1);
        for ((slope, p), q) in slopes.iter_mut().zip(rows.p).zip(rows.q) {
            *slope += scale * (rows.outcome(kind, [*p, *q]).1 - rows.q(*q) * all);
        }
        loss
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn match_hand_computed_rows() {
        let x = [0.0, 3.0_f32.ln()]; // 1/4, 3/4
        assert!((log_sum(&x, 1.0) - 4.0_f32.ln()).abs() < 1e-6);
        assert!((log_sum(&[2.0, 2.0], 0.5) - (1.0 + 2.0_f32.ln())).abs() < 1e-6);
        let mut sum = [1.0, 1.0];
        add_softmax(&mut sum, 4.0, &x, (1.0, 4.0_f32.ln()));
        assert!((sum[0] - 2.0).abs() < 1e-6 && (sum[1] - 4.0).abs() < 1e-6);
        let rows = Logits::new(&[0.0, 0.0], &x, 1.0);
        let mut slopes = [0.0; 2];
        let loss = divergence(Divergence::Forward, rows, 2.0, &mut slopes);
        let want = 0.5 * 2.0_f32.ln() + 0.5 * (2.0_f32 / 3.0).ln(); // p 1/2, q 1/4 and 3/4
        assert!((loss - want).abs() < 1e-6 && (slopes[0] + 0.5).abs() < 1e-6 && (slopes[1] - 0.5).abs() < 1e-6);
    }

    #[test]
    fn none_is_below_zero_and_equal_rows_have_none() {
        let (p, q) = ([0.3, -1.0, 2.0, 0.0], [1.0, 0.5, -0.2, 0.1]);
        for kind in [Divergence::Forward, Divergence::Reverse, Divergence::JensenShannon(0.3)] {
            let mut slopes = [0.0; 4];
            assert!(divergence(kind, Logits::new(&p, &q, 0.7), 1.0, &mut slopes) > 0.01);
            assert!(slopes.iter().sum::<f32>().abs() < 1e-6, "moving all logits changes nothing");
            let mut slopes = [0.0; 4];
            assert!(divergence(kind, Logits::new(&q, &q, 0.7), 1.0, &mut slopes).abs() < 1e-6);
            assert!(slopes.iter().all(|slope| slope.abs() < 1e-6));
        }
    }
}
