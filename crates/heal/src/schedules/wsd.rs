//! Warm-up, stable, decay: up over the first `warmup` of the steps, level, and straight down to `floor` over the last
//! `decay`. Source: arXiv:2404.06395 (WSD); 5/65/30 as Minitron heals (arXiv:2407.14679 decays differently: deviation).

use serde::Deserialize;
use taper_base::registry::{Entry, MethodError, params};

use super::{Schedule, Shape};

const NAME: &str = "wsd";

/// The table's entry.
pub const ENTRY: Entry<dyn Schedule> = Entry {
    name: NAME,
    summary: "warm-up, one rate, then straight down",
    source: "arXiv:2404.06395",
    build: |value| {
        let made: Wsd = params(NAME, value)?;
        Shape { warmup: made.warmup, floor: made.floor }.check(NAME)?;
        if !(made.decay >= 0.0 && made.warmup + made.decay <= 1.0) {
            let reason = format!("warmup and decay are {} and {}, wanted 1 together at most", made.warmup, made.decay);
            return Err(MethodError::Parameters { method: NAME, reason });
        }
        Ok(Box::new(made))
    },
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Wsd {
    warmup: f64,
    decay: f64,
    floor: f64,
}

impl Default for Wsd {
    fn default() -> Self {
        Self { warmup: 0.05, decay: 0.3, floor: 0.0 }
    }
}

impl Schedule for Wsd {
    fn factor(&self, step: u64, steps: u64) -> f64 {
        let stable = (1.0 - self.warmup - self.decay) / (1.0 - self.warmup).max(f64::MIN_POSITIVE); // of what follows
        Shape { warmup: self.warmup, floor: self.floor }
            .factor(step, steps, |e| if e <= stable { 1.0 } else { (1.0 - e) / (1.0 - stable) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_three_parts() {
        let wsd = Wsd { floor: 0.1, ..Wsd::default() };
        let at = |step| wsd.factor(step, 101);
        assert_eq!(at(0), 1.0 / 6.0); // five steps of warm-up
        assert_eq!((at(5), at(40), at(69)), (1.0, 1.0, 1.0));
        assert!(at(75) < 1.0 && (at(85) - (0.1 + 0.9 * 15.0 / (96.0 * 0.3 / 0.95))).abs() < 0.02, "{}", at(85));
        assert!((at(100) - 0.1).abs() < 1e-12);
        assert!((ENTRY.build)(&serde_json::json!({"warmup": 0.8})).is_err());
    }
}
