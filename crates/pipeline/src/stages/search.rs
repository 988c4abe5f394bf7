//! Search: the strategy asks, the proxy scores, each trial is stored as it comes.
//!
//! Candidates are scored on the validation split, units were ranked on the calibration split. (The paper uses one batch
//! for both; another batch keeps a score from rewarding what the ranking has already seen.)
//!
//! A killed search is resumed by replay: the strategy asks for the same candidates again, and those in the store are not
//! scored again. The store is keyed by all that a score depends on, so another strategy or budget finds its trials too.

mod explore;
mod scorer;

use serde::{Deserialize, Serialize};
use taper_arch::{Architecture, Costs, Provenance, Workload, cost};
use taper_base::Fingerprint;
use taper_data::Split;
use taper_model::Calibration;
use taper_proxies::{Base, Parts, Settings};
use taper_search::{Importance, Problem, Racing};

pub use explore::{Saved, Verified};

use self::explore::explore;
use self::scorer::Scorer;
use super::{calibrate, read_json, write_json};
use crate::context::Context;
use crate::stage::StageKey;
use crate::store::TrialStore;
use crate::{Outcome, PipelineError, Recipe, Stage, machine};

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
    /// What racing saved, if candidates raced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fidelity: Option<Saved>,
    /// The GPU that candidates were scored on, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
}

pub(crate) fn key(context: &Context<'_>) -> Result<StageKey, PipelineError> {
    let (recipe, search) = (context.recipe, &context.recipe.search);
    let key = StageKey::new(Stage::Search.name())
        .with("scoring", &scoring(context)?)
        .with_json("strategy", &search.strategy)?
        .with_json("space", &context.space)?
        .with_json("budget", &context.range)?
        .with_json("seed", &recipe.seed)?;
    let key = match &search.fidelity {
        Some(fidelity) => key.with_json("fidelity", fidelity)?,
        None => key,
    };
    Ok(match &context.spec.latency {
        Some(table) => key.with_json("latency", &**table)?,
        None => key,
    })
}

/// All that the score of an architecture depends on. Parts are among it: sums of other parts round otherwise.
fn scoring(context: &Context<'_>) -> Result<Fingerprint, PipelineError> {
    let recipe = context.recipe;
    let key = StageKey::new("scoring")
        .with("calibrate", &calibrate::key(context)?.fingerprint())
        .with_json("proxy", &recipe.search.proxy)?
        .with_json("seed", &recipe.seed)?;
    let key = match racing(recipe)? {
        Some(racing) => key.with_json("parts", &sequences(recipe, Some(&racing)))?,
        None => key,
    };
    Ok(key.fingerprint())
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
    let racing = racing(recipe)?;
    let importance = Importance { blocks: calibration.importance.clone() };
    let problem = Problem {
        spec: context.spec.clone(),
        space: context.space,
        range: context.range,
        importance,
        seed: recipe.seed,
    };

    let (samples, sorted) = (context.samples(Split::Validation)?, context.sorted(calibration)?);
    let sorted = context.placed(&sorted)?;
    let memory =
        context.gpu.as_ref().map_or_else(machine::memory_to_use, |gpu| gpu.memory_to_use(context.checkpoint.spec()));
    let settings = Settings { needs: proxy.needs(), seed: recipe.seed, memory };
    let sequences = sequences(recipe, racing.as_ref());
    let length = samples.batch()?.length();
    let parts = Parts::new(samples.batch()?, &sequences)?;
    let base = Base::in_parts(&sorted, parts, settings)?;
    let store = TrialStore::open(&context.run.root().join("trials.db"))?;
    let names = names(&methods.proxy.name, &sequences);
    let console = context.console;
    let spec = &context.spec;
    let scorer =
        Scorer { console, spec, proxy: &*proxy, base: &base, store: &store, scoring: scoring(context)?, names };

    let trials = strategy.trials();
    let explored = explore(&scorer, strategy.start(problem.clone())?, racing.as_ref(), ("search", trials))?;
    let (best, score) = explored.best()?;
    let fidelity = match &racing {
        Some(racing) if racing.verify => {
            let full = explore(&scorer, strategy.start(problem)?, None, ("full search", trials))?;
            Some(explored.saved(&sequences, length, Some(&full))?)
        }
        Some(_) => Some(explored.saved(&sequences, length, None)?),
        None => None,
    };
    let found = Found {
        architecture: best.to_string(),
        score,
        costs: cost(&context.spec, best, Workload::default())?,
        provenance: explored.provenance(best)?,
        proxy: methods.proxy.name.clone(),
        strategy: methods.strategy.name.clone(),
        trials: explored.asked.len() as u64,
        unscored: explored.unscored,
        best_by_generation: explored.history.clone(),
        fidelity,
        device: context.gpu.as_ref().map(|gpu| gpu.name.clone()),
    };
    Ok((best.clone(), found))
}

/// The recipe's way to spend less on candidates that do not matter.
fn racing(recipe: &Recipe) -> Result<Option<Racing>, PipelineError> {
    let fidelity = recipe.search.fidelity.as_ref();
    Ok(fidelity.map(|method| taper_search::fidelity(&method.name, &method.params)).transpose()?)
}

/// Why racing can drop nothing, if it is asked for and cannot.
pub(crate) fn idle_racing(recipe: &Recipe, trials: u64) -> Result<Option<String>, PipelineError> {
    let Some(racing) = racing(recipe)? else { return Ok(None) };
    let (parts, all) = (racing.parts(recipe.data.sequences()), recipe.data.sequences());
    let why = match parts.len() {
        1 => Some(format!("its first part is all {all} sequences")),
        _ if racing.pilot as u64 >= trials => Some(format!("pilot is {} of at most {trials} trials", racing.pilot)),
        _ => None,
    };
    Ok(why.map(|why| format!("search.fidelity: racing drops nothing here: {why}")))
}

/// Sequences of each part of the recipe's batch.
pub(crate) fn parts(recipe: &Recipe) -> Result<Vec<usize>, PipelineError> {
    Ok(sequences(recipe, racing(recipe)?.as_ref()))
}

/// Sequences of each part of the batch.
fn sequences(recipe: &Recipe, racing: Option<&Racing>) -> Vec<usize> {
    let all = recipe.data.sequences();
    racing.map_or_else(|| vec![all], |racing| racing.parts(all))
}

/// What scores over each part are called: by the proxy, and by how many sequences if not all.
fn names(proxy: &str, sequences: &[usize]) -> Vec<String> {
    let name = |(part, count): (usize, &usize)| {
        if part + 1 == sequences.len() { proxy.to_owned() } else { format!("{proxy}@{count}") }
    };
    sequences.iter().enumerate().map(name).collect()
}
