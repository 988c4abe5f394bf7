//! What the result may cost.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{ArchError, Architecture, Costs, ModelSpec, Workload, cost};

/// What a budget counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Counted {
    /// All weights.
    #[default]
    Total,
    /// Weights of the blocks and the final norm.
    NonEmbedding,
}

impl Counted {
    /// The counted number of `costs`.
    pub fn of(self, costs: &Costs) -> u64 {
        match self {
            Self::Total => costs.parameters.0,
            Self::NonEmbedding => costs.non_embedding.0,
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Self::Total => "parameters",
            Self::NonEmbedding => "non-embedding parameters",
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
        let refuse =
            |reason: &str| ArchError::Text { text: text.to_owned(), what: "a budget", reason: reason.to_owned() };
        let text = text.trim();
        let (digits, scale) = match text.char_indices().last() {
            Some((at, '%')) => (&text[..at], None),
            Some((at, 'k' | 'K')) => (&text[..at], Some(1e3)),
            Some((at, 'M' | 'm')) => (&text[..at], Some(1e6)),
            Some((at, 'B' | 'b' | 'G')) => (&text[..at], Some(1e9)),
            _ => (text, Some(1.0)),
        };
        let number: f64 = digits
            .trim()
            .parse()
            .ok()
            .filter(|n: &f64| n.is_finite() && *n > 0.0)
            .ok_or_else(|| refuse("wanted a positive number such as 50%, 4.5B, 800M or 123456"))?;
        match scale {
            None if number <= 100.0 => Ok(Self::Share(number / 100.0)),
            None => Err(refuse("more than the whole model")),
            Some(scale) if number * scale < 1e15 => Ok(Self::Count((number * scale).round() as u64)),
            Some(_) => Err(refuse("larger than any model")),
        }
    }
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
    /// [`ArchError::Mismatch`] if `spec` is inconsistent.
    pub fn range(&self, spec: &ModelSpec) -> Result<BudgetRange, ArchError> {
        let original = self.counted.of(&cost(spec, &Architecture::whole(spec), Workload::default())?);
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
        ArchError::Infeasible { unit: self.counted.unit(), least: self.least, most: self.most, smallest, largest }
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
        for bad in ["", "-3%", "150%", "nan%", "half", "1e40B", "é"] {
            assert!(parse(bad).is_err(), "{bad}");
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
    }
}
