//! Racing: candidates are scored on the first few sequences, and only those that may still matter on more of them.
//!
//! A batch is taken in nested parts. After each part `k` but the last, a Gaussian-process regression predicts the full score
//! of a candidate from its architecture and its score so far (see `regression`): mean `m_k`, standard deviation `s_k`. It is
//! dropped where `m_k + c·s_k` lies below the score that matters to the strategy ([`Search::threshold`](crate::Search)).
//!
//! Examples of part `k` are the last `recent` candidates that went beyond it. Those dropped later stand with the prediction
//! they were dropped with, and its variance: as `E[E[y | z_j] | z_k] = E[y | z_k]`, this keeps the regression unbiased, while
//! one through survivors alone would be drawn towards them.
//!
//! `c` is the same for all parts. Of each example scored in full, `M = max_k (y - m_k) / s_k`, with `m_k` and `s_k` as the other
//! examples predict them, is the `c` from which on it would have outlived its whole race with its own score as threshold. So `c`
//! is the `⌈(n + 1)·confidence⌉`-th smallest of the `n` values `M`, and at least 0: if the next candidate is exchangeable with the
//! examples and reaches the threshold, it outlives all parts together with a probability of `confidence` or more. No law of
//! the errors is assumed, nor that parts are independent. Too few examples for this order statistic: nobody is dropped.
//!
//! All of a generation are scored on the first part. Then they race in waves of `wave` candidates, those of which most is
//! expected first. A wave has the threshold that follows from the full scores of the waves before it; who goes on takes the
//! first part again, as gradients of a whole generation are not kept. Regressions and `c` are those from before the
//! generation, so neither threads nor the order in which a wave ends change anything.
//! The first `pilot` candidates are scored in full, and so is the first wave of each generation: a race that learnt only of
//! those it expects much of would never see its mistakes.
//!
//! Sources: racing by intervals: Maron & Moore, "Hoeffding Races", NIPS 1993; growing parts: successive halving as in
//! Hyperband, arXiv:1603.06560; `c`: split conformal prediction, Lei et al., JASA 2018, arXiv:1604.04173. Deviations: no Hoeffding
//! bound, which knows nothing of how scores of the same tokens go together and would drop nothing here; survivors are not a
//! fixed share but all that may matter; errors left one out stand for those of a second sample.

mod race;
mod regression;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use taper_base::registry::{Entry, MethodError};

use crate::parameters::{parse, want};

pub use race::{Dropping, Race, Raced, Rule};
pub use regression::Expected;

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
    /// Probability that a candidate whose full score just reaches the threshold outlives its race, above 0.5 and below 1.
    pub confidence: f64,
    /// Candidates scored in full before any is dropped, 4 or more.
    pub pilot: usize,
    /// Candidates that last went beyond a part, from which scores after it are predicted, 4 or more.
    pub recent: usize,
    /// Candidates of a generation that race at a time, the most promising first, 1 or more. The first are scored in full.
    pub wave: usize,
    /// Whether the search is done again in full, to compare the winners. It costs what a full search costs.
    pub verify: bool,
}

impl Default for Racing {
    fn default() -> Self {
        Self { first: 0.03125, growth: 2.0, confidence: 0.9, pilot: 20, recent: 150, wave: 3, verify: false }
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
        want(NAME, "recent", &self.recent, self.recent >= 4, "4 or more")?;
        want(NAME, "wave", &self.wave, self.wave >= 1, "1 or more")
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
        Race::new(*self)
    }
}

#[cfg(test)]
mod tests;
