//! One search from its first generation to its last, and what racing saved of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use taper_arch::{Architecture, Provenance};
use taper_search::{Proposal, Race, Racing, Rule, Search};

use super::scorer::{Climb, End, Scorer};
use crate::PipelineError;

/// What racing saved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    /// Sequences of each part, the last is the whole batch.
    pub sequences: Vec<usize>,
    /// Candidates dropped after each part but the last.
    pub dropped: Vec<u64>,
    /// Tokens that candidates were scored on; what a killed run did again is not counted.
    pub tokens: u64,
    /// Tokens if each of these candidates had been scored on all.
    pub tokens_in_full: u64,
    /// `tokens_in_full / tokens`.
    pub times_fewer: f64,
    /// The winner of the full search, if it was done too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Verified>,
}

/// The same search with all candidates scored in full.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verified {
    /// Its winner's text form.
    pub architecture: String,
    /// Its winner's score.
    pub score: f64,
    /// Whether racing found the same.
    pub same: bool,
}

/// A search that is over.
pub(super) struct Explored {
    search: Box<dyn Search>,
    pub(super) asked: BTreeMap<Architecture, Provenance>,
    pub(super) unscored: u64,
    pub(super) history: Vec<Option<f64>>,
    /// How many candidates were last looked at over each part.
    ended: Vec<u64>,
    /// How many of these were dropped there.
    dropped: Vec<u64>,
    /// How many went beyond the first part after all of their generation were scored on it, and so took it again.
    again: u64,
}

/// Runs `search` to its end; candidates race if there is `racing`. Shown as `(what, trials)`.
pub(super) fn explore(
    scorer: &Scorer<'_>,
    search: Box<dyn Search>,
    racing: Option<&Racing>,
    (what, trials): (&str, u64),
) -> Result<Explored, PipelineError> {
    let none = vec![0; scorer.names.len()];
    let (asked, history, ended, dropped) = (BTreeMap::new(), Vec::new(), none.clone(), none);
    let mut explored = Explored { search, asked, unscored: 0, history, ended, dropped, again: 0 };
    let mut race = racing.map(Racing::race);
    scorer.console.begin(what, trials);
    loop {
        let proposals = explored.search.ask()?;
        if proposals.is_empty() {
            break;
        }
        let features: Vec<Vec<f64>> =
            proposals.iter().map(|proposal| proposal.architecture.features(scorer.spec)).collect();
        let rule = race.as_ref().map_or_else(Rule::default, Race::rule);
        let climbs = explored.generation(scorer, &rule, &proposals, &features)?;
        let told: Vec<Option<f64>> = climbs.iter().map(Climb::told).collect();
        explored.search.tell(&told)?;
        explored.count(&climbs, rule.drops());
        explored.asked.extend(proposals.into_iter().map(|proposal| (proposal.architecture, proposal.provenance)));
        if let Some(race) = &mut race {
            let raced = features.into_iter().zip(climbs).filter_map(|(features, climb)| climb.raced(features));
            raced.for_each(|raced| race.learn(raced));
        }
    }
    scorer.console.end();
    Ok(explored)
}

impl Explored {
    /// How far each of a generation gets, in order; raced in waves.
    fn generation(
        &self,
        scorer: &Scorer<'_>,
        rule: &Rule,
        proposals: &[Proposal],
        features: &[Vec<f64>],
    ) -> Result<Vec<Climb>, PipelineError> {
        let all: Vec<(&Proposal, &[f64])> = proposals.iter().zip(features).map(|(p, f)| (p, &**f)).collect();
        let mut expected = vec![None; all.len()];
        if rule.drops() {
            expected = scorer.first(&all, rule)?;
        }
        let mut climbs: Vec<(usize, Climb)> = Vec::with_capacity(all.len());
        for (place, numbers) in rule.waves(&expected).into_iter().enumerate() {
            let known: Vec<f64> = climbs.iter().filter_map(|(_, climb)| climb.full()).collect();
            let best = self.search.best().map(|(_, score)| score).into_iter().chain(known.iter().copied());
            let best = best.max_by(f64::total_cmp);
            let wave: Vec<(&Proposal, &[f64])> = numbers.iter().map(|at| all[*at]).collect();
            // the first wave in full: a race that only learns of those it expects much of would never see its mistakes
            let dropping = rule.from(self.search.threshold(&known).filter(|_| place > 0));
            climbs.extend(numbers.into_iter().zip(scorer.climb(&wave, dropping, best)?));
        }
        climbs.sort_by_key(|(number, _)| *number);
        Ok(climbs.into_iter().map(|(_, climb)| climb).collect())
    }

    fn count(&mut self, climbs: &[Climb], raced: bool) {
        for climb in climbs {
            self.ended[climb.part()] += 1;
            match climb.end {
                End::Full(_) => {}
                End::Dropped(_) => self.dropped[climb.part()] += 1,
                End::Unscored => self.unscored += 1,
            }
        }
        self.again += if raced { climbs.iter().filter(|climb| climb.part() > 0).count() as u64 } else { 0 };
        self.history.push(self.search.best().map(|(_, score)| score));
    }

    /// The winner and its score.
    pub(super) fn best(&self) -> Result<(&Architecture, f64), PipelineError> {
        self.search.best().ok_or(PipelineError::NothingScored { trials: self.asked.len() as u64 })
    }

    pub(super) fn provenance(&self, of: &Architecture) -> Result<Provenance, PipelineError> {
        self.asked.get(of).cloned().ok_or(PipelineError::NothingScored { trials: self.asked.len() as u64 })
    }

    /// The tokens saved with parts of `sequences`, `length` tokens each; `full` is the same search without racing.
    pub(super) fn saved(
        &self,
        sequences: &[usize],
        length: usize,
        full: Option<&Self>,
    ) -> Result<Saved, PipelineError> {
        let tokens = |sequences: usize| (sequences * length) as u64;
        let once: u64 = self.ended.iter().zip(sequences).map(|(count, part)| count * tokens(*part)).sum();
        let spent = once + self.again * sequences.first().map_or(0, |first| tokens(*first));
        let in_full = self.asked.len() as u64 * sequences.last().map_or(0, |all| tokens(*all));
        let verified = full.map(|full| -> Result<Verified, PipelineError> {
            let ((ours, _), (best, score)) = (self.best()?, full.best()?);
            Ok(Verified { architecture: best.to_string(), score, same: ours == best })
        });
        Ok(Saved {
            sequences: sequences.to_vec(),
            dropped: self.dropped[..sequences.len() - 1].to_vec(),
            tokens: spent,
            tokens_in_full: in_full,
            times_fewer: in_full as f64 / (spent as f64).max(1.0),
            verified: verified.transpose()?,
        })
    }
}
