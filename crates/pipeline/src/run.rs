//! One recipe from end to end.

use std::io::ErrorKind;
use std::path::PathBuf;

use serde::Serialize;
use taper_base::Fingerprint;
use taper_data::{DataError, TextSource};
use taper_eval::harness::HarnessError;
use taper_model::Checkpoint;

use crate::context::Context;
use crate::device;
use crate::export::Exported;
use crate::gates::{Gate, judge};
use crate::memory::{MemoryNeed, healing_note};
use crate::recipe::EvalPart;
use crate::run_dir::RunDir;
use crate::stages::evaluate::{Evaluation, evaluate};
use crate::stages::heal::{HealReport, heal};
use crate::stages::search::{Found, search};
use crate::stages::{calibrate::calibrate, export::export, load::load, materialise, measure::measure};
use crate::tasks::local_files;
use crate::{Console, PipelineError, Recipe, Stage, machine};

/// What a run came to.
#[derive(Debug, Clone, Serialize)]
pub struct RunReport {
    /// The recipe's name.
    pub name: String,
    /// The run's folder.
    pub folder: PathBuf,
    /// Of the model that was pruned.
    pub model: Fingerprint,
    /// Stages that had work to do; none if all was done before.
    pub worked: Vec<Stage>,
    /// What the search found, if the run went so far.
    pub search: Option<Found>,
    /// The result's folder, of the healed or the pruned checkpoint, if the run went so far.
    pub checkpoint: Option<PathBuf>,
    /// What healing came to, if the recipe has it and the run went so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heal: Option<HealReport>,
    /// The final table, if the run went so far.
    pub eval: Option<Evaluation>,
    /// What was written for other engines, if the recipe names any and the run went so far.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exports: Vec<Exported>,
    /// What the recipe wants kept, and whether it is, if the run went so far.
    pub gates: Vec<Gate>,
}

/// What `taper check` found in a sound recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Candidates that the search will score at most.
    pub trials: u64,
    /// Memory that the search takes here, if the model is in a folder.
    pub memory: Option<MemoryNeed>,
    /// What is no fault of the recipe, but would stop a run on this machine.
    pub notes: Vec<String>,
}

/// Whether a run of `recipe` can begin, as far as this machine alone can say without reading weights: a model in a folder
/// is there and fits budget and lengths; text that is not there is only noted, since recipes travel without it.
///
/// # Errors
/// If it cannot.
pub fn check(recipe: &Recipe) -> Result<Checked, PipelineError> {
    recipe.model.check()?;
    let (mut memory, mut healing, mut gpu, mut no_gpu, mut narrowed) = (None, None, None, None, Vec::new());
    match device::open(recipe.place()) {
        Ok(open) => gpu = open,
        Err(PipelineError::Device { cause }) => no_gpu = Some(format!("device: {cause}")),
        Err(other) => return Err(other),
    }
    if recipe.model.folder().is_some() {
        let checkpoint = Checkpoint::open(&crate::local::model(&recipe.model, &taper_base::progress::Silent)?.dir)?;
        if recipe.budget.latency.is_some() {
            crate::context::check(recipe, checkpoint.spec())?; // what fits the budget is known once it is measured
        } else {
            crate::context::range(recipe, checkpoint.spec())?;
        }
        memory = Some(MemoryNeed::of(recipe, checkpoint.spec(), gpu.as_ref())?);
        healing = healing_note(recipe, checkpoint.spec(), gpu.as_ref());
        narrowed = recipe.space_of(checkpoint.spec())?.1;
    }
    let strategy = taper_search::build(&recipe.search.strategy.name, &recipe.search.strategy.params)?;
    let trials = strategy.trials();
    let mut notes: Vec<String> = memory.and_then(|memory| memory.note()).into_iter().collect();
    notes.extend(healing);
    notes.extend(no_gpu);
    notes.extend(narrowed.iter().map(ToString::to_string));
    if recipe.budget.latency.is_some() {
        notes.push("budget.latency: what fits is known once times are measured".to_owned());
    }
    notes.extend(crate::stages::search::idle_racing(recipe, trials)?);
    let texts = recipe.heal.iter().flat_map(|heal| &heal.texts).map(|text| ("heal.texts", &text.text));
    let texts = recipe.data.text.iter().map(|text| ("data.text", text)).chain(texts);
    for (key, text) in texts.chain(recipe.eval.text.as_ref().map(|text| ("eval.text", text))) {
        match if text.dataset.is_some() { Ok(Vec::new()) } else { TextSource::files(text) } {
            Err(DataError::Read { path, cause }) if cause.kind() == ErrorKind::NotFound => {
                notes.push(format!("{key}: {} is not on this machine", path.display()));
            }
            other => drop(other?),
        }
    }
    let images = recipe.data.images.iter().map(|images| ("data.images", images));
    for (key, images) in images.chain(recipe.eval.images.as_ref().map(|images| ("eval.images", images))) {
        let here = images.paths.iter().filter(|_| images.dataset.is_none());
        notes.extend(
            here.filter(|path| !path.exists()).map(|path| format!("{key}: {} is not on this machine", path.display())),
        );
    }
    match find_documents(&recipe.eval) {
        Err(PipelineError::Harness(HarnessError::Read { path, cause })) if cause.kind() == ErrorKind::NotFound => {
            notes.push(format!("eval.data: {} is not on this machine", path.display()));
        }
        other => other?,
    }
    Ok(Checked { trials, memory, notes })
}

/// Looks for the files of the recipe's tasks, if they are to be on this machine.
fn find_documents(eval: &EvalPart) -> Result<(), PipelineError> {
    if let (Some(suite), Some(data)) = (eval.suite()?, &eval.data) {
        local_files(&suite.select(&eval.tasks)?.tasks, eval.shots, data)?;
    }
    Ok(())
}

/// Runs `recipe` up to and including `last`. What an earlier run has done and nothing has changed since is not done again.
///
/// # Errors
/// Whatever a stage says. What was done until then stays, and the next run goes on from it.
pub fn run(recipe: &Recipe, last: Stage, console: &dyn Console) -> Result<RunReport, PipelineError> {
    let threads = recipe.search.threads.unwrap_or(0); // 0: all
    machine::with_threads(threads, || run_here(recipe, last, console))?
}

fn run_here(recipe: &Recipe, last: Stage, console: &dyn Console) -> Result<RunReport, PipelineError> {
    let dir = RunDir::open(&recipe.runs, &recipe.name)?;
    let gpu = device::open(recipe.place())?; // before anything takes long
    let (local, checkpoint, fingerprint) = load(recipe, &dir, console, gpu.as_ref())?;
    let mut report = RunReport {
        name: recipe.name.clone(),
        folder: dir.root().to_owned(),
        model: fingerprint.clone(),
        worked: Vec::new(),
        search: None,
        checkpoint: None,
        heal: None,
        eval: None,
        exports: Vec::new(),
        gates: Vec::new(),
    };
    let watch = Watch::new(console);
    crate::context::check(recipe, checkpoint.spec())?; // before anything takes long
    if let Some(text) = recipe.data.text.as_ref().filter(|text| text.dataset.is_none()) {
        text.files()?;
    }
    if last >= Stage::Eval {
        find_documents(&recipe.eval)?;
    }
    let spec = measure(recipe, &dir, &watch, (&checkpoint, &fingerprint))?;
    let context = Context::new((recipe, &dir, &watch), local, (checkpoint, spec), fingerprint, gpu)?;
    if last >= Stage::Calibrate {
        let calibration = calibrate(&context)?;
        if last >= Stage::Search {
            report.search = Some(search(&context, &calibration)?);
        }
        if last >= Stage::Materialise {
            let folder = materialise::materialise(&context, &calibration)?;
            let part = recipe.heal.as_ref().filter(|_| last >= Stage::Heal);
            let healed = part.map(|part| heal(&context, part, &folder)).transpose()?;
            if last >= Stage::Eval {
                let eval = evaluate(&context, &calibration, (&folder, healed.as_ref()))?;
                report.gates = judge(&recipe.eval.recovery, &eval);
                report.eval = Some(eval);
            }
            let (folder, made_for) = match &healed {
                Some(healed) => (healed.folder.clone(), healed.key.clone()),
                None => (folder, materialise::key(&context)?.fingerprint()),
            };
            if let Some(part) = recipe.export.as_ref().filter(|_| last >= Stage::Export) {
                report.exports = export(&context, part, (&folder, &made_for))?;
            }
            report.checkpoint = Some(folder);
            report.heal = healed.map(|healed| healed.report);
        }
    }
    report.worked = watch.worked();
    Ok(report)
}

/// Passes everything on, and remembers which stages worked.
struct Watch<'a> {
    console: &'a dyn Console,
    worked: std::sync::Mutex<Vec<Stage>>,
}

impl<'a> Watch<'a> {
    fn new(console: &'a dyn Console) -> Self {
        Self { console, worked: std::sync::Mutex::default() }
    }

    fn worked(&self) -> Vec<Stage> {
        self.worked.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

impl taper_base::progress::Progress for Watch<'_> {
    fn begin(&self, what: &str, total: u64) {
        self.console.begin(what, total);
    }
    fn advance(&self, steps: u64, note: &str) {
        self.console.advance(steps, note);
    }
    fn end(&self) {
        self.console.end();
    }
}

impl Console for Watch<'_> {
    fn started(&self, stage: Stage, what: &str) {
        self.console.started(stage, what);
    }
    fn finished(&self, stage: Stage, summary: &str, skipped: bool) {
        if !skipped {
            self.worked.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(stage);
        }
        self.console.finished(stage, summary, skipped);
    }
}
