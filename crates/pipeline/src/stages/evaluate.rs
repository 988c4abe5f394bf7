//! Eval: the pruned checkpoint and the healed one, read back from their files, beside the original and two controls of the same budget.
//!
//! Controls: `uniform`, the same kept ratio in every sub-block, and `random`, architectures drawn from the search space
//! (their mean). All are cut by the same ranking of units, so only the choice of architecture differs.

mod judged;
mod tasks;

use std::path::Path;

use serde::{Deserialize, Serialize};
use taper_arch::{ArchError, Architecture, Costs, Generation, Workload, cost, select};
use taper_base::Nanos;
use taper_base::rng::stream;
use taper_eval::{Classification, Latency, Perplexity, latency};
use taper_model::{Calibration, Checkpoint, Model};

use super::heal::HealedCheckpoint;
use super::{materialise, read_json, search, write_json};
use crate::context::Context;
use crate::error::finite;
use crate::stage::StageKey;
use crate::{Outcome, PipelineError, Stage, machine};

pub(crate) use self::judged::SPLIT;
use self::judged::{Judged, Measured, mean};
pub use self::tasks::TaskTable;

/// Times that a latency is measured.
const REPETITIONS: usize = 5;

/// Draws of one random control, at most.
const DRAWS: u64 = 32;

/// The final table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// What it was measured on.
    pub text: String,
    /// One row a model: original, pruned, healed, uniform, random.
    pub rows: Vec<Row>,
    /// Of the original and the pruned model, if the budget counts latency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<LatencyReport>,
    /// Of the original and the result, healed or pruned, if the recipe names tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<TaskTable>,
}

/// Predicted and measured latency, on one machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatencyReport {
    /// The processor.
    pub processor: String,
    /// Threads used.
    pub threads: usize,
    /// Repetitions that the medians are of.
    pub repetitions: usize,
    /// One row a model: original, pruned.
    pub rows: Vec<LatencyRow>,
}

/// Latency of a model of the final table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatencyRow {
    /// `original` or `pruned`.
    pub name: String,
    /// From the prompts to the last token of each, by the table of times.
    pub predicted: Option<Nanos>,
    /// By the clock.
    pub measured: Latency,
}

/// A model of the final table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// `original`, `pruned`, `healed`, `uniform` or `random`.
    pub name: String,
    /// Its architecture's text form; of several random ones, the first's.
    pub architecture: String,
    /// Its costs; of several, the first's.
    pub costs: Costs,
    /// What was measured; of several, the mean loss and its exponential.
    pub measured: Perplexity,
    /// Of a classifier of images: how often it is right; of several models the means.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classified: Option<Classification>,
    /// Loss of each of several random architectures.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub losses: Vec<f64>,
}

pub(crate) fn evaluate(
    context: &Context<'_>,
    calibration: &Calibration,
    (pruned, healed): (&Path, Option<&HealedCheckpoint>),
) -> Result<Evaluation, PipelineError> {
    let (judged, stage) = (Judged::of(context)?, Stage::Eval);
    let eval = &context.recipe.eval;
    let tasks = eval.suite()?;
    let key = StageKey::new(stage.name())
        .with("materialise", &materialise::key(context)?.fingerprint())
        .with("text", &judged.fingerprint()?)
        .with_json("shares", &context.recipe.data.shares)?
        .with_json("windows", &(eval.settings(), eval.tokens))?
        .with_json("random", &eval.random)?;
    let key = match &tasks {
        Some(suite) => tasks::with(key, eval, suite)?,
        None => key,
    };
    let key = healed.map_or(key.clone(), |healed| key.with("healed", &healed.key));
    let result = healed.map_or(("pruned", pruned), |healed| ("healed", &healed.folder));
    context.console.started(stage, &judged.name());
    let outcome = context.run.run(&key, |dir| {
        let rows = rows(context, calibration, (pruned, healed), &judged)?;
        let latency = context.spec.latency.as_ref().map(|table| latencies(context, table.generation, pruned, &rows));
        let latency = latency.transpose()?;
        let tasks = tasks.as_ref().map(|suite| tasks::evaluate(context, suite, result, dir)).transpose()?;
        write_json(&dir.join("eval.json"), &Evaluation { text: judged.name(), rows, latency, tasks })
    })?;
    let found: Evaluation = read_json(&context.run.path(stage.name()).join("eval.json"))?;
    context.console.finished(stage, &summary(&found, &eval.tasks), outcome == Outcome::Skipped);
    Ok(found)
}

fn summary(found: &Evaluation, tasks: &[String]) -> String {
    let of = |row: &Row| match &row.classified {
        Some(classified) => format!("{} {:.1}%", row.name, 100.0 * classified.top1),
        None => format!("{} {:.4}", row.name, row.measured.loss),
    };
    let losses = found.rows.iter().map(of);
    let recoveries = found.tasks.iter().flat_map(|table| &table.recoveries);
    let named = recoveries.filter(|one| tasks.contains(&one.name));
    let kept = named.map(|one| format!("{:.1}% of {}", 100.0 * one.recovery, one.name));
    losses.chain(kept).collect::<Vec<_>>().join(", ")
}

fn rows(
    context: &Context<'_>,
    calibration: &Calibration,
    (pruned, healed): (&Path, Option<&HealedCheckpoint>),
    judged: &Judged<'_>,
) -> Result<Vec<Row>, PipelineError> {
    let (recipe, spec) = (context.recipe, &context.spec);
    let measure = judged.measure(context)?;
    let row = |name: &str, architecture: &Architecture, measured: Measured| -> Result<Row, PipelineError> {
        let (measured, classified) = measured;
        finite(measured.perplexity, || format!("the perplexity of the {name} model"))?;
        let costs = cost(spec, architecture, Workload::default())?;
        let (name, architecture) = (name.to_owned(), architecture.to_string());
        Ok(Row { name, architecture, costs, measured, classified, losses: Vec::new() })
    };
    let sorted = context.sorted(calibration)?;
    let cut = |architecture: &Architecture| -> Result<Model, PipelineError> {
        Ok(sorted.cut(&select::prefixes(spec, architecture)?.blocks)?)
    };

    let whole = Architecture::whole(spec);
    // a space of depth alone has no uniform architecture
    let uniform = match context.space.uniform(spec, context.range) {
        Ok(uniform) => Some(uniform),
        Err(ArchError::Infeasible { .. }) => None,
        Err(cause) => return Err(cause.into()),
    };
    let mut rows = vec![
        row("original", &whole, measure(&sorted)?)?,
        row("pruned", &search::best(context)?, measure(&Model::load(&Checkpoint::open(pruned)?)?)?)?,
    ];
    if let Some(healed) = healed {
        let model = Model::load(&Checkpoint::open(&healed.folder)?)?;
        rows.push(row("healed", &search::best(context)?, measure(&model)?)?);
    }
    if let Some(uniform) = uniform {
        rows.push(row("uniform", &uniform, measure(&cut(&uniform)?)?)?);
    }
    let mut drawn = Vec::new();
    for index in 0..recipe.eval.random {
        // a draw may miss the budget, or give a model that overflows: neither says anything of the result
        let Some(architecture) = draw(context, index as u64)? else { continue };
        let measured = measure(&cut(&architecture)?)?;
        if measured.0.perplexity.is_finite() {
            drawn.push((architecture, measured));
        }
    }
    if let Some((architecture, first)) = drawn.first() {
        let all: Vec<&Measured> = drawn.iter().map(|(_, measured)| measured).collect();
        let losses = if all.len() > 1 { all.iter().map(|(measured, _)| measured.loss).collect() } else { Vec::new() };
        rows.push(Row { losses, ..row("random", architecture, mean(first, &all))? });
    }
    Ok(rows)
}

/// Original and pruned model by the clock.
fn latencies(
    context: &Context<'_>,
    generation: Generation,
    pruned: &Path,
    rows: &[Row],
) -> Result<LatencyReport, PipelineError> {
    let pruned = Model::load(&Checkpoint::open(pruned)?)?;
    let measured = |row: &Row| -> Result<Option<LatencyRow>, PipelineError> {
        let model = match row.name.as_str() {
            "original" => &context.stored()?,
            "pruned" => &pruned,
            _ => return Ok(None),
        };
        let measured = latency(model, generation, REPETITIONS, context.console)?;
        Ok(Some(LatencyRow { name: row.name.clone(), predicted: row.costs.latency, measured }))
    };
    Ok(LatencyReport {
        processor: machine::processor(),
        threads: rayon::current_num_threads(),
        repetitions: REPETITIONS,
        rows: rows.iter().filter_map(|row| measured(row).transpose()).collect::<Result<_, _>>()?,
    })
}

/// A random architecture inside the budget; `None` if many draws miss it.
fn draw(context: &Context<'_>, index: u64) -> Result<Option<Architecture>, PipelineError> {
    for attempt in 0..DRAWS {
        let mut rng = stream(context.recipe.seed, "random-control", index, attempt);
        match context.space.random(&context.spec, context.range, &mut rng) {
            Err(ArchError::Infeasible { .. }) => {}
            other => return Ok(Some(other?)),
        }
    }
    Ok(None)
}
