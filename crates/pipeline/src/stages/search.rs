//! Search: the strategy asks, the proxy scores, each trial is stored as it comes.
//!
//! Candidates are scored on the validation split, units were ranked on the calibration split. (The paper uses one batch
//! for both; another batch keeps a score from rewarding what the ranking has already seen.)
//!
//! A killed search is resumed by replay: the strategy asks for the same candidates again, and those in the store are not
//! scored again. The store is keyed by all that a score depends on, so another strategy or budget finds its trials too.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use taper_arch::{Architecture, Costs, Provenance, Trial, Workload, cost};
use taper_base::Fingerprint;
use taper_base::workers::for_each;
use taper_data::Split;
use taper_model::Calibration;
use taper_proxies::{Base, Proxy, ProxyError, Settings};
use taper_search::{Importance, Problem, Proposal, Search};

use super::{calibrate, read_json, write_json};
use crate::context::Context;
use crate::stage::StageKey;
use crate::store::TrialStore;
use crate::{Outcome, PipelineError, Stage, machine};

/// The result of a search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Found {
    /// The best architecture's text form, `architecture.json` has its canonical one.
    pub architecture: String,
    /// Its score.
    pub score: f64,
    /// Its costs.
    pub costs: Costs,
    /// Where it came from.
    pub provenance: Provenance,
    /// Name of the proxy.
    pub proxy: String,
    /// Name of the strategy.
    pub strategy: String,
    /// Candidates asked for.
    pub trials: u64,
    /// Those that could not be scored.
    pub unscored: u64,
    /// Best score after each generation.
    pub best_by_generation: Vec<Option<f64>>,
}

pub(crate) fn key(context: &Context<'_>) -> Result<StageKey, PipelineError> {
    let (recipe, search) = (context.recipe, &context.recipe.search);
    let key = StageKey::new(Stage::Search.name())
        .with("scoring", &scoring(context)?)
        .with_json("strategy", &search.strategy)?
        .with_json("space", &recipe.space)?
        .with_json("budget", &context.range)?
        .with_json("seed", &recipe.seed)?;
    Ok(match &context.spec.latency {
        Some(table) => key.with_json("latency", &**table)?,
        None => key,
    })
}

/// All that the score of an architecture depends on.
fn scoring(context: &Context<'_>) -> Result<Fingerprint, PipelineError> {
    let proxy = &context.recipe.search.proxy;
    Ok(StageKey::new("scoring")
        .with("calibrate", &calibrate::key(context)?.fingerprint())
        .with_json("proxy", proxy)?
        .with_json("seed", &context.recipe.seed)?
        .fingerprint())
}

pub(crate) fn search(context: &Context<'_>, calibration: &Calibration) -> Result<Found, PipelineError> {
    let (key, stage) = (key(context)?, Stage::Search);
    let methods = &context.recipe.search;
    context.console.started(stage, &format!("{} by {}", methods.strategy.name, methods.proxy.name));
    let outcome = context.run.run(&key, |dir| {
        let (best, found) = run(context, calibration)?;
        write_json(&dir.join("architecture.json"), &best)?;
        write_json(&dir.join("search.json"), &found)
    })?;
    let found: Found = read_json(&context.run.path(stage.name()).join("search.json"))?;
    let summary = format!("best of {} trials: {:.4} ({})", found.trials, found.score, found.provenance.origin);
    context.console.finished(stage, &summary, outcome == Outcome::Skipped);
    Ok(found)
}

/// The architecture that an earlier or this run's search found.
pub(crate) fn best(context: &Context<'_>) -> Result<Architecture, PipelineError> {
    read_json(&context.run.path(Stage::Search.name()).join("architecture.json"))
}

fn run(context: &Context<'_>, calibration: &Calibration) -> Result<(Architecture, Found), PipelineError> {
    let (recipe, methods) = (context.recipe, &context.recipe.search);
    let strategy = taper_search::build(&methods.strategy.name, &methods.strategy.params)?;
    let proxy = taper_proxies::build(&methods.proxy.name, &methods.proxy.params)?;
    let importance = Importance { blocks: calibration.importance.clone() };
    let spec = context.spec.clone();
    let problem = Problem { spec, space: recipe.space, range: context.range, importance, seed: recipe.seed };
    let mut search = strategy.start(problem)?;

    let (tokens, sorted) = (context.tokens(Split::Validation)?, context.sorted(calibration)?);
    let settings = Settings { needs: proxy.needs(), seed: recipe.seed };
    let base = Base::new(&sorted, tokens.ids(), tokens.length(), settings)?;
    let store = TrialStore::open(&context.run.root().join("trials.db"))?;
    let scorer = Scorer { context, proxy: &*proxy, base: &base, store: &store, scoring: scoring(context)? };

    context.console.begin("search", strategy.trials());
    let mut asked: BTreeMap<Architecture, Provenance> = BTreeMap::new();
    let (mut unscored, mut history) = (0, Vec::new());
    loop {
        let proposals = search.ask()?;
        if proposals.is_empty() {
            break;
        }
        let scores = scorer.score(&proposals, &*search)?;
        unscored += scores.iter().filter(|score| score.is_none()).count() as u64;
        search.tell(&scores)?;
        asked.extend(proposals.into_iter().map(|proposal| (proposal.architecture, proposal.provenance)));
        history.push(search.best().map(|(_, score)| score));
    }
    context.console.end();
    let trials = asked.len() as u64;
    let (best, score) = search.best().ok_or(PipelineError::NothingScored { trials })?;
    let found = Found {
        architecture: best.to_string(),
        score,
        costs: cost(&context.spec, best, Workload::default())?,
        provenance: asked.get(best).cloned().ok_or(PipelineError::NothingScored { trials })?,
        proxy: methods.proxy.name.clone(),
        strategy: methods.strategy.name.clone(),
        trials,
        unscored,
        best_by_generation: history,
    };
    Ok((best.clone(), found))
}

struct Scorer<'a> {
    context: &'a Context<'a>,
    proxy: &'a dyn Proxy,
    base: &'a Base<'a>,
    store: &'a TrialStore,
    scoring: Fingerprint,
}

impl Scorer<'_> {
    /// Scores of a generation in order: from the store, or by a pass each, several at once.
    fn score(&self, proposals: &[Proposal], search: &dyn Search) -> Result<Vec<Option<f64>>, PipelineError> {
        let best = Mutex::new(search.best().map(|(_, score)| score));
        let (console, spec) = (self.context.console, &self.context.spec);
        let (proxy, base, store, scoring, name) =
            (self.proxy, self.base, self.store, &self.scoring, &self.context.recipe.search.proxy.name);
        for_each(proposals, machine::workers(base.bytes_per_candidate()), |proposal| {
            let architecture = &proposal.architecture;
            let known = store.get(scoring, &architecture.fingerprint())?;
            let score = match known {
                Some(known) => known.trial.scores.get(name).copied(),
                None => {
                    let start = Instant::now();
                    let score = score(base, proxy, architecture)?;
                    let costs = cost(spec, architecture, Workload::default())?;
                    let scores = score.iter().map(|score| (name.clone(), *score)).collect();
                    let (architecture, provenance) = (architecture.clone(), proposal.provenance.clone());
                    let trial = Trial { architecture, scores, costs, provenance };
                    let seconds = start.elapsed().as_secs_f64();
                    match score {
                        Some(_) => store.put(scoring, &trial, seconds)?,
                        None => store.put_failed(scoring, &trial, "its score is not a number", seconds)?,
                    }
                    score
                }
            };
            let mut best = best.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if score.is_some_and(|score| best.is_none_or(|best| score > best)) {
                *best = score;
            }
            console.advance(1, &best.map(|best| format!("best {best:.4}")).unwrap_or_default());
            Ok(score)
        })
    }
}

/// `None` if the number that came out is none.
fn score(base: &Base<'_>, proxy: &dyn Proxy, architecture: &Architecture) -> Result<Option<f64>, ProxyError> {
    let score = proxy.score(&base.observe_prefixes(architecture)?)?;
    Ok(score.is_finite().then_some(score))
}
