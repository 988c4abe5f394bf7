//! Tasks of the eval stage: the original and the result, healed or pruned, by the harness, document by document.

use std::path::Path;

use serde::{Deserialize, Serialize};
use taper_base::Fingerprint;
use taper_eval::harness::{self, AnswerStore, BOOTSTRAP, Chat, Comparison, Options, Recovery, Suite};
use taper_model::Checkpoint;

use crate::PipelineError;
use crate::context::Context;
use crate::error::{finite, io};
use crate::recipe::EvalPart;
use crate::stage::StageKey;
use crate::stages::write_json;
use crate::tasks::{Questions, default_store, local_files};

/// The result's scores beside the original's. Each model's own, in the layout of lm-evaluation-harness, are in
/// `tasks_original.json` and `tasks_pruned.json`, or `tasks_healed.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskTable {
    /// Each metric of each task.
    pub against: Vec<Comparison>,
    /// What is kept of each task and group.
    pub recoveries: Vec<Recovery>,
}

/// `key` with all that the tasks' scores depend on. Documents of the Hub are known by the revision in their task.
pub(super) fn with(key: StageKey, eval: &EvalPart, suite: &Suite) -> Result<StageKey, PipelineError> {
    let selection = suite.select(&eval.tasks)?;
    let settings = (harness::REVISION, eval.shots, eval.limit, eval.fewshot_seed, BOOTSTRAP);
    let mut key = key.with_json("tasks", &(&selection.tasks, &selection.groups, settings))?;
    if let Some(data) = &eval.data {
        for (name, path) in local_files(&selection.tasks, eval.shots, data)? {
            key = key.with(&format!("documents {name}"), &Fingerprint::of_file(&path).map_err(io(&path))?);
        }
    }
    Ok(key)
}

/// Scores of both models; what each model answers is on disk before the next question.
pub(super) fn evaluate(
    context: &Context<'_>,
    suite: &Suite,
    (result, folder): (&str, &Path),
    dir: &Path,
) -> Result<TaskTable, PipelineError> {
    let (eval, console) = (&context.recipe.eval, context.console);
    let selection = suite.select(&eval.tasks)?;
    let options =
        Options { shots: eval.shots, limit: eval.limit, seed: eval.fewshot_seed, fresh: false, chat: Chat::default() };
    let questions = Questions { tasks: &selection.tasks, data: eval.data.as_deref(), options };
    let mut store = AnswerStore::open(&default_store())?;
    let original = (&context.stored()?, context.tokenizer()?, &context.fingerprint);
    let originals = questions.ask(original, &mut store, console)?;
    let runs = questions.ask_checkpoint(&Checkpoint::open(folder)?, &mut store, console)?;
    for (name, runs) in [("original", &originals), (result, &runs)] {
        let mut report = harness::report(suite, runs, &selection.groups, BOOTSTRAP, false);
        report.insert("model_source".to_owned(), "taper".into());
        report.insert("model_name".to_owned(), name.into());
        write_json(&dir.join(format!("tasks_{name}.json")), &report)?;
    }
    let against = harness::compare(&runs, &originals, eval.fewshot_seed);
    for one in &against {
        for (model, value) in [("original", one.original), (result, one.value)] {
            finite(value, || format!("{} of {} of the {model} model", one.metric.name(), one.task))?;
        }
    }
    Ok(TaskTable { against, recoveries: harness::recoveries(suite, &selection.groups, &runs, &originals) })
}
