//! How the learning rate goes over a run: one file a schedule.

pub mod constant;
pub mod cosine;
pub mod cosine_power;
pub mod wsd;

use serde_json::Value;
use taper_base::registry::{self, Entry, MethodError};

/// A course of the learning rate.
pub trait Schedule: Send + Sync + std::fmt::Debug {
    /// What the peak rate is multiplied with in step `step` (from 0) of `steps`: in [0, 1].
    fn factor(&self, step: u64, steps: u64) -> f64;
}

/// All schedules, sorted by name.
pub const ALL: &[Entry<dyn Schedule>] = &[constant::ENTRY, cosine::ENTRY, cosine_power::ENTRY, wsd::ENTRY];

/// The schedule `name` with its parameters, `Null` for none.
///
/// # Errors
/// [`MethodError`] naming the nearest known name, or the parameter that is wrong.
pub fn build(name: &str, params: &Value) -> Result<Box<dyn Schedule>, MethodError> {
    registry::build("schedule", ALL, name, params)
}

/// What all schedules have: a warm-up, and where they end.
#[derive(Debug, Clone, Copy)]
struct Shape {
    /// Share of the steps over which the rate rises.
    warmup: f64,
    /// The last step's factor.
    floor: f64,
}

impl Shape {
    fn check(self, method: &'static str) -> Result<(), MethodError> {
        let bad = |key, value: f64| {
            let reason = format!("{key} is {value}, wanted 0 or more and less than 1");
            Err(MethodError::Parameters { method, reason })
        };
        match self {
            Self { warmup, .. } if !(0.0..1.0).contains(&warmup) => bad("warmup", warmup),
            Self { floor, .. } if !(0.0..1.0).contains(&floor) => bad("floor", floor),
            _ => Ok(()),
        }
    }

    /// Up in `warmup · steps` steps, the first one above 0; from then on `course`, of what is left done, from 1 to 0, above
    /// the floor.
    fn factor(self, step: u64, steps: u64, course: impl Fn(f64) -> f64) -> f64 {
        let warm = (self.warmup * steps as f64).floor() as u64;
        if step < warm {
            return (step + 1) as f64 / (warm + 1) as f64;
        }
        let left = steps.saturating_sub(warm + 1).max(1);
        self.floor + (1.0 - self.floor) * course((step - warm) as f64 / left as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_unique_and_match_files() {
        let names: Vec<_> = ALL.iter().map(|entry| entry.name).collect();
        assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
        assert_eq!(names, testkit::method_files(env!("CARGO_MANIFEST_DIR"), "src/schedules"));
        for entry in ALL {
            let schedule = build(entry.name, &Value::Null).unwrap();
            assert!((0..300).all(|step| (0.0..=1.0).contains(&schedule.factor(step, 300))), "{}", entry.name);
            assert!((0..300).any(|step| schedule.factor(step, 300) == 1.0), "{} reaches its peak", entry.name);
            assert!(build(entry.name, &serde_json::json!({"warmup": 1.0})).is_err());
        }
    }
}
