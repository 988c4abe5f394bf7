//! Pages about tasks and their results.

use std::fmt::Write;

use serde_json::Value;
use taper_pipeline::{Comparison, Gate, OutputType, Pair, Recovery, Suite, TaskReport, TaskTable};

use super::{lines, table};

pub(crate) fn results(report: &TaskReport) -> String {
    let results = &report.results;
    let mut rows = table(&["task", "version", "shots", "documents", "filter", "metric", "value", "stderr"]);
    let tasks = results.get("results").and_then(Value::as_object);
    for (name, values) in tasks.into_iter().flatten() {
        let cell = |key: &str| results.get(key).and_then(|of| of.get(name)).map_or("-".to_owned(), plain);
        for (key, value) in values.as_object().into_iter().flatten() {
            let Some((metric, filter)) = key.split_once(',').filter(|(metric, _)| !metric.ends_with("_stderr")) else {
                continue;
            };
            let error = values.get(format!("{metric}_stderr,{filter}")).and_then(Value::as_f64);
            rows.add_row(vec![
                name.clone(),
                cell("versions"),
                cell("n-shot"),
                values.get("sample_len").map_or("-".to_owned(), plain),
                filter.to_owned(),
                metric.to_owned(),
                value.as_f64().map_or("-".to_owned(), number),
                error.map_or("-".to_owned(), |error| format!("± {}", number(error))),
            ]);
        }
    }
    let mut page = lines(&rows);
    if !report.comparisons.is_empty() {
        let _ = write!(page, "\n\n{}", compared(&report.comparisons));
    }
    if let Some(effort) = results.get("taper").and_then(|own| own.get("effort")) {
        let of = |key: &str| effort.get(key).and_then(Value::as_f64).unwrap_or_default();
        let (requests, known, tokens, seconds) = (of("requests"), of("known"), of("tokens"), of("seconds"));
        let _ = write!(page, "\n\n{requests} requests, {known} of them answered before; ");
        let _ = write!(
            page,
            "{tokens} tokens through the model in {seconds:.1} s, {:.0} a second.",
            of("tokens_per_second")
        );
    }
    page
}

fn compared(comparisons: &[Comparison]) -> String {
    let mut rows =
        table(&["task", "metric", "original", "model", "difference", "95%", "recovery", "lost", "won", "flipped"]);
    let count = |count: Option<usize>| count.map_or("-".to_owned(), |count| count.to_string());
    for c in comparisons {
        let metric =
            if c.filter == "none" { c.metric.name().to_owned() } else { format!("{}, {}", c.metric.name(), c.filter) };
        rows.add_row(vec![
            c.task.clone(),
            metric,
            number(c.original),
            number(c.value),
            format!("{:+.4}", c.difference),
            format!("{:+.4} to {:+.4}", c.interval[0], c.interval[1]),
            c.recovery.map_or("-".to_owned(), percent),
            count(c.lost),
            count(c.won),
            count(c.flipped),
        ]);
    }
    let note = "95%: of resamples of the documents, both models on the same. lost: right before and wrong now; won: the \
                reverse; flipped: another answer, right or not.";
    format!("{}\n{note}", lines(&rows))
}

/// Original and pruned model of a run.
pub(crate) fn of_a_run(found: &TaskTable) -> String {
    let mut page = compared(&found.against);
    let is_task = |name: &str| found.against.iter().any(|one| one.task == name);
    let groups: Vec<&Recovery> = found.recoveries.iter().filter(|one| !is_task(&one.name)).collect();
    if groups.is_empty() {
        return page;
    }
    let mut rows = table(&["group", "metric", "original", "model", "recovery"]);
    for group in groups {
        let of = |number: fn(&Pair) -> f64| group.of.as_ref().map_or("-".to_owned(), |pair| self::number(number(pair)));
        rows.add_row(vec![
            group.name.clone(),
            group.of.map_or("mean of recoveries", |pair| pair.metric.name()).to_owned(),
            of(|pair| pair.original),
            of(|pair| pair.value),
            percent(group.recovery),
        ]);
    }
    let _ = write!(page, "\n\n{}", lines(&rows));
    page
}

pub(crate) fn gates(gates: &[Gate]) -> String {
    let mut rows = table(&["gate", "wanted", "recovery", ""]);
    for gate in gates {
        let verdict = if gate.met { "met" } else { "missed" };
        let found = gate.found.map_or("-".to_owned(), number);
        rows.add_row(vec![gate.name.clone(), number(gate.wanted), found, verdict.to_owned()]);
    }
    lines(&rows)
}

fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}

/// Four decimals, as lm-evaluation-harness prints.
fn number(value: f64) -> String {
    format!("{value:.4}")
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

pub(crate) fn list(suite: &Suite) -> String {
    let mut rows = table(&["task", "what", "metrics", "version", "shots", "data", "licence"]);
    for column in rows.column_iter_mut() {
        column.set_cell_alignment(comfy_table::CellAlignment::Left);
    }
    let inside: Vec<&str> = suite.groups().filter(|group| group.task.len() > 8).flat_map(|g| suite.leaves(g)).collect();
    for task in suite.tasks().filter(|task| task.task_alias.is_none() || !inside.contains(&task.task.as_str())) {
        let metrics: Vec<&str> = task.metric_list.iter().map(|metric| metric.metric.name()).collect();
        let generates = task.output_type == OutputType::GenerateUntil;
        rows.add_row(vec![
            task.task.clone(),
            task.summary.clone(),
            format!("{}{}", metrics.join(", "), if generates { " (generates)" } else { "" }),
            format!("{:.1}", task.metadata.version),
            task.num_fewshot.unwrap_or(0).to_string(),
            task.dataset_path.clone(),
            task.licence.clone(),
        ]);
    }
    let mut page = lines(&rows);
    page.push_str("\n\ngroups:");
    for group in suite.groups() {
        let _ = write!(page, "\n  {}: {} tasks, {}", group.group, suite.leaves(group).len(), group.summary);
    }
    page
}
