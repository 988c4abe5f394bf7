//! What a recipe's `eval` section says of tasks: names, ranges, and gates on what is measured.

use std::error::Error;
use std::path::Path;

use taper_eval::harness::Suite;

use super::Finding;
use crate::gates;
use crate::recipe::EvalPart;

/// The first thing wrong; folders of tasks start at `base`.
pub(super) fn tasks(eval: &EvalPart, base: &Path) -> Result<(), Finding> {
    options(eval)?;
    let Some(suite) = suite(eval, base)? else { return recovery(eval, &[]) };
    for (index, name) in eval.tasks.iter().enumerate() {
        let refuse = |reason: String| Finding::new(&["eval", "tasks", &index.to_string()], reason);
        let selection = suite.select(std::slice::from_ref(name)).map_err(|error| refuse(chain(&error)))?;
        if selection.tasks.is_empty() {
            return Err(refuse(format!("the group `{name}` has no task")));
        }
    }
    let selection = suite.select(&eval.tasks).map_err(|error| Finding::new(&["eval", "tasks"], chain(&error)))?;
    let names = selection.tasks.iter().map(|task| task.task.as_str());
    recovery(eval, &names.chain(selection.groups.iter().map(|group| group.group.as_str())).collect::<Vec<_>>())
}

fn options(eval: &EvalPart) -> Result<(), Finding> {
    let given = [
        ("shots", eval.shots.is_some()),
        ("limit", eval.limit.is_some()),
        ("data", eval.data.is_some()),
        ("task_path", !eval.task_path.is_empty()),
    ];
    if let Some((key, _)) = given.into_iter().find(|(_, given)| *given && eval.tasks.is_empty()) {
        return Err(Finding::new(&["eval", key], format!("`{key}` belongs to `tasks`, and there are none")));
    }
    match eval.limit {
        Some(limit) if limit <= 0.0 || (limit >= 1.0 && limit.fract() != 0.0) || limit >= 1e15 => {
            let reason = format!("limit is {limit}, wanted a number of documents, or a share of them below 1");
            Err(Finding::new(&["eval", "limit"], reason))
        }
        _ => Ok(()),
    }
}

/// All tasks there are, if any is asked for.
fn suite(eval: &EvalPart, base: &Path) -> Result<Option<Suite>, Finding> {
    if eval.tasks.is_empty() {
        return Ok(None);
    }
    let mut suite = Suite::builtin().map_err(|error| Finding::new(&["eval", "tasks"], chain(&error)))?;
    for (index, folder) in eval.task_path.iter().enumerate() {
        let refuse = |error| Finding::new(&["eval", "task_path", &index.to_string()], chain(&error));
        suite.add_folder(&base.join(folder)).map_err(refuse)?;
    }
    Ok(Some(suite))
}

fn recovery(eval: &EvalPart, measured: &[&str]) -> Result<(), Finding> {
    let wrong = |name: &String| Some((name.clone(), gates::refuse(name, measured.iter().copied())?));
    match eval.recovery.keys().find_map(wrong) {
        Some((name, reason)) => Err(Finding::new(&["eval", "recovery", &name], reason)),
        None => Ok(()),
    }
}

/// An error and its causes.
fn chain(error: &(dyn Error + 'static)) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
