//! The model's own past as its teacher: `T² · KL(p ‖ q)` with `p` the mean of the probabilities that `voters` earlier
//! checkpoints of the training give at temperature `T`, one taken every `every` steps, newest ones kept.
//!
//! Before the first vote the loss is 0. Memory: a copy of the trained weights for each voter.
//!
//! Source: arXiv:2302.05629 (SD-DARTS, method 32). The paper's weight and temperature could not be checked; `T²` is that of
//! arXiv:1503.02531.

use serde::Deserialize;
use taper_base::registry::{Entry, MethodError, params};
use taper_kernels::rows;

use super::{Guide, Objective, OfLogits, Teacher, View};

const NAME: &str = "self-distill";

/// The table's entry.
pub const ENTRY: Entry<dyn Objective> = Entry {
    name: NAME,
    summary: "divergence from the mean prediction of the training's own past checkpoints",
    source: "arXiv:2302.05629",
    build: |value| {
        let made: SelfDistill = params(NAME, value)?;
        let bad = |reason: String| Err(MethodError::Parameters { method: NAME, reason });
        if !(made.temperature.is_finite() && made.temperature > 0.0) {
            return bad(format!("temperature is {}, wanted more than 0", made.temperature));
        }
        if made.voters == 0 || made.every == 0 {
            return bad(format!("{} voters, one every {} steps, wanted 1 at least", made.voters, made.every));
        }
        Ok(Box::new(made))
    },
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SelfDistill {
    voters: usize,
    every: u64,
    temperature: f64,
}

impl Default for SelfDistill {
    fn default() -> Self {
        Self { voters: 3, every: 50, temperature: 1.0 }
    }
}

impl Objective for SelfDistill {
    fn view(&self) -> View<'_> {
        View::Logits(self)
    }
}

impl OfLogits for SelfDistill {
    fn teacher(&self) -> Teacher {
        Teacher::Voters { count: self.voters, every: self.every, temperature: self.temperature }
    }

    fn loss(&self, logits: &[f32], _: u32, guide: Option<Guide<'_>>, scale: f32, slopes: &mut [f32]) -> f32 {
        let Some(Guide::Probabilities(votes)) = guide else { return 0.0 };
        let (temperature, inverse) = (self.temperature, (1.0 / self.temperature) as f32);
        let log_sum = rows::log_sum(logits, inverse);
        let terms = votes.iter().zip(logits).filter(|(p, _)| **p > 0.0);
        let divergence: f64 =
            terms.map(|(p, x)| f64::from(*p) * (f64::from(*p).ln() - f64::from(x * inverse - log_sum))).sum();
        let slope = scale * temperature as f32;
        rows::add_softmax(slopes, slope, logits, (inverse, log_sum));
        rows::add_scaled(slopes, -slope, votes);
        (temperature * temperature * divergence) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const STUDENT: [f32; 4] = [0.3, -1.2, 2.0, 0.1];
    const VOTES: [f32; 4] = [0.1, 0.2, 0.3, 0.4];

    fn run(params: &serde_json::Value, logits: &[f32], guide: Option<Guide<'_>>) -> (f32, Vec<f32>) {
        let made = (ENTRY.build)(params).unwrap();
        let View::Logits(objective) = made.view() else { panic!("an objective of logits") };
        let mut slopes = vec![0.0; logits.len()];
        let loss = objective.loss(logits, 0, guide, 1.0, &mut slopes);
        (loss, slopes)
    }

    #[test]
    fn one_voter_is_distillation_and_none_is_nothing() {
        let params = json!({"temperature": 2.0});
        let (loss, slopes) = run(&params, &STUDENT, Some(Guide::Probabilities(&VOTES)));
        let teacher: Vec<f32> = VOTES.iter().map(|p| 2.0 * p.ln()).collect();
        let kl = super::super::build("logit-kl", &params).unwrap();
        let View::Logits(kl) = kl.view() else { panic!("an objective of logits") };
        let mut wanted = vec![0.0; 4];
        let other = kl.loss(&STUDENT, 0, Some(Guide::Logits(&teacher)), 1.0, &mut wanted);
        assert!((loss - other).abs() < 1e-5, "{loss} {other}");
        assert!(slopes.iter().zip(&wanted).all(|(a, b)| (a - b).abs() < 1e-6), "{slopes:?} {wanted:?}");
        assert_eq!(run(&params, &STUDENT, None), (0.0, vec![0.0; 4]));
    }

    #[test]
    fn parameters_are_checked() {
        for (value, want) in [
            (json!({"temperature": -1}), "self-distill: temperature is -1, wanted more than 0"),
            (json!({"voters": 0}), "self-distill: 0 voters, one every 50 steps, wanted 1 at least"),
        ] {
            assert_eq!((ENTRY.build)(&value).unwrap_err().to_string(), want);
        }
    }
}
