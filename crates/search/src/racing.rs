//! Racing: candidates are scored on the first few sequences, and only those that may still matter on more of them.
//!
//! A batch is taken in nested parts. After each part `k` but the last, a candidate's score there, `x`, predicts its full
//! score by the least-squares line `y = a + b·x` through the `recent` candidates of this search that were last scored in
//! full: as a search narrows, so does the spread around the line, and early candidates say little of late ones. It is dropped
//! where the upper end of the prediction interval,
//! `a + b·x + t·s·√(1 + 1/n + (x − x̄)²/Sxx)`, `s² = SSE / (n − 2)`, `t` the one-sided quantile of Student's t with
//! `n − 2` degrees of freedom, lies below the score that matters to the strategy ([`Search::threshold`](crate::Search)).
//!
//! A line and not the difference of both scores, for a correlation of noisy gradients is biased towards 0, the more the
//! fewer the tokens. Those scored in full were selected by `x`, which leaves a regression of `y` on `x` unbiased.
//! Lines and threshold are those from before the generation, so a candidate's race depends on no other of its generation.
//! The first `pilot` candidates are scored in full.
//!
//! Sources: racing by intervals: Maron & Moore, "Hoeffding Races", NIPS 1993; growing parts: successive halving as in
//! Hyperband, arXiv:1603.06560. Deviations: no Hoeffding bound, which knows nothing of how scores of the same tokens go
//! together and would drop nothing here; survivors are not a fixed share but all that may matter.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};
use taper_base::registry::{Entry, MethodError};

use crate::parameters::{parse, want};

const NAME: &str = "racing";

/// The table's entry.
pub const ENTRY: Entry<Racing> = Entry {
    name: NAME,
    summary: "few tokens first, and more for those that may still matter",
    source: "Maron & Moore 1993; arXiv:1603.06560",
    build: |value| {
        let racing: Racing = parse(NAME, value)?;
        racing.check()?;
        Ok(Box::new(racing))
    },
};

/// Parameters of `racing`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Racing {
    /// Share of the sequences in the first part, above 0 and below 1; rounded up to whole sequences.
    pub first: f64,
    /// How many times as many sequences the next part has, above 1.
    pub growth: f64,
    /// Probability that a candidate whose full score reaches the threshold outlives one part, above 0.5 and below 1.
    pub confidence: f64,
    /// Candidates scored in full before any is dropped, 4 or more.
    pub pilot: usize,
    /// Candidates last scored in full that lines go through, 4 or more.
    pub recent: usize,
    /// Whether the search is done again in full, to compare the winners. It costs what a full search costs.
    pub verify: bool,
}

impl Default for Racing {
    fn default() -> Self {
        Self { first: 0.0625, growth: 2.0, confidence: 0.9, pilot: 20, recent: 60, verify: false }
    }
}

impl Racing {
    fn check(&self) -> Result<(), MethodError> {
        let inside = |value: f64, low: f64, high: f64| value > low && value < high;
        want(NAME, "first", &self.first, inside(self.first, 0.0, 1.0), "a share above 0 and below 1")?;
        want(NAME, "growth", &self.growth, inside(self.growth, 1.0, f64::INFINITY), "a number above 1")?;
        let wanted = "a probability above 0.5 and below 1";
        want(NAME, "confidence", &self.confidence, inside(self.confidence, 0.5, 1.0), wanted)?;
        want(NAME, "pilot", &self.pilot, self.pilot >= 4, "4 or more")?;
        want(NAME, "recent", &self.recent, self.recent >= 4, "4 or more")
    }

    /// Sequences of each part of a batch of `sequences`: rising, the last is all of them.
    pub fn parts(&self, sequences: usize) -> Vec<usize> {
        let whole = |share: f64| ((share - 1e-9).ceil().max(1.0) as usize).min(sequences);
        let mut parts = vec![whole(self.first * sequences as f64)];
        let mut next = parts[0];
        while next < sequences {
            next = whole(next as f64 * self.growth).max(next + 1);
            parts.push(next);
        }
        parts
    }

    /// A race over parts of the same number of sequences, before anything is scored.
    pub fn race(&self) -> Race {
        Race { racing: *self, full: Vec::new() }
    }
}

/// What a race has learnt so far.
#[derive(Debug, Clone)]
pub struct Race {
    racing: Racing,
    /// Scores of all candidates scored in full, one for each part.
    full: Vec<Vec<f64>>,
}

impl Race {
    /// Candidates that have to be scored in full before any can be dropped.
    pub fn pilots(&self) -> usize {
        self.racing.pilot.saturating_sub(self.full.len())
    }

    /// Learns from a candidate scored in full: its scores, one for each part.
    pub fn learn(&mut self, scores: Vec<f64>) {
        self.full.push(scores);
    }

    /// The rule until more is learnt, for a strategy to which only scores from `threshold` matter.
    pub fn rule(&self, threshold: Option<f64>) -> Rule {
        let Some(threshold) = threshold.filter(|_| self.pilots() == 0) else { return Rule::default() };
        let parts = self.full.iter().map(Vec::len).min().unwrap_or(0);
        let recent = &self.full[self.full.len().saturating_sub(self.racing.recent)..];
        let line = |part: usize| {
            let pairs: Vec<(f64, f64)> = recent.iter().map(|s| (s[part], s[s.len() - 1])).collect();
            Line::through(&pairs, self.racing.confidence).map(|line| (part, line))
        };
        Rule { threshold, lines: (0..parts.saturating_sub(1)).filter_map(line).collect() }
    }
}

/// Who is dropped.
#[derive(Debug, Clone, Default)]
pub struct Rule {
    threshold: f64,
    lines: BTreeMap<usize, Line>,
}

impl Rule {
    /// The full score to expect of a candidate that scores `score` on part `part`, if it is to be dropped; always below the
    /// threshold.
    pub fn dropped(&self, part: usize, score: f64) -> Option<f64> {
        let line = self.lines.get(&part)?;
        (line.at(score) + line.margin(score) < self.threshold).then(|| line.at(score))
    }
}

/// A line through pairs, and how far from it the next pair may lie.
#[derive(Debug, Clone, Copy)]
struct Line {
    n: f64,
    x: f64,
    y: f64,
    xx: f64,
    slope: f64,
    /// `t · s`.
    reach: f64,
}

impl Line {
    /// By least squares; none through fewer than 3 pairs, or where `x` does not vary.
    fn through(pairs: &[(f64, f64)], confidence: f64) -> Option<Self> {
        let n = pairs.len() as f64;
        let quantile = StudentsT::new(0.0, 1.0, n - 2.0).ok()?.inverse_cdf(confidence);
        let mean = |value: fn(&(f64, f64)) -> f64| pairs.iter().map(value).sum::<f64>() / n;
        let (x, y) = (mean(|pair| pair.0), mean(|pair| pair.1));
        let sum = |value: &dyn Fn(f64, f64) -> f64| pairs.iter().map(|pair| value(pair.0 - x, pair.1 - y)).sum::<f64>();
        let (xx, xy) = (sum(&|dx, _| dx * dx), sum(&|dx, dy| dx * dy));
        let slope = xy / xx;
        let square = sum(&|dx, dy| (dy - slope * dx).powi(2)) / (n - 2.0);
        (xx > 0.0 && square.is_finite()).then_some(Self { n, x, y, xx, slope, reach: quantile * square.sqrt() })
    }

    fn at(&self, x: f64) -> f64 {
        self.y + self.slope * (x - self.x)
    }

    fn margin(&self, x: f64) -> f64 {
        self.reach * (1.0 + 1.0 / self.n + (x - self.x).powi(2) / self.xx).sqrt()
    }
}

#[cfg(test)]
mod tests;
