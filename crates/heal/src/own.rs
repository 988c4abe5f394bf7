//! Objectives of logits that a machine computes by itself, so that no logits leave it.

use taper_kernels::cuda::Predictions;
use taper_kernels::rows::Divergence;

use crate::losses::Aim;
use crate::objectives::{OwnKernel, View};

/// Which of the aims they are.
pub(crate) struct Own {
    cross_entropy: Option<usize>,
    divergence: Option<usize>,
    /// What the kernel is told.
    pub(crate) aims: Predictions,
    /// One divided by the number of tokens learnt.
    each: f64,
}

impl Own {
    /// Of `aims`, if the kernel does all of them that look at logits: one of a kind, a divergence only by `teacher`.
    pub(crate) fn of(aims: &[Aim], learnt: usize, teacher: bool) -> Option<Self> {
        let each = 1.0 / learnt.max(1) as f64;
        let none = Predictions {
            cross_entropy: 0.0,
            smoothing: 0.0,
            apart: 0.0,
            divergence: Divergence::Forward,
            temperature: 1.0,
        };
        let mut own = Self { cross_entropy: None, divergence: None, aims: none, each };
        for (index, aim) in aims.iter().enumerate() {
            let View::Logits(objective) = aim.objective.view() else { continue };
            match objective.own_kernel()? {
                OwnKernel::CrossEntropy(smoothing) if own.cross_entropy.is_none() => {
                    own.cross_entropy = Some(index);
                    own.aims =
                        Predictions { cross_entropy: aim.weight * each, smoothing: f64::from(smoothing), ..own.aims };
                }
                OwnKernel::Divergence(divergence, temperature) if own.divergence.is_none() && teacher => {
                    own.divergence = Some(index);
                    // T² · ∂/∂logits = T² · 1/T · ∂/∂(logits / T)
                    own.aims =
                        Predictions { apart: aim.weight * each * temperature, divergence, temperature, ..own.aims };
                }
                _ => return None,
            }
        }
        Some(own)
    }

    /// Whether the teacher's predictions are looked at.
    pub(crate) fn compares(&self) -> bool {
        self.divergence.is_some()
    }

    /// Adds what the kernel has found, `[tokens, 2]`, to the aims' losses.
    pub(crate) fn add(&self, found: &[f32], losses: &mut [f64]) {
        let sum = |column: usize| found.iter().skip(column).step_by(2).map(|loss| f64::from(*loss)).sum::<f64>();
        if let Some(index) = self.cross_entropy {
            losses[index] += sum(0) * self.each;
        }
        if let Some(index) = self.divergence {
            losses[index] += self.aims.temperature.powi(2) * sum(1) * self.each;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::objectives;

    fn own(aims: &[(&str, Value)], teacher: bool) -> Option<Own> {
        let aim = |(name, params): &(&str, Value)| Aim {
            name: (*name).to_owned(),
            weight: 3.0,
            objective: objectives::build(name, params).unwrap(),
        };
        Own::of(&aims.iter().map(aim).collect::<Vec<_>>(), 6, teacher)
    }

    #[test]
    fn one_of_each_kind_is_for_the_kernel() {
        let (ce, kl) = (("cross-entropy", json!({"label_smoothing": 0.25})), ("logit-kl", json!({"temperature": 2.0})));
        let both = own(&[kl.clone(), ("cka", json!({})), ce.clone()], true).unwrap();
        assert!(both.compares());
        assert_eq!([both.aims.cross_entropy, both.aims.smoothing, both.aims.apart], [0.5, 0.25, 1.0]);
        let mut losses = [1.0; 3];
        both.add(&[6.0, 1.5, 0.0, 1.5], &mut losses);
        assert_eq!(losses, [1.0 + 4.0 * 3.0 / 6.0, 1.0, 2.0]);
        assert!(!own(std::slice::from_ref(&ce), true).unwrap().compares());
        assert!(own(&[ce.clone(), ce], true).is_none() && own(&[kl], false).is_none());
        assert!(own(&[("logit-kl", json!({"top": 4}))], true).is_none());
        assert!(own(&[("self-distill", json!({}))], true).is_none());
    }
}
