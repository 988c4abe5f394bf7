//! How much of its original a model keeps, by task and group: what gates are judged by.
//!
//! Of a task: `value / original` of one metric, [`ORDER`]'s first that it has, under its first filter; `original / value` if it is
//! a perplexity. Of a group with metrics of its own (MMLU): the same of these. Of any other group: the mean of its members'.
//! Chance is not subtracted. Where the original scores 0 nothing can be lost: 1.

use serde::{Deserialize, Serialize};

use super::metric::{aggregate, pooled};
use super::results::{items, measured, of_leaves};
use super::{Group, Metric, Suite, TaskRun};

/// Which metric speaks for a task that has several.
const ORDER: [Metric; 8] = [
    Metric::AccNorm,
    Metric::Acc,
    Metric::AccBytes,
    Metric::ExactMatch,
    Metric::Perplexity,
    Metric::WordPerplexity,
    Metric::BytePerplexity,
    Metric::BitsPerByte,
];

/// What a model keeps of its original on a task or group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recovery {
    /// Task or group.
    pub name: String,
    /// What it is of; none for the mean over a group's members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<Pair>,
    /// 1: all of it; above 1: the model is better.
    pub recovery: f64,
}

/// One metric of two models.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    /// The metric.
    pub metric: Metric,
    /// Of the original.
    pub original: f64,
    /// Of the model.
    pub value: f64,
}

impl Pair {
    /// 1 where there is nothing to lose.
    pub fn recovery(self) -> f64 {
        let (kept, whole) = match self.metric.higher_is_better() {
            true => (self.value, self.original),
            false => (self.original, self.value),
        };
        if whole == 0.0 { 1.0 } else { kept / whole }
    }
}

/// Recoveries of the tasks of `runs`, then of `groups`, of which those inside others come first.
pub fn recoveries(suite: &Suite, groups: &[&Group], runs: &[TaskRun], originals: &[TaskRun]) -> Vec<Recovery> {
    let mut all: Vec<Recovery> = Vec::new();
    for run in runs {
        let original = originals.iter().find(|original| original.task.task == run.task.task);
        if let Some(pair) = original.and_then(|original| of_task(run, original)) {
            all.push(Recovery { name: run.task.task.clone(), of: Some(pair), recovery: pair.recovery() });
        }
    }
    for group in groups {
        let members: Vec<f64> =
            all.iter().filter(|one| group.task.contains(&one.name)).map(|one| one.recovery).collect();
        let of = of_group(suite, group, [runs, originals]);
        let mean = (!members.is_empty()).then(|| members.iter().sum::<f64>() / members.len() as f64);
        if let Some(recovery) = of.map(Pair::recovery).or(mean) {
            all.push(Recovery { name: group.group.clone(), of, recovery });
        }
    }
    all
}

fn of_task(run: &TaskRun, original: &TaskRun) -> Option<Pair> {
    let all = measured(run);
    let (filter, metric) = ORDER.iter().find_map(|metric| all.iter().find(|(_, other)| other == metric))?;
    let value = |run: &TaskRun| aggregate(metric.aggregation(), &items(run, *metric, filter));
    Some(Pair { metric: *metric, original: value(original), value: value(run) })
}

/// Of a group's own first metric, each task by its number of documents.
fn of_group(suite: &Suite, group: &Group, [runs, originals]: [&[TaskRun]; 2]) -> Option<Pair> {
    let metric = *ORDER.iter().find(|metric| group.aggregate_metric_list.contains(metric))?;
    let of = |runs: &[TaskRun]| {
        let found = of_leaves(suite, group, runs, metric, 0);
        (!found.is_empty()).then(|| pooled(&found).0)
    };
    Some(Pair { metric, original: of(originals)?, value: of(runs)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recovery_is_a_ratio_whose_best_is_above() {
        let of = |metric, original, value| Pair { metric, original, value }.recovery();
        assert_eq!(of(Metric::AccNorm, 0.5, 0.25), 0.5);
        assert_eq!(of(Metric::WordPerplexity, 10.0, 40.0), 0.25);
        assert_eq!(of(Metric::BitsPerByte, 3.0, 2.0), 1.5);
        assert_eq!(of(Metric::ExactMatch, 0.0, 0.0), 1.0);
        assert_eq!(of(Metric::ExactMatch, 0.0, 0.5), 1.0);
        assert_eq!(of(Metric::Acc, 0.5, 0.0), 0.0);
    }
}
