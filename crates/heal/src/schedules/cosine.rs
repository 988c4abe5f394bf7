//! Warm-up, then half a cosine: `floor + (1 − floor) · (1 + cos(π e)) / 2`, `e` the share of the steps after the warm-up.
//!
//! Source: arXiv:1608.03983, without restarts. The last step is at `floor`.

use serde::Deserialize;
use taper_base::registry::{Entry, params};

use super::{Schedule, Shape};

const NAME: &str = "cosine";

/// The table's entry.
pub const ENTRY: Entry<dyn Schedule> = Entry {
    name: NAME,
    summary: "warm-up, then down along half a cosine",
    source: "arXiv:1608.03983",
    build: |value| {
        let made: Cosine = params(NAME, value)?;
        Shape { warmup: made.warmup, floor: made.floor }.check(NAME)?;
        Ok(Box::new(made))
    },
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Cosine {
    warmup: f64,
    floor: f64,
}

impl Default for Cosine {
    fn default() -> Self {
        Self { warmup: 0.02, floor: 0.0 }
    }
}

impl Schedule for Cosine {
    fn factor(&self, step: u64, steps: u64) -> f64 {
        let shape = Shape { warmup: self.warmup, floor: self.floor };
        shape.factor(step, steps, |e| (1.0 + (std::f64::consts::PI * e).cos()) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_falls_and_ends_at_its_floor() {
        let cosine = Cosine { warmup: 0.2, floor: 0.1 };
        assert_eq!(cosine.factor(0, 11), 1.0 / 3.0); // two steps of warm-up, then the peak
        assert_eq!(cosine.factor(1, 11), 2.0 / 3.0);
        assert_eq!(cosine.factor(2, 11), 1.0);
        assert!((cosine.factor(6, 11) - 0.55).abs() < 1e-12);
        assert!((cosine.factor(10, 11) - 0.1).abs() < 1e-12);
        assert_eq!(Cosine::default().factor(0, 1), 1.0);
    }
}
