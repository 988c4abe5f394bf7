//! AdamW: `m ← β1 m + (1 − β1) g`, `v ← β2 v + (1 − β2) g²`, `w ← w − η λ w − η m̂ / (sqrt(v̂) + ε)`, `m̂ = m / (1 − β1^t)`,
//! `v̂ = v / (1 − β2^t)`.
//!
//! Source: arXiv:1711.05101, as `torch.optim.AdamW` computes it. Decay is of matrices alone, as in Hugging Face's trainer:
//! norms and biases have none.

use serde::Deserialize;
use taper_base::registry::{Entry, MethodError, params};
use taper_kernels::update;

use super::{Kind, Optimizer, Slot, decay, within};

const NAME: &str = "adamw";

/// The table's entry.
pub const ENTRY: Entry<dyn Optimizer> = Entry {
    name: NAME,
    summary: "moments of first and second order, with decay apart from the gradient",
    source: "arXiv:1711.05101",
    build: |value| {
        let made: AdamW = params(NAME, value)?;
        made.check(NAME)?;
        Ok(Box::new(made))
    },
};

/// Its numbers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct AdamW {
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 }
    }
}

impl AdamW {
    pub(super) fn check(&self, method: &'static str) -> Result<(), MethodError> {
        within(method, "beta1", self.beta1, 0.0..1.0)?;
        within(method, "beta2", self.beta2, 0.0..1.0)?;
        within(method, "eps", self.eps, 0.0..1.0)?;
        within(method, "weight_decay", self.weight_decay, 0.0..f64::INFINITY)
    }
}

impl Optimizer for AdamW {
    fn buffers(&self, _: Kind<'_>) -> usize {
        2
    }

    fn update(&self, slot: Slot<'_>, step: u64, rate: f64) {
        let Slot { kind, weight, gradient, scale, state } = slot;
        let [m, v] = state else { return }; // as many as `buffers` says
        let correction = |beta: f64| 1.0 - beta.powf(step as f64);
        let numbers = update::AdamW {
            scale,
            beta1: self.beta1 as f32,
            beta2: self.beta2 as f32,
            eps: self.eps as f32,
            shrink: decay(kind, rate, self.weight_decay),
            rate: (rate / correction(self.beta1)) as f32,
            root: correction(self.beta2).sqrt() as f32,
        };
        update::adamw(weight, gradient, [m, v], numbers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_is_the_sign_and_decay_is_of_matrices() {
        for (shape, want) in [(&[2, 1][..], [0.89, 1.11 - 0.02]), (&[2], [0.9, 1.1])] {
            let (mut weight, mut state) = ([1.0_f32; 2], vec![vec![0.0; 2]; 2]);
            let kind = Kind { shape, hidden: false, transposed: false };
            let slot = Slot { kind, weight: &mut weight, gradient: &[3.0, -5.0], scale: 1.0, state: &mut state };
            AdamW::default().update(slot, 1, 0.1);
            assert!(weight.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{weight:?}");
        }
    }
}
