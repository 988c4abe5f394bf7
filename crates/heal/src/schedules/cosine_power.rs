//! Cosine power annealing: `v = p^(c + 1)`, `c = (1 + cos(π e)) / 2`, scaled so that it goes from 1 to `floor`.
//!
//! `(p^(c+1) − p) / (p² − p)`; `p = 1` is the limit, the plain cosine. Source: arXiv:1903.09900 §3.3, where `p = 10`.

use serde::Deserialize;
use taper_base::registry::{Entry, MethodError, params};

use super::{Schedule, Shape};

const NAME: &str = "cosine-power";

/// The table's entry.
pub const ENTRY: Entry<dyn Schedule> = Entry {
    name: NAME,
    summary: "warm-up, then down along a power of half a cosine: faster at first",
    source: "arXiv:1903.09900",
    build: |value| {
        let made: CosinePower = params(NAME, value)?;
        Shape { warmup: made.warmup, floor: made.floor }.check(NAME)?;
        if !(made.power.is_finite() && made.power >= 1.0) {
            let reason = format!("power is {}, wanted 1 or more", made.power);
            return Err(MethodError::Parameters { method: NAME, reason });
        }
        Ok(Box::new(made))
    },
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CosinePower {
    power: f64,
    warmup: f64,
    floor: f64,
}

impl Default for CosinePower {
    fn default() -> Self {
        Self { power: 10.0, warmup: 0.02, floor: 0.0 }
    }
}

impl Schedule for CosinePower {
    fn factor(&self, step: u64, steps: u64) -> f64 {
        let p = self.power;
        Shape { warmup: self.warmup, floor: self.floor }.factor(step, steps, |e| {
            let c = (1.0 + (std::f64::consts::PI * e).cos()) / 2.0;
            if p == 1.0 { c } else { (p.powf(c + 1.0) - p) / (p * p - p) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_one_is_the_cosine_and_ends_are_exact() {
        let of = |power: f64, step| CosinePower { power, warmup: 0.0, floor: 0.0 }.factor(step, 101);
        for step in 0..101 {
            let cosine = (1.0 + (std::f64::consts::PI * step as f64 / 100.0).cos()) / 2.0;
            assert!((of(1.0, step) - cosine).abs() < 1e-12);
            assert!((of(1.0 + 1e-9, step) - cosine).abs() < 1e-6, "the limit");
            let want = (10.0_f64.powf(cosine + 1.0) - 10.0) / 90.0;
            assert!((of(10.0, step) - want).abs() < 1e-12);
        }
        assert_eq!((of(10.0, 0), of(10.0, 100)), (1.0, 0.0));
    }
}
