//! What a task file says that cannot be.

use regex::Regex;

use super::task::{Choices, FilterSpec, OutputType, Target, Task};
use super::template::Templates;

/// The first key that is wrong, and why.
type Wrong = (&'static str, String);

pub(super) fn check_task(task: &Task) -> Result<(), Wrong> {
    let name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
    if !name(&task.task) {
        return Err(("task", format!("`{}` is no name of letters, digits, `_`, `-` and `.`", task.task)));
    }
    splits(task)?;
    metrics(task)?;
    output(task)?;
    templates(task)?;
    expressions(task)
}

fn splits(task: &Task) -> Result<(), Wrong> {
    if task.evaluated_split().is_none() {
        return Err(("test_split", "no split to evaluate: wanted test_split or validation_split".to_owned()));
    }
    let named = [
        ("training_split", &task.training_split),
        ("validation_split", &task.validation_split),
        ("test_split", &task.test_split),
        ("fewshot_split", &task.fewshot_split),
    ];
    for (key, split) in named {
        if let Some(split) = split.as_ref().filter(|split| !task.dataset_files.contains_key(*split)) {
            return Err((key, format!("dataset_files has no split `{split}`")));
        }
    }
    match task.dataset_files.iter().find(|(_, files)| files.is_empty()) {
        Some((split, _)) => Err(("dataset_files", format!("split `{split}` has no file"))),
        None => Ok(()),
    }
}

fn metrics(task: &Task) -> Result<(), Wrong> {
    if task.metric_list.is_empty() {
        return Err(("metric_list", "nothing to measure".to_owned()));
    }
    for metric in &task.metric_list {
        let (which, is) = (metric.metric, metric.metric.aggregation());
        if !which.is_of(task.output_type) {
            return Err(("metric_list", format!("{} does not fit this output_type", which.name())));
        }
        if metric.aggregation.is_some_and(|said| said != is) {
            return Err(("metric_list", format!("{} has another aggregation", which.name())));
        }
        if metric.higher_is_better.is_some_and(|said| said != which.higher_is_better()) {
            return Err(("metric_list", format!("higher_is_better of {} is the other", which.name())));
        }
    }
    Ok(())
}

fn output(task: &Task) -> Result<(), Wrong> {
    let choices = task.output_type == OutputType::MultipleChoice;
    match (&task.doc_to_choice, &task.doc_to_target, choices) {
        (None, _, true) => return Err(("doc_to_choice", "multiple_choice needs choices".to_owned())),
        (Some(_), _, false) => return Err(("doc_to_choice", "only multiple_choice has choices".to_owned())),
        (None, Target::Choice(_), false) => {
            return Err(("doc_to_target", "a number of a choice, and there are none".to_owned()));
        }
        _ => {}
    }
    let generates = task.output_type == OutputType::GenerateUntil;
    match &task.generation_kwargs {
        None if generates => Err(("generation_kwargs", "generate_until needs them".to_owned())),
        Some(_) if !generates => Err(("generation_kwargs", "only generate_until has them".to_owned())),
        Some(kwargs) if kwargs.do_sample || kwargs.temperature != 0.0 => {
            Err(("generation_kwargs", "taper generates greedily: do_sample is false, temperature 0".to_owned()))
        }
        Some(kwargs) if kwargs.max_gen_toks == 0 => Err(("generation_kwargs", "max_gen_toks is 0".to_owned())),
        _ => Ok(()),
    }
}

fn templates(task: &Task) -> Result<(), Wrong> {
    let engine = Templates::new();
    let check = |key: &'static str, template: &str| engine.check(template).map_err(|cause| (key, format!("{cause:#}")));
    check("description", &task.description)?;
    check("doc_to_text", &task.doc_to_text)?;
    task.process_docs.values().try_for_each(|template| check("process_docs", template))?;
    if let Target::Template(template) = &task.doc_to_target {
        check("doc_to_target", template)?;
    }
    if let Some(Choices::Template(template)) = &task.doc_to_choice {
        check("doc_to_choice", template)?;
    }
    task.gen_prefix.iter().try_for_each(|template| check("gen_prefix", template))?;
    task.doc_to_count.iter().try_for_each(|template| check("doc_to_count", template))
}

fn expressions(task: &Task) -> Result<(), Wrong> {
    let check = |key: &'static str, expression: &str| {
        Regex::new(expression).map(|_| ()).map_err(|cause| (key, cause.to_string()))
    };
    for filter in task.filter_list.iter().flat_map(|pipeline| &pipeline.filter) {
        if let FilterSpec::Regex { regex_pattern, .. } = filter {
            check("filter_list", regex_pattern)?;
        }
    }
    let ignored = task.metric_list.iter().flat_map(|metric| &metric.regexes_to_ignore);
    ignored.into_iter().try_for_each(|expression| check("metric_list", expression))
}
