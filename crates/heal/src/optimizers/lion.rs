//! Lion: `w ← w − η (sign(β1 m + (1 − β1) g) + λ w)`, `m ← β2 m + (1 − β2) g`.
//!
//! Source: arXiv:2302.06675, algorithm 2; its betas for language models are .95 and .98. One buffer. Rates are 3 to 10 times
//! smaller than AdamW's, decay as much larger. Decay is of matrices alone.

use serde::Deserialize;
use taper_base::registry::{Entry, params};
use taper_kernels::update;

use super::{Kind, Optimizer, Slot, decay, within};

const NAME: &str = "lion";

/// The table's entry.
pub const ENTRY: Entry<dyn Optimizer> = Entry {
    name: NAME,
    summary: "the sign of a momentum: half of AdamW's memory",
    source: "arXiv:2302.06675",
    build: |value| {
        let made: Lion = params(NAME, value)?;
        within(NAME, "beta1", made.beta1, 0.0..1.0)?;
        within(NAME, "beta2", made.beta2, 0.0..1.0)?;
        within(NAME, "weight_decay", made.weight_decay, 0.0..f64::INFINITY)?;
        Ok(Box::new(made))
    },
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Lion {
    beta1: f64,
    beta2: f64,
    weight_decay: f64,
}

impl Default for Lion {
    fn default() -> Self {
        Self { beta1: 0.95, beta2: 0.98, weight_decay: 1.0 }
    }
}

impl Optimizer for Lion {
    fn buffers(&self, _: Kind<'_>) -> usize {
        1
    }

    fn update(&self, slot: Slot<'_>, _: u64, rate: f64) {
        let Slot { kind, weight, gradient, scale, state } = slot;
        let [m] = state else { return }; // as many as `buffers` says
        let numbers = update::Lion {
            scale,
            beta1: self.beta1 as f32,
            beta2: self.beta2 as f32,
            shrink: decay(kind, rate, self.weight_decay),
            rate: rate as f32,
        };
        update::lion(weight, gradient, m, numbers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_update_looks_at_beta1_and_the_momentum_at_beta2() {
        let lion = Lion { beta1: 0.9, beta2: 0.5, weight_decay: 0.5 };
        let (mut weight, mut state) = ([1.0_f32, 1.0], vec![vec![1.0_f32, 1.0]]);
        let kind = Kind { shape: &[1, 2], hidden: true, transposed: false };
        // 0.9 − 0.4 > 0 and 0.9 − 1 < 0; by beta2 both would be below 0
        lion.update(
            Slot { kind, weight: &mut weight, gradient: &[-4.0, -10.0], scale: 1.0, state: &mut state },
            1,
            0.1,
        );
        assert!((weight[0] - 0.85).abs() < 1e-6 && (weight[1] - 1.05).abs() < 1e-6, "{weight:?}");
        assert_eq!(state, [[-1.5, -4.5]]);
        assert_eq!(lion.buffers(kind), 1);
    }
}
