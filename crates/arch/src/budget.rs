//! What the result may cost.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use taper_base::Nanos;

use crate::{ArchError, Architecture, Costs, LatencyTable, ModelSpec, Workload, cost};

/// What a budget counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Counted {
    /// All weights.
    #[default]
    Total,
    /// Weights of the blocks and the final norm.
    NonEmbedding,
    /// Nanoseconds by the model's table of times; no recipe names it here.
    #[serde(skip_deserializing)]
    Latency,
}

impl Counted {
    /// The counted number of `costs`; a latency that was not measured is beyond all bounds.
    pub fn of(self, costs: &Costs) -> u64 {
        match self {
            Self::Total => costs.parameters.0,
            Self::NonEmbedding => costs.non_embedding.0,
            Self::Latency => costs.latency.map_or(u64::MAX, |latency| latency.0),
        }
    }

    /// The table to count by, if times count.
    pub(crate) fn times(self, spec: &ModelSpec) -> Result<Option<&LatencyTable>, ArchError> {
        let missing = || ArchError::Mismatch {
            place: "budget".to_owned(),
            reason: "counts latency, and no times were measured".to_owned(),
        };
        let table = (self == Self::Latency).then(|| spec.latency.as_deref().ok_or_else(missing));
        table.transpose()
    }

    /// What is counted, for messages.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Total => "parameters",
            Self::NonEmbedding => "non-embedding parameters",
            Self::Latency => "a latency",
        }
    }

    /// A counted number, for messages.
    pub fn shown(self, number: u64) -> String {
        match self {
            Self::Total | Self::NonEmbedding => number.to_string(),
            Self::Latency => Nanos(number).to_string(),
        }
    }
}

/// How much: a share of the original, or a number. Written `50%`, `4.5B`, `800M`, `120k` or `123456`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Amount {
    /// Share of the original, in (0, 1].
    Share(f64),
    /// A count.
    Count(u64),
}

impl FromStr for Amount {
    type Err = ArchError;

    fn from_str(text: &str) -> Result<Self, ArchError> {
        const UNITS: [(&str, f64); 7] =
            [("k", 1e3), ("K", 1e3), ("M", 1e6), ("m", 1e6), ("B", 1e9), ("b", 1e9), ("G", 1e9)];
        parse(text, &UNITS, Some(1.0), "50%, 4.5B, 800M or 123456")
    }
}

impl Amount {
    /// A share, or a time in nanoseconds. Written `60%`, `1.5 s`, `250 ms`, `80 us` or `900 ns`.
    ///
    /// # Errors
    /// [`ArchError::Text`] if `text` is no such.
    pub fn of_time(text: &str) -> Result<Self, ArchError> {
        const UNITS: [(&str, f64); 4] = [("ns", 1.0), ("us", 1e3), ("ms", 1e6), ("s", 1e9)];
        parse(text, &UNITS, None, "60%, 250 ms or 1.5 s")
    }
}

/// Digits and one of `units`, or a percent sign; `plain` is what a number without a unit is counted in.
fn parse(text: &str, units: &[(&str, f64)], plain: Option<f64>, examples: &str) -> Result<Amount, ArchError> {
    let refuse = |reason: String| ArchError::Text { text: text.to_owned(), what: "a budget", reason };
    let wanted = || refuse(format!("wanted a positive number such as {examples}"));
    let trimmed = text.trim();
    let number = |digits: &str| digits.trim().parse().ok().filter(|n: &f64| n.is_finite() && *n > 0.0);
    if let Some(digits) = trimmed.strip_suffix('%') {
        return match number(digits).ok_or_else(wanted)? {
            percent if percent <= 100.0 => Ok(Amount::Share(percent / 100.0)),
            _ => Err(refuse("more than the whole model".to_owned())),
        };
    }
    let unit = units.iter().find_map(|(unit, scale)| trimmed.strip_suffix(unit).map(|digits| (digits, *scale)));
    let (digits, scale) = unit.or(plain.map(|scale| (trimmed, scale))).ok_or_else(wanted)?;
    let count = number(digits).ok_or_else(wanted)? * scale;
    if count < 1e15 { Ok(Amount::Count(count.round() as u64)) } else { Err(refuse("larger than any model".to_owned())) }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Share(share) => write!(f, "{}%", share * 100.0),
            Self::Count(count) => write!(f, "{count}"),
        }
    }
}

/// A budget as a recipe states it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    /// How much.
    pub amount: Amount,
    /// Of what.
    pub counted: Counted,
    /// How far below the amount a result may stay, as a share of the amount. It is never above.
    pub tolerance: f64,
}

/// A budget in numbers for one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetRange {
    /// What is counted.
    pub counted: Counted,
    /// The least allowed.
    pub least: u64,
    /// The most allowed.
    pub most: u64,
}

impl Budget {
    /// The budget in numbers for `spec`.
    ///
    /// # Errors
    /// [`ArchError::Mismatch`] if `spec` is inconsistent, or has no table of the times that count.
    pub fn range(&self, spec: &ModelSpec) -> Result<BudgetRange, ArchError> {
        let costs = cost(spec, &Architecture::whole(spec), Workload::default())?;
        self.counted.times(spec)?;
        let original = self.counted.of(&costs);
        let most = match self.amount {
            Amount::Share(share) => (original as f64 * share).floor() as u64,
            Amount::Count(count) => count.min(original),
        };
        let least = (most as f64 * (1.0 - self.tolerance)).ceil() as u64;
        Ok(BudgetRange { counted: self.counted, least, most })
    }
}

impl BudgetRange {
    /// Whether `costs` are inside.
    pub fn holds(&self, costs: &Costs) -> bool {
        (self.least..=self.most).contains(&self.counted.of(costs))
    }

    /// The error that says what the space reaches instead.
    pub fn infeasible(&self, smallest: u64, largest: u64) -> ArchError {
        ArchError::Infeasible { counted: self.counted, least: self.least, most: self.most, smallest, largest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::example;

    #[test]
    fn amounts_parse_and_refuse() {
        let parse = |text: &str| text.parse::<Amount>();
        assert_eq!(parse("50%").unwrap(), Amount::Share(0.5));
        assert_eq!(parse("4.5B").unwrap(), Amount::Count(4_500_000_000));
        assert_eq!(parse(" 120k ").unwrap(), Amount::Count(120_000));
        assert_eq!(parse("77").unwrap(), Amount::Count(77));
        for bad in ["", "-3%", "150%", "nan%", "half", "1e40B", "é", "5 ms"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let times = ["60%", "1.5 s", "250ms", "80 us", "900ns"].map(|text| Amount::of_time(text).unwrap());
        let count = Amount::Count;
        assert_eq!(times, [Amount::Share(0.6), count(1_500_000_000), count(250_000_000), count(80_000), count(900)]);
        for bad in ["", "5", "ms", "-1 s", "101%", "1 min", "1e9 s"] {
            assert!(Amount::of_time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_range_ends_at_the_amount_and_starts_below_it() {
        let budget = Budget { amount: Amount::Share(0.5), counted: Counted::NonEmbedding, tolerance: 0.02 };
        let whole = cost(&example(), &Architecture::whole(&example()), Workload::default()).unwrap();
        let range = budget.range(&example()).unwrap();
        assert_eq!(range.most, whole.non_embedding.0 / 2);
        assert_eq!(range.least, (range.most as f64 * 0.98).ceil() as u64);
        assert!(!range.holds(&whole));
        let refusal = Budget { counted: Counted::Latency, ..budget }.range(&example()).unwrap_err().to_string();
        assert_eq!(refusal, "budget: counts latency, and no times were measured");
    }
}
