//! Cross-entropy of the next token: `−log softmax(logits)[target]`, with label smoothing
//! `(1 − ε) · −log q_target + ε · mean_i(−log q_i)`.
//!
//! Source: the language modelling loss; smoothing arXiv:1512.00567 §7, in torch's form. Gradient: `q − (1 − ε) onehot − ε / V`.

use serde::Deserialize;
use taper_base::registry::{Entry, MethodError, params};
use taper_kernels::rows;

use super::{Guide, Objective, OfLogits, OwnKernel, Teacher, View};

const NAME: &str = "cross-entropy";

/// The table's entry.
pub const ENTRY: Entry<dyn Objective> = Entry {
    name: NAME,
    summary: "loss of the next token",
    source: "arXiv:1512.00567 (smoothing)",
    build: |value| {
        let made: CrossEntropy = params(NAME, value)?;
        if !(0.0..1.0).contains(&made.label_smoothing) {
            let reason = format!("label_smoothing is {}, wanted 0 or more and less than 1", made.label_smoothing);
            return Err(MethodError::Parameters { method: NAME, reason });
        }
        Ok(Box::new(made))
    },
};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CrossEntropy {
    label_smoothing: f32,
}

impl Objective for CrossEntropy {
    fn view(&self) -> View<'_> {
        View::Logits(self)
    }
}

impl OfLogits for CrossEntropy {
    fn teacher(&self) -> Teacher {
        Teacher::Nobody
    }

    fn loss(&self, logits: &[f32], target: u32, _: Option<Guide<'_>>, scale: f32, slopes: &mut [f32]) -> f32 {
        let (smoothing, target) = (self.label_smoothing, target as usize);
        let log_sum = rows::log_sum(logits, 1.0);
        rows::add_softmax(slopes, scale, logits, (1.0, log_sum));
        slopes[target] -= scale * (1.0 - smoothing);
        let mut loss = (1.0 - smoothing) * (log_sum - logits[target]);
        if smoothing > 0.0 {
            let share = smoothing / logits.len() as f32;
            slopes.iter_mut().for_each(|slope| *slope -= scale * share);
            let mean = logits.iter().map(|x| f64::from(*x)).sum::<f64>() / logits.len() as f64;
            loss += smoothing * (log_sum - mean as f32);
        }
        loss
    }

    fn own_kernel(&self) -> Option<OwnKernel> {
        Some(OwnKernel::CrossEntropy(self.label_smoothing))
    }

    fn in_place(&self, logits: &mut [f32], target: u32, scale: f32) -> Option<f32> {
        let target = target as usize;
        let wanted = logits[target];
        let log_sum = (self.label_smoothing == 0.0).then(|| rows::softmax_in_place(logits, scale))?;
        logits[target] -= scale;
        Some(log_sum - wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_a_hand_computed_case() {
        let logits = [0.0, 3.0_f32.ln()]; // 1/4, 3/4
        let mut slopes = [1.0, 1.0];
        let loss = CrossEntropy::default().loss(&logits, 1, None, 2.0, &mut slopes);
        assert!((loss - (4.0_f32 / 3.0).ln()).abs() < 1e-6);
        assert!((slopes[0] - 1.5).abs() < 1e-6 && (slopes[1] - 0.5).abs() < 1e-6, "{slopes:?}"); // added
        let mut slopes = [0.0; 2];
        let loss = CrossEntropy { label_smoothing: 0.2 }.loss(&logits, 1, None, 1.0, &mut slopes);
        assert!((loss - (0.9 * (4.0_f32 / 3.0).ln() + 0.1 * 4.0_f32.ln())).abs() < 1e-6);
        assert!((slopes[0] - 0.15).abs() < 1e-6 && (slopes[1] + 0.15).abs() < 1e-6, "{slopes:?}");
    }
}
