//! Units as types: a count of bytes is not a count of parameters. `Display` is for people, serde for machines.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! unit {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl std::ops::Add for $name {
            type Output = Self;
            fn add(self, other: Self) -> Self {
                Self(self.0 + other.0)
            }
        }

        impl std::iter::Sum for $name {
            fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
                items.fold(Self(0), |sum, item| sum + item)
            }
        }
    };
}

unit! {
    /// A size in memory or on disk.
    Bytes(u64)
}
unit! {
    /// A number of scalar weights.
    Parameters(u64)
}
unit! {
    /// A time, in billionths of a second.
    Nanos(u64)
}
unit! {
    /// Floating-point operations; a multiply-add counts two.
    Flops(u128)
}

/// `value` with the largest of `steps` that it reaches, to three digits.
fn scaled(f: &mut fmt::Formatter<'_>, value: f64, steps: &[(f64, &str)]) -> fmt::Result {
    let (step, name) = steps.iter().find(|(step, _)| value >= *step).copied().unwrap_or((1.0, ""));
    let text = if step == 1.0 { format!("{value}{name}") } else { format!("{:.2}{name}", value / step) };
    f.pad(&text)
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const K: f64 = 1024.0;
        scaled(f, self.0 as f64, &[(K * K * K, " GiB"), (K * K, " MiB"), (K, " KiB"), (1.0, " B")])
    }
}

impl fmt::Display for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        scaled(f, self.0 as f64, &[(1e9, "B"), (1e6, "M"), (1e3, "k")])
    }
}

impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        scaled(f, self.0 as f64, &[(1e9, " s"), (1e6, " ms"), (1e3, " us"), (1.0, " ns")])
    }
}

impl fmt::Display for Flops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        scaled(
            f,
            self.0 as f64,
            &[(1e15, " PFLOP"), (1e12, " TFLOP"), (1e9, " GFLOP"), (1e6, " MFLOP"), (1.0, " FLOP")],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_picks_the_largest_step_reached() {
        assert_eq!(Bytes(1023).to_string(), "1023 B");
        assert_eq!(Bytes(3 << 29).to_string(), "1.50 GiB");
        assert_eq!(Parameters(7_901_440).to_string(), "7.90M");
        assert_eq!(Nanos(12_345_678).to_string(), "12.35 ms");
        assert_eq!(Parameters(12).to_string(), "12");
        assert_eq!(Flops(2_500_000_000_000).to_string(), "2.50 TFLOP");
    }

    #[test]
    fn units_add_and_serialize_as_numbers() {
        let sum: Bytes = [Bytes(1), Bytes(2)].into_iter().sum();
        assert_eq!(serde_json::to_string(&sum).unwrap(), "3");
    }
}
