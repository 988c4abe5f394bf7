//! Measure: the table of times that a latency budget counts by. Only recipes with such a budget have this stage.
//!
//! Times differ from one measurement to the next, so the table is measured once and kept: the same recipe on the same
//! machine with as many threads goes on from it, and ends at the same bytes.

use std::sync::Arc;

use taper_arch::{Architecture, LatencyTable, ModelSpec};
use taper_base::Fingerprint;
use taper_eval::latency_table;
use taper_model::{Checkpoint, Model};

use super::{read_json, write_json};
use crate::context::REVISION;
use crate::run_dir::RunDir;
use crate::stage::StageKey;
use crate::{Console, Outcome, PipelineError, Recipe, Stage, machine};

const FILE: &str = "latency.json";

/// Workload longer than the model is an error that names `what`.
pub(crate) fn check(recipe: &Recipe, spec: &ModelSpec) -> Result<(), PipelineError> {
    let got = recipe.budget.workload().positions();
    if recipe.budget.latency.is_some() && got > spec.max_tokens {
        return Err(PipelineError::TooLong {
            what: "prompt + generate - 1 of budget.workload (512 and 128 if left out)",
            got,
            most: spec.max_tokens,
        });
    }
    Ok(())
}

/// The model in numbers, with its table of times if the budget counts them. The recipe has been checked against it.
pub(crate) fn measure(
    recipe: &Recipe,
    run: &RunDir,
    console: &dyn Console,
    (checkpoint, model): (&Checkpoint, &Fingerprint),
) -> Result<ModelSpec, PipelineError> {
    let mut spec = checkpoint.spec().clone();
    if recipe.budget.latency.is_none() {
        return Ok(spec);
    }
    let (space, _) = recipe.space_of(&spec)?;
    let (stage, generation) = (Stage::Measure, recipe.budget.workload());
    let key = StageKey::new(stage.name())
        .with_json("revision", &REVISION)?
        .with("model", model)
        .with_json("machine", &machine::processor())?
        .with_json("threads", &rayon::current_num_threads())?
        .with_json("workload", &generation)?
        .with_json("space", &space)?;
    let (prompt, generate, batch) = (generation.prompt, generation.generate, generation.batch);
    console.started(stage, &format!("latency of {generate} tokens after a prompt of {prompt}, batch {batch}"));
    let outcome = run.run(&key, |dir| {
        let table = latency_table(&Model::load(checkpoint)?, &space, generation, console)?;
        write_json(&dir.join(FILE), &table)
    })?;
    let table: LatencyTable = read_json(&run.path(stage.name()).join(FILE))?;
    let whole = table.predict(&spec, &Architecture::whole(&spec))?;
    spec.latency = Some(Arc::new(table));
    console.finished(stage, &format!("{whole} for the whole model"), outcome == Outcome::Skipped);
    Ok(spec)
}
