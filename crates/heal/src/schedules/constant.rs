//! Warm-up, then one rate. No source: the plainest there is.

use serde::Deserialize;
use taper_base::registry::{Entry, params};

use super::{Schedule, Shape};

const NAME: &str = "constant";

/// The table's entry.
pub const ENTRY: Entry<dyn Schedule> = Entry {
    name: NAME,
    summary: "warm-up, then one rate",
    source: "",
    build: |value| {
        let made: Constant = params(NAME, value)?;
        Shape { warmup: made.warmup, floor: 0.0 }.check(NAME)?;
        Ok(Box::new(made))
    },
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Constant {
    warmup: f64,
}

impl Default for Constant {
    fn default() -> Self {
        Self { warmup: 0.02 }
    }
}

impl Schedule for Constant {
    fn factor(&self, step: u64, steps: u64) -> f64 {
        Shape { warmup: self.warmup, floor: 0.0 }.factor(step, steps, |_| 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_one_after_the_warm_up() {
        let all: Vec<f64> = (0..5).map(|step| Constant { warmup: 0.5 }.factor(step, 5)).collect();
        assert_eq!(all, [1.0 / 3.0, 2.0 / 3.0, 1.0, 1.0, 1.0]);
    }
}
