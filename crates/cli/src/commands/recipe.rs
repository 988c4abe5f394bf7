//! `run`, `search`, `prune`, `check`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use serde_json::json;
use taper_pipeline::{Console, Gate, Methods, Recipe, Stage, run as run_recipe};

use super::{print, write};
use crate::args::{Args, RecipeArgs};
use crate::render::{self, InRecipe};

pub(crate) fn run(args: &Args, given: &RecipeArgs, last: Stage, console: &dyn Console) -> anyhow::Result<ExitCode> {
    let mut recipe = Recipe::read(&given.recipe, &Methods::of_this_build())?;
    if let Some(runs) = &given.runs {
        recipe.runs.clone_from(runs);
    }
    if let Some(threads) = given.threads {
        recipe.search.threads = Some(threads.into());
    }
    let report = run_recipe(&recipe, last, console).with_context(|| InRecipe(given.recipe.clone()))?;
    let done = print(args, &report, || render::report(&report))?;
    let missed: Vec<&Gate> = report.gates.iter().filter(|gate| !gate.met).collect();
    if missed.is_empty() {
        return Ok(done);
    }
    let all = missed.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    Err(anyhow::Error::msg(all).context(MissedGates { missed: missed.len(), all: report.gates.len() }))
}

/// The run is done, and its result keeps too little of the original.
#[derive(Debug)]
pub(crate) struct MissedGates {
    missed: usize,
    all: usize,
}

impl std::fmt::Display for MissedGates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plural = if self.all == 1 { "" } else { "s" };
        write!(f, "{} of {} gate{plural} missed", self.missed, self.all)
    }
}

pub(crate) fn check(args: &Args, path: Option<&Path>) -> anyhow::Result<ExitCode> {
    let path = path.context("no recipe given")?;
    let recipe = Recipe::read(path, &Methods::of_this_build())?;
    let found = taper_pipeline::check(&recipe).with_context(|| InRecipe(path.to_owned()))?;
    let summary = json!({"recipe": path, "name": recipe.name, "model": recipe.model.to_string(), "trials": found.trials,
        "proxy": recipe.search.proxy.name, "strategy": recipe.search.strategy.name, "memory": found.memory, "notes": found.notes});
    print(args, &summary, || {
        let (search, trials) = (&recipe.search, found.trials);
        let memory = found.memory.map(|memory| format!("\n  memory: {memory}")).unwrap_or_default();
        let notes: String = found.notes.iter().map(|note| format!("\n  note: {note}")).collect();
        format!(
            "{}: sound. {} from {}, {} by {}, up to {trials} trials{memory}{notes}",
            path.display(),
            recipe.name,
            recipe.model,
            search.strategy.name,
            search.proxy.name
        )
    })
}

pub(crate) fn schema() -> anyhow::Result<ExitCode> {
    let schema = serde_json::to_string_pretty(&taper_pipeline::recipe::json_schema()).context("schema as JSON")?;
    write(&schema)
}
