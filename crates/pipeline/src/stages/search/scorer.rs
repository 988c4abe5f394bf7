//! Scores of a generation's candidates, each over as many parts of the tokens as it takes, and kept in the store.

use std::sync::Mutex;
use std::time::Instant;

use taper_arch::{ModelSpec, Trial, Workload, cost, select};
use taper_base::Fingerprint;
use taper_base::workers::for_each;
use taper_proxies::{Base, Pass, Proxy};
use taper_search::{Dropping, Expected, Proposal, Raced, Rule};

use crate::store::{StoredTrial, TrialStore};
use crate::{Console, PipelineError};

/// How far a candidate got.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Climb {
    /// Its scores, one for each part it was looked at over; all finite.
    pub(super) scores: Vec<f64>,
    pub(super) end: End,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum End {
    /// Scored over all tokens.
    Full(f64),
    /// Dropped before, with the score to expect of it.
    Dropped(Expected),
    /// Over the part after the last that has a score, the score is not a number.
    Unscored,
}

impl Climb {
    /// What the strategy is told.
    pub(super) fn told(&self) -> Option<f64> {
        match self.end {
            End::Full(score) => Some(score),
            End::Dropped(expected) => Some(expected.score),
            End::Unscored => None,
        }
    }

    /// Its score over all tokens, if it has one.
    pub(super) fn full(&self) -> Option<f64> {
        match self.end {
            End::Full(score) => Some(score),
            End::Dropped(_) | End::Unscored => None,
        }
    }

    /// What later races learn from it, with its `features`; nothing if it could not be scored.
    pub(super) fn raced(self, features: Vec<f64>) -> Option<Raced> {
        let dropped = match self.end {
            End::Full(_) => None,
            End::Dropped(expected) => Some(expected),
            End::Unscored => return None,
        };
        Some(Raced { features, scores: self.scores, dropped })
    }

    /// The last part that it was looked at over.
    pub(super) fn part(&self) -> usize {
        self.scores.len() - usize::from(self.end != End::Unscored)
    }
}

/// What scores candidates, and where scores are kept.
pub(super) struct Scorer<'a> {
    pub(super) console: &'a dyn Console,
    /// The model, with its table of times if there is one.
    pub(super) spec: &'a ModelSpec,
    pub(super) proxy: &'a dyn Proxy,
    pub(super) base: &'a Base<'a>,
    pub(super) store: &'a TrialStore,
    pub(super) scoring: Fingerprint,
    /// What the score over each part is called in the store; the last is the proxy's own name.
    pub(super) names: Vec<String>,
}

impl Scorer<'_> {
    /// What is to be expected of each candidate after the first part.
    pub(super) fn first(&self, all: &[(&Proposal, &[f64])], rule: &Rule) -> Result<Vec<Option<f64>>, PipelineError> {
        let dropping = rule.from(Some(f64::INFINITY));
        for_each(all, self.base.plan().workers, |candidate| Ok(self.one(*candidate, dropping)?.told()))
    }

    /// How far each candidate, with its features, gets, in order; several at once. `best` is shown.
    pub(super) fn climb(
        &self,
        wave: &[(&Proposal, &[f64])],
        dropping: Dropping<'_>,
        best: Option<f64>,
    ) -> Result<Vec<Climb>, PipelineError> {
        let best = Mutex::new(best);
        for_each(wave, self.base.plan().workers, |candidate| {
            let climb = self.one(*candidate, dropping)?;
            let mut best = best.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if let End::Full(score) = climb.end
                && best.is_none_or(|best| score > best)
            {
                *best = Some(score);
            }
            let shown = best.map(|best| format!("best {best:.4}")).unwrap_or_default();
            self.console.advance(1, &shown);
            Ok(climb)
        })
    }

    /// Scores come from the store as far as it has them. What is new is stored at the end, so a candidate's row is there
    /// whole or not at all.
    fn one(&self, (proposal, features): (&Proposal, &[f64]), dropping: Dropping<'_>) -> Result<Climb, PipelineError> {
        let architecture = &proposal.architecture;
        let stored = self.store.get(&self.scoring, &architecture.fingerprint())?;
        let start = Instant::now();
        let kept = select::prefixes(self.base.spec(), architecture)?.blocks;
        let mut pass = Pass::new(self.base, &kept, architecture.fingerprint())?;
        let (mut scores, mut looked) = (Vec::new(), false);
        let end = loop {
            let part = scores.len();
            let known = stored.as_ref().and_then(|stored| stored.trial.scores.get(&self.names[part]));
            let score = match (known, &stored) {
                (Some(known), _) => *known,
                (None, Some(StoredTrial { failure: Some(_), .. })) => break End::Unscored,
                (None, _) => {
                    looked = true;
                    self.proxy.score(&pass.up_to(part)?)?
                }
            };
            if !score.is_finite() {
                break End::Unscored;
            }
            scores.push(score);
            if part + 1 == self.names.len() {
                break End::Full(score);
            }
            if let Some(expected) = dropping.dropped(features, part, score) {
                break End::Dropped(expected);
            }
        };
        let climb = Climb { scores, end };
        if looked {
            self.keep(proposal, &climb, stored.is_some(), start)?;
        }
        Ok(climb)
    }

    fn keep(&self, proposal: &Proposal, climb: &Climb, there: bool, start: Instant) -> Result<(), PipelineError> {
        let (architecture, provenance) = (proposal.architecture.clone(), proposal.provenance.clone());
        let costs = cost(self.spec, &architecture, Workload::default())?;
        let scores = self.names.iter().cloned().zip(climb.scores.iter().copied()).collect();
        let trial = Trial { architecture, scores, costs, provenance };
        let seconds = start.elapsed().as_secs_f64();
        let failure = (climb.end == End::Unscored).then_some("its score is not a number");
        match (there, failure) {
            (true, failure) => self.store.extend(&self.scoring, &trial, failure, seconds)?,
            (false, Some(reason)) => self.store.put_failed(&self.scoring, &trial, reason, seconds)?,
            (false, None) => self.store.put(&self.scoring, &trial, seconds)?,
        }
        Ok(())
    }
}
