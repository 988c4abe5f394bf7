//! All that was asked for and what it scored; the half of a search that every strategy shares.

use std::collections::BTreeSet;

use taper_arch::{Architecture, Provenance};

use crate::{Proposal, SearchError};

#[derive(Debug, Default)]
pub(crate) struct Archive {
    /// Everything that was ever asked for.
    asked: BTreeSet<Architecture>,
    /// Asked for and not told yet, in order.
    pending: Vec<Architecture>,
    /// Scored, in the order asked.
    scored: Vec<(Architecture, f64)>,
    /// The best of `scored`.
    best: Option<usize>,
    /// Generations asked for.
    generation: u64,
}

impl Archive {
    /// The number of the next generation.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn is_new(&self, arch: &Architecture) -> bool {
        !self.asked.contains(arch)
    }

    /// A new generation may be asked for.
    pub(crate) fn ready(&self) -> Result<(), SearchError> {
        match self.pending.len() {
            0 => Ok(()),
            pending => Err(SearchError::Untold { pending }),
        }
    }

    /// Makes `architecture`, which is new, child `child` of the generation under way.
    pub(crate) fn claim(&mut self, architecture: Architecture, strategy: &str, child: u64, origin: &str) -> Proposal {
        self.asked.insert(architecture.clone());
        self.pending.push(architecture.clone());
        let provenance =
            Provenance { strategy: strategy.to_owned(), generation: self.generation, child, origin: origin.to_owned() };
        Proposal { architecture, provenance }
    }

    /// Ends the generation under way.
    pub(crate) fn close(&mut self) {
        self.generation += 1;
    }

    pub(crate) fn tell(&mut self, scores: &[Option<f64>]) -> Result<(), SearchError> {
        if scores.len() != self.pending.len() {
            return Err(SearchError::Scores { want: self.pending.len(), got: scores.len() });
        }
        let odd = scores
            .iter()
            .enumerate()
            .find_map(|(index, score)| score.map(|got| (index, got)).filter(|s| !s.1.is_finite()));
        if let Some((index, got)) = odd {
            return Err(SearchError::Score { index, got });
        }
        for (architecture, score) in self.pending.drain(..).zip(scores) {
            let Some(score) = *score else { continue };
            if self.best.is_none_or(|best| score > self.scored[best].1) {
                self.best = Some(self.scored.len());
            }
            self.scored.push((architecture, score));
        }
        Ok(())
    }

    pub(crate) fn best(&self) -> Option<(&Architecture, f64)> {
        self.best.map(|at| (&self.scored[at].0, self.scored[at].1))
    }

    /// The score of the last of the `count` best, those that score `known` among them; none if there are not as many.
    pub(crate) fn nth_best(&self, count: usize, known: &[f64]) -> Option<f64> {
        let mut scores: Vec<f64> = self.scored.iter().map(|scored| scored.1).chain(known.iter().copied()).collect();
        let at = count.checked_sub(1).filter(|at| *at < scores.len())?;
        Some(*scores.select_nth_unstable_by(at, |a, b| b.total_cmp(a)).1)
    }

    /// The `count` best, best first; ties go to the earlier one.
    pub(crate) fn elites(&self, count: usize) -> Vec<Architecture> {
        let mut order: Vec<&(Architecture, f64)> = self.scored.iter().collect();
        order.sort_by(|a, b| b.1.total_cmp(&a.1)); // stable
        order.into_iter().take(count).map(|scored| scored.0.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(texts: &[&str]) -> Archive {
        let mut archive = Archive::default();
        for (child, text) in texts.iter().enumerate() {
            archive.claim(text.parse().unwrap(), "test", child as u64, "test");
        }
        archive.close();
        archive
    }

    #[test]
    fn elites_and_best_are_by_score_then_by_age() {
        let mut archive = asked(&["1x1/1", "1x1/2", "1x1/3", "1x1/4"]);
        archive.tell(&[Some(1.0), None, Some(2.0), Some(2.0)]).unwrap();
        assert_eq!(archive.best().unwrap(), (&"1x1/3".parse().unwrap(), 2.0));
        let elites: Vec<String> = archive.elites(9).iter().map(ToString::to_string).collect();
        assert_eq!(elites, ["1x1/3", "1x1/4", "1x1/1"]);
        assert!(!archive.is_new(&"1x1/2".parse().unwrap()));
    }

    #[test]
    fn wrong_scores_are_refused_and_change_nothing() {
        let mut archive = asked(&["1x1/1", "1x1/2"]);
        assert_eq!(archive.ready().unwrap_err().to_string(), "asked again before 2 proposals were told their scores");
        assert_eq!(archive.tell(&[None]).unwrap_err().to_string(), "1 scores for 2 proposals");
        for (bad, shown) in [(f64::NAN, "NaN"), (f64::INFINITY, "inf"), (f64::NEG_INFINITY, "-inf")] {
            let refusal = archive.tell(&[Some(1.0), Some(bad)]).unwrap_err().to_string();
            assert_eq!(refusal, format!("score 1 of the generation is {shown}, wanted a finite number or none"));
        }
        assert!(archive.best().is_none());
        archive.tell(&[None, None]).unwrap();
        archive.ready().unwrap();
        assert!(archive.best().is_none() && archive.elites(3).is_empty());
    }
}
