//! Divergence of the student's next-token distribution `q` from the teacher's `p`, both at temperature `T`, times `T²`.
//!
//! `forward` is `KL(p‖q)`, `reverse` `KL(q‖p)`, `jensen-shannon` `β KL(p‖m) + (1 − β) KL(q‖m)` with `m = β p + (1 − β) q`.
//! With `top: k` the outcomes are the teacher's `k` likeliest tokens and one more, "any other token", whose probability is
//! what is missing to 1, for both models: no probability is dropped, and the teacher may come from a cache.
//!
//! Sources: arXiv:1503.02531 (temperature, `T²`), arXiv:2306.08543 (reverse), arXiv:2306.13649 (generalised
//! Jensen-Shannon). Deviation: with `top` others renormalise over `k`, which lets the student put any mass elsewhere.

use serde::Deserialize;
use taper_base::registry::{Entry, MethodError, params};
use taper_kernels::rows::{self, Divergence, Logits};

use super::{Guide, Objective, OfLogits, OwnKernel, Teacher, View};

const NAME: &str = "logit-kl";

/// The table's entry.
pub const ENTRY: Entry<dyn Objective> = Entry {
    name: NAME,
    summary: "divergence of the predictions from the teacher's: forward, reverse or Jensen-Shannon",
    source: "arXiv:1503.02531",
    build: |value| {
        let made: LogitKl = params(NAME, value)?;
        let bad = |reason: String| Err(MethodError::Parameters { method: NAME, reason });
        if !(made.temperature.is_finite() && made.temperature > 0.0) {
            return bad(format!("temperature is {}, wanted more than 0", made.temperature));
        }
        if made.top == Some(0) {
            return bad("top is 0, wanted 1 or more, or none for all tokens".to_owned());
        }
        if !(made.beta > 0.0 && made.beta < 1.0) {
            return bad(format!("beta is {}, wanted more than 0 and less than 1", made.beta));
        }
        Ok(Box::new(made))
    },
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LogitKl {
    direction: Direction,
    temperature: f64,
    top: Option<usize>,
    beta: f32,
}

impl Default for LogitKl {
    fn default() -> Self {
        Self { direction: Direction::Forward, temperature: 1.0, top: None, beta: 0.5 }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Direction {
    Forward,
    Reverse,
    JensenShannon,
}

impl Objective for LogitKl {
    fn view(&self) -> View<'_> {
        View::Logits(self)
    }
}

impl OfLogits for LogitKl {
    fn teacher(&self) -> Teacher {
        Teacher::Original { temperature: self.temperature, top: self.top }
    }

    fn loss(&self, logits: &[f32], _: u32, guide: Option<Guide<'_>>, scale: f32, slopes: &mut [f32]) -> f32 {
        let (temperature, inverse) = (self.temperature as f32, (1.0 / self.temperature) as f32);
        let found = match guide {
            // T² · ∂/∂logits = T² · 1/T · ∂/∂(logits / T)
            Some(Guide::Logits(teacher)) => {
                let rows = Logits::new(teacher, logits, inverse);
                rows::divergence(self.divergence(), rows, scale * temperature, slopes)
            }
            Some(Guide::Top { ids, log_probabilities }) => {
                self.top_loss(logits, (ids, log_probabilities), scale * temperature, slopes)
            }
            _ => 0.0,
        };
        temperature * temperature * found
    }

    fn own_kernel(&self) -> Option<OwnKernel> {
        self.top.is_none().then(|| OwnKernel::Divergence(self.divergence(), self.temperature))
    }
}

impl LogitKl {
    fn divergence(&self) -> Divergence {
        match self.direction {
            Direction::Forward => Divergence::Forward,
            Direction::Reverse => Divergence::Reverse,
            Direction::JensenShannon => Divergence::JensenShannon(self.beta),
        }
    }

    /// Over the teacher's likeliest tokens and the rest.
    fn top_loss(&self, logits: &[f32], (ids, log_p): (&[u32], &[f32]), scale: f32, slopes: &mut [f32]) -> f32 {
        let inverse = (1.0 / self.temperature) as f32;
        let log_sum = rows::log_sum(logits, inverse);
        let log_q = |id: u32| logits[id as usize] * inverse - log_sum;
        let rest = |logs: &mut dyn Iterator<Item = f32>| {
            let missing = 1.0 - logs.map(|log| f64::from(log).exp()).sum::<f64>();
            (missing.max(1e-12).ln() as f32, missing.max(1e-12) as f32)
        };
        let (rest_p, _) = rest(&mut log_p.iter().copied());
        let (rest_log_q, rest_q) = rest(&mut ids.iter().map(|id| log_q(*id)));
        let outcome = |log_p: f32, log_q: f32| self.divergence().outcome(log_p, log_q);
        let (mut loss, of_rest) = outcome(rest_p, rest_log_q);
        let mut all = of_rest;
        for (id, log_p) in ids.iter().zip(log_p) {
            let (part, a) = outcome(*log_p, log_q(*id));
            (loss, all) = (loss + part, all + a);
        }
        // others share the rest's slope by their probability
        let shared = scale * (of_rest / rest_q - all);
        let before: Vec<f32> = ids.iter().map(|id| slopes[*id as usize]).collect();
        rows::add_softmax(slopes, shared, logits, (inverse, log_sum));
        for ((id, log_p), before) in ids.iter().zip(log_p).zip(before) {
            let (_, a) = outcome(*log_p, log_q(*id));
            slopes[*id as usize] = before + scale * (a - log_q(*id).exp() * all);
        }
        loss
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const STUDENT: [f32; 6] = [0.3, -1.2, 2.0, 0.1, -0.4, 1.1];
    const TEACHER: [f32; 6] = [1.3, 0.2, 1.0, -2.1, 0.4, 0.0];

    fn made(value: serde_json::Value) -> Box<dyn Objective> {
        (ENTRY.build)(&value).unwrap()
    }

    fn run(objective: &dyn Objective, logits: &[f32], guide: Guide<'_>) -> (f32, Vec<f32>) {
        let View::Logits(objective) = objective.view() else { panic!("an objective of logits") };
        let mut slopes = vec![0.0; logits.len()];
        let loss = objective.loss(logits, 0, Some(guide), 1.0, &mut slopes);
        (loss, slopes)
    }

    /// The `k` likeliest of `TEACHER` at temperature 2.
    fn top(k: usize) -> (Vec<u32>, Vec<f32>) {
        let mut ids: Vec<u32> = (0..6).collect();
        ids.sort_by(|a, b| TEACHER[*b as usize].total_cmp(&TEACHER[*a as usize]));
        ids.truncate(k);
        let log_sum = rows::log_sum(&TEACHER, 0.5);
        let logs = ids.iter().map(|id| TEACHER[*id as usize] * 0.5 - log_sum).collect();
        (ids, logs)
    }

    #[test]
    fn gradients_are_finite_differences() {
        for direction in ["forward", "reverse", "jensen-shannon"] {
            for k in [None, Some(3), Some(5)] {
                let objective = made(json!({"direction": direction, "temperature": 2.0, "top": k, "beta": 0.3}));
                let (ids, logs) = top(k.unwrap_or(1));
                let guide = match k {
                    None => Guide::Logits(&TEACHER),
                    Some(_) => Guide::Top { ids: &ids, log_probabilities: &logs },
                };
                let (_, slopes) = run(&*objective, &STUDENT, guide);
                for (index, slope) in slopes.iter().enumerate() {
                    let moved = |by: f32| {
                        let mut logits = STUDENT;
                        logits[index] += by;
                        run(&*objective, &logits, guide).0
                    };
                    let want = (moved(1e-2) - moved(-1e-2)) / 2e-2;
                    assert!((slope - want).abs() < 2e-4, "{direction} {k:?} {index}: {slope} {want}");
                }
            }
        }
    }

    #[test]
    fn all_but_one_token_is_the_full_divergence() {
        for direction in ["forward", "reverse", "jensen-shannon"] {
            let whole =
                run(&*made(json!({"direction": direction, "temperature": 2.0})), &STUDENT, Guide::Logits(&TEACHER));
            let (ids, logs) = top(5);
            let guide = Guide::Top { ids: &ids, log_probabilities: &logs };
            let five = run(&*made(json!({"direction": direction, "temperature": 2.0, "top": 5})), &STUDENT, guide);
            assert!((whole.0 - five.0).abs() < 1e-5, "{direction}");
            assert!(whole.1.iter().zip(&five.1).all(|(a, b)| (a - b).abs() < 1e-5), "{direction}");
        }
    }

    #[test]
    fn parameters_are_checked() {
        for (value, want) in [
            (json!({"temperature": 0}), "logit-kl: temperature is 0, wanted more than 0"),
            (json!({"top": 0}), "logit-kl: top is 0, wanted 1 or more, or none for all tokens"),
            (json!({"beta": 1.0}), "logit-kl: beta is 1, wanted more than 0 and less than 1"),
        ] {
            assert_eq!((ENTRY.build)(&value).unwrap_err().to_string(), want);
        }
    }
}
