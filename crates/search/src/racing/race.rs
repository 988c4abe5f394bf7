//! What a race has learnt, and whom it drops.

use super::regression::{Example, Regression};
use super::{Expected, Racing};

/// A candidate whose race is over.
#[derive(Debug, Clone, PartialEq)]
pub struct Raced {
    /// Its architecture in numbers.
    pub features: Vec<f64>,
    /// Its scores, one for each part it was scored on.
    pub scores: Vec<f64>,
    /// What was expected of it when it was dropped; none if it was scored in full.
    pub dropped: Option<Expected>,
}

/// What a race has learnt so far.
#[derive(Debug, Clone)]
pub struct Race {
    racing: Racing,
    raced: Vec<Raced>,
    /// Of `raced`, those scored in full.
    full: usize,
}

impl Race {
    pub(super) fn new(racing: Racing) -> Self {
        Self { racing, raced: Vec::new(), full: 0 }
    }

    /// Candidates that have to be scored in full before any can be dropped.
    pub fn pilots(&self) -> usize {
        self.racing.pilot.saturating_sub(self.full)
    }

    /// Learns from a candidate whose race is over. All have as many features, and those scored in full as many scores.
    pub fn learn(&mut self, raced: Raced) {
        self.full += usize::from(raced.dropped.is_none());
        self.raced.push(raced);
    }

    /// The rule until more is learnt.
    pub fn rule(&self) -> Rule {
        let Some(all) = self.raced.iter().find(|raced| raced.dropped.is_none()).map(|raced| raced.scores.len()) else {
            return Rule::default();
        };
        if self.pilots() > 0 || all < 2 {
            return Rule::default();
        }
        let learnt: Option<Vec<(Vec<usize>, Regression)>> = (0..all - 1).map(|part| self.regression(part)).collect();
        let Some(learnt) = learnt else { return Rule::default() };
        let reach = confident(self.outliving(&learnt), self.racing.confidence);
        let parts = learnt.into_iter().map(|(_, regression)| regression).collect();
        Rule { learnt: reach.map(|reach| Learnt { parts, reach, wave: self.racing.wave }) }
    }

    /// Predicts from the score on `part`; with the numbers of its examples.
    fn regression(&self, part: usize) -> Option<(Vec<usize>, Regression)> {
        let beyond = |raced: &Raced| raced.scores.len() > part + 1;
        let mut chosen: Vec<usize> = (0..self.raced.len()).filter(|index| beyond(&self.raced[*index])).collect();
        chosen.drain(..chosen.len().saturating_sub(self.racing.recent));
        let example = |index: &usize| {
            let Raced { features, scores, dropped } = &self.raced[*index];
            let full = Expected { score: scores[scores.len() - 1], variance: 0.0 };
            let Expected { score: y, variance } = dropped.unwrap_or(full);
            Example { features, x: scores[part], y, variance }
        };
        let examples: Vec<Example<'_>> = chosen.iter().map(example).collect();
        Regression::through(&examples).map(|regression| (chosen, regression))
    }

    /// `M` of each candidate that is an example of every part: only one scored in full can be.
    fn outliving(&self, learnt: &[(Vec<usize>, Regression)]) -> Vec<f64> {
        let mut most: Vec<(usize, f64)> = vec![(0, f64::NEG_INFINITY); self.raced.len()];
        for (chosen, regression) in learnt {
            for (index, shortfall) in chosen.iter().zip(&regression.shortfalls) {
                let (parts, most) = &mut most[*index];
                (*parts, *most) = (*parts + 1, most.max(*shortfall));
            }
        }
        most.into_iter().filter(|(parts, _)| *parts == learnt.len()).map(|(_, most)| most).collect()
    }
}

/// `c`: the `⌈(n + 1)·confidence⌉`-th smallest value, at least 0; none if there are too few.
pub(super) fn confident(mut values: Vec<f64>, confidence: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let place = ((values.len() + 1) as f64 * confidence - 1e-9).ceil() as usize;
    values.get(place.checked_sub(1)?).map(|value| value.max(0.0))
}

/// Who races when, and who is dropped.
#[derive(Debug, Clone, Default)]
pub struct Rule {
    /// None drops nobody.
    learnt: Option<Learnt>,
}

#[derive(Debug, Clone)]
struct Learnt {
    /// One for each part but the last.
    parts: Vec<Regression>,
    /// `c`.
    reach: f64,
    wave: usize,
}

impl Rule {
    /// Whether anybody can be dropped.
    pub fn drops(&self) -> bool {
        self.learnt.is_some()
    }

    /// The waves that a generation races in, as numbers in it, given what is expected of each; those without come last.
    pub fn waves(&self, expected: &[Option<f64>]) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..expected.len()).collect();
        let Some(learnt) = &self.learnt else { return vec![order] };
        let promise = |at: &usize| expected[*at].unwrap_or(f64::NEG_INFINITY);
        order.sort_by(|a, b| promise(b).total_cmp(&promise(a))); // stable
        order.chunks(learnt.wave).map(<[usize]>::to_vec).collect()
    }

    /// Who is dropped where only scores from `threshold` matter; from infinity all are, after the first part.
    pub fn from(&self, threshold: Option<f64>) -> Dropping<'_> {
        Dropping { learnt: self.learnt.as_ref().zip(threshold) }
    }
}

/// Who is dropped in one wave.
#[derive(Debug, Clone, Copy)]
pub struct Dropping<'a> {
    learnt: Option<(&'a Learnt, f64)>,
}

impl Dropping<'_> {
    /// What to expect of a candidate that scores `score` on part `part`, if it is to be dropped; always below the threshold.
    pub fn dropped(&self, features: &[f64], part: usize, score: f64) -> Option<Expected> {
        let (learnt, threshold) = self.learnt?;
        let expected = learnt.parts.get(part)?.expect(features, score);
        let upper = expected.score + learnt.reach * expected.variance.sqrt();
        (expected.score < threshold && upper < threshold).then_some(expected)
    }
}
