//! Results in the layout of lm-evaluation-harness: `results`, `groups`, `configs`, `versions`, `n-shot`,
//! `higher_is_better`, `n-samples`, and `samples` if asked for.

use serde_json::{Map, Value, json};

use super::metric::{aggregate, pooled, standard_error};
use super::{Answer, Evaluated, Gold, Group, Item, Metric, OutputType, Suite, TaskRun};

/// Version of what the harness makes of the same documents and answers. Raise it when a change alters results.
pub const REVISION: u32 = 1;

/// The results of `runs` and of `groups` of them; `samples` adds every document.
pub fn report(
    suite: &Suite,
    runs: &[TaskRun],
    groups: &[&Group],
    resamples: usize,
    samples: bool,
) -> Map<String, Value> {
    let mut keys: [Map<String, Value>; 6] = Default::default();
    let [results, configs, versions, shots, better, counts] = &mut keys;
    for run in runs {
        let name = &run.task.task;
        results.insert(name.clone(), values(run, resamples).into());
        configs.insert(name.clone(), serde_json::to_value(&run.task).unwrap_or_default());
        versions.insert(name.clone(), run.task.metadata.version.into());
        shots.insert(name.clone(), run.shots.into());
        let directions = run.task.metric_list.iter().map(|metric| metric.metric);
        let directions = directions.map(|metric| (metric.name().to_owned(), metric.higher_is_better().into()));
        better.insert(name.clone(), Value::Object(directions.collect()));
        counts.insert(name.clone(), json!({"original": run.documents, "effective": run.evaluated.len()}));
    }
    let mut of_groups = Map::new();
    let mut subtasks = Map::new();
    for group in groups {
        let together = together(suite, group, runs, resamples);
        subtasks.insert(group.group.clone(), json!(group.task));
        versions.insert(group.group.clone(), group.metadata.version.into());
        if !group.aggregate_metric_list.is_empty() {
            of_groups.insert(group.group.clone(), together.clone().into());
        }
        results.insert(group.group.clone(), together.into());
    }
    let [results, configs, versions, shots, better, counts] = keys;
    let mut all = Map::new();
    all.insert("results".to_owned(), results.into());
    if !of_groups.is_empty() {
        all.insert("groups".to_owned(), of_groups.into());
    }
    for (key, value) in [
        ("group_subtasks", subtasks),
        ("configs", configs),
        ("versions", versions),
        ("n-shot", shots),
        ("higher_is_better", better),
        ("n-samples", counts),
    ] {
        all.insert(key.to_owned(), value.into());
    }
    if samples {
        let samples = runs.iter().map(|run| (run.task.task.clone(), Value::Array(documents(run))));
        all.insert("samples".to_owned(), Value::Object(samples.collect()));
    }
    all
}

/// The filters of a run, in their order.
fn filters(run: &TaskRun) -> Vec<&str> {
    let first = run.evaluated.first().map_or(&[][..], |document| &document.outcomes);
    first.iter().map(|outcome| outcome.filter.as_str()).collect()
}

/// Each document's value of `metric` under `filter`.
pub(super) fn items(run: &TaskRun, metric: Metric, filter: &str) -> Vec<Item> {
    let outcomes = run.evaluated.iter().flat_map(|document| &document.outcomes);
    let items = outcomes.filter(|outcome| outcome.filter == filter).flat_map(|outcome| &outcome.items);
    items.filter(|(other, _)| *other == metric).map(|(_, item)| *item).collect()
}

/// Each pair of filter and metric of a run.
pub(super) fn measured(run: &TaskRun) -> Vec<(String, Metric)> {
    let metrics = || run.task.metric_list.iter().map(|metric| metric.metric);
    filters(run).into_iter().flat_map(|filter| metrics().map(|metric| (filter.to_owned(), metric))).collect()
}

fn values(run: &TaskRun, resamples: usize) -> Map<String, Value> {
    let mut values = Map::new();
    let alias = run.task.task_alias.as_ref().unwrap_or(&run.task.task);
    values.insert("name".to_owned(), run.task.task.as_str().into());
    values.insert("alias".to_owned(), alias.as_str().into());
    values.insert("sample_len".to_owned(), run.evaluated.len().into());
    for (filter, metric) in measured(run) {
        let (items, name) = (items(run, metric, &filter), metric.name());
        let error = standard_error(metric.aggregation(), &items, resamples);
        values.insert(format!("{name},{filter}"), aggregate(metric.aggregation(), &items).into());
        values.insert(format!("{name}_stderr,{filter}"), error.map_or_else(|| "N/A".into(), Value::from));
    }
    values
}

fn together(suite: &Suite, group: &Group, runs: &[TaskRun], resamples: usize) -> Map<String, Value> {
    let mut values = Map::new();
    values.insert("name".to_owned(), group.group.as_str().into());
    values.insert("alias".to_owned(), group.group.as_str().into());
    if group.aggregate_metric_list.is_empty() {
        return values;
    }
    let documents = leaves(suite, group, runs).iter().map(|run| run.evaluated.len()).sum::<usize>();
    values.insert("sample_len".to_owned(), documents.into());
    for metric in &group.aggregate_metric_list {
        let found = of_leaves(suite, group, runs, *metric, resamples);
        if !found.is_empty() {
            let (value, error) = pooled(&found);
            values.insert(format!("{},none", metric.name()), value.into());
            values.insert(format!("{}_stderr,none", metric.name()), error.map_or_else(|| "N/A".into(), Value::from));
        }
    }
    values
}

fn leaves<'a>(suite: &Suite, group: &Group, runs: &'a [TaskRun]) -> Vec<&'a TaskRun> {
    let names = suite.leaves(group);
    runs.iter().filter(|run| names.contains(&run.task.task.as_str())).collect()
}

/// Value, standard error and number of documents of each task of `group` that has `metric`.
pub(super) fn of_leaves(
    suite: &Suite,
    group: &Group,
    runs: &[TaskRun],
    metric: Metric,
    resamples: usize,
) -> Vec<(f64, Option<f64>, usize)> {
    let aggregation = metric.aggregation();
    let of = |run: &TaskRun| {
        let items = items(run, metric, "none");
        let error = standard_error(aggregation, &items, resamples);
        (!items.is_empty()).then(|| (aggregate(aggregation, &items), error, items.len()))
    };
    leaves(suite, group, runs).into_iter().filter_map(of).collect()
}

/// Every document under every filter, as `--log_samples` writes them.
fn documents(run: &TaskRun) -> Vec<Value> {
    let one = |document: &Evaluated| {
        let arguments: Vec<Value> = document.prompt.requests.iter().map(|request| arguments(run, request)).collect();
        let resps: Vec<Value> = document.answers.iter().map(|answer| json!([shown(run, answer)])).collect();
        let sample = |outcome: &super::Outcome| {
            let mut sample = Map::new();
            sample.insert("doc_id".to_owned(), document.number.into());
            sample.insert("doc".to_owned(), document.fields.clone().into());
            let target = match &document.prompt.gold {
                Gold::Choice(choice) => Value::from(*choice),
                Gold::Text(text) => Value::from(text.as_str()),
            };
            sample.insert("target".to_owned(), target);
            sample.insert("arguments".to_owned(), arguments.clone().into());
            sample.insert("resps".to_owned(), resps.clone().into());
            let filtered: Vec<Value> = outcome.filtered.iter().map(|answer| shown(run, answer)).collect();
            sample.insert("filtered_resps".to_owned(), filtered.into());
            sample.insert("filter".to_owned(), outcome.filter.as_str().into());
            let names: Vec<&str> = outcome.items.iter().map(|(metric, _)| metric.name()).collect();
            sample.insert("metrics".to_owned(), json!(names));
            for (metric, item) in &outcome.items {
                let weighted = run.task.output_type == OutputType::LoglikelihoodRolling;
                let value = if weighted { json!([item.value, item.weight]) } else { json!(item.value) };
                sample.insert(metric.name().to_owned(), value);
            }
            Value::Object(sample)
        };
        document.outcomes.iter().map(sample).collect::<Vec<_>>()
    };
    run.evaluated.iter().flat_map(one).collect()
}

fn arguments(run: &TaskRun, (context, continuation): &(String, String)) -> Value {
    match run.task.output_type {
        OutputType::LoglikelihoodRolling => json!([continuation]),
        OutputType::GenerateUntil => json!([context, run.task.generation_kwargs]),
        _ => json!([context, continuation]),
    }
}

fn shown(run: &TaskRun, answer: &Answer) -> Value {
    match answer {
        Answer::Text(text) => text.as_str().into(),
        Answer::Likelihood { log_likelihood, .. } if run.task.output_type == OutputType::LoglikelihoodRolling => {
            json!(log_likelihood)
        }
        Answer::Likelihood { log_likelihood, greedy } => json!([log_likelihood, greedy]),
    }
}
