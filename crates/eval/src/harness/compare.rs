//! Two models on the same documents: the difference of each metric, how sure it is, and how many answers flipped.
//!
//! The interval is the 95% percentile interval of a bootstrap over documents, both models on the same ones (Efron and
//! Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13). An accuracy that stays while answers flip is damage
//! (arXiv:2407.09141).

use serde::{Deserialize, Serialize};
use taper_base::rng::{RngExt, stream};

use super::metric::{aggregate, chosen};
use super::results::{items, measured};
use super::{Answer, Evaluated, Item, Metric, OutputType, TaskRun};

/// Resamples of documents.
const RESAMPLES: usize = 10_000;

/// One metric of one task, of a model and of the one it is compared with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// The task.
    pub task: String,
    /// The metric.
    pub metric: Metric,
    /// The filter.
    pub filter: String,
    /// Of the other model.
    pub original: f64,
    /// Of the model.
    pub value: f64,
    /// `value - original`.
    pub difference: f64,
    /// Between these it lies in 95% of resamples of the documents.
    pub interval: [f64; 2],
    /// `value / original`, where more is better.
    pub recovery: Option<f64>,
    /// Documents.
    pub documents: usize,
    /// Right with the other model and wrong now; none where nothing is right or wrong.
    pub lost: Option<usize>,
    /// Wrong with the other model and right now.
    pub won: Option<usize>,
    /// Another choice or text is the answer, right or not.
    pub flipped: Option<usize>,
}

/// Each metric of `runs` against that of `originals`, tasks that both have evaluated on the same documents.
pub fn compare(runs: &[TaskRun], originals: &[TaskRun], seed: u64) -> Vec<Comparison> {
    let mut all = Vec::new();
    for run in runs {
        let same = |other: &&TaskRun| other.task.task == run.task.task && other.evaluated.len() == run.evaluated.len();
        let Some(original) = originals.iter().find(same) else { continue };
        let metrics = measured(run).into_iter();
        all.extend(metrics.map(|(filter, metric)| one(run, original, metric, &filter, seed)));
    }
    all
}

fn one(run: &TaskRun, original: &TaskRun, metric: Metric, filter: &str, seed: u64) -> Comparison {
    let (now, before) = (items(run, metric, filter), items(original, metric, filter));
    let aggregation = metric.aggregation();
    let (value, was) = (aggregate(aggregation, &now), aggregate(aggregation, &before));
    let binary = metric.higher_is_better();
    let count = |changed: fn(f64, f64) -> bool| {
        binary.then(|| now.iter().zip(&before).filter(|(now, before)| changed(before.value, now.value)).count())
    };
    let pairs = || run.evaluated.iter().zip(&original.evaluated);
    let flips =
        || pairs().filter(|(a, b)| answer(run, metric, filter, a) != answer(original, metric, filter, b)).count();
    Comparison {
        task: run.task.task.clone(),
        metric,
        filter: filter.to_owned(),
        original: was,
        value,
        difference: value - was,
        interval: interval(&run.task.task, [&now, &before], |items| aggregate(aggregation, items), seed),
        recovery: (binary && was > 0.0).then(|| value / was),
        documents: now.len(),
        lost: count(|before, now| before > now),
        won: count(|before, now| before < now),
        flipped: binary.then(flips),
    }
}

/// What a document's answer comes to.
#[derive(PartialEq)]
enum Said {
    Choice(usize),
    Greedy(bool),
    Text(String),
}

fn answer(run: &TaskRun, metric: Metric, filter: &str, document: &Evaluated) -> Said {
    let likelihoods: Vec<(f64, bool)> = document.answers.iter().filter_map(Answer::likelihood).collect();
    match run.task.output_type {
        OutputType::MultipleChoice => Said::Choice(chosen(metric, &document.prompt, &likelihoods)),
        OutputType::GenerateUntil => {
            let outcome = document.outcomes.iter().find(|outcome| outcome.filter == filter);
            let text = outcome.and_then(|outcome| outcome.filtered.first());
            Said::Text(match text {
                Some(Answer::Text(text)) => text.clone(),
                _ => String::new(),
            })
        }
        _ => Said::Greedy(likelihoods.iter().all(|(_, greedy)| *greedy)),
    }
}

/// 2.5% and 97.5% of the differences over resamples of documents.
fn interval(task: &str, [now, before]: [&[Item]; 2], value: impl Fn(&[Item]) -> f64, seed: u64) -> [f64; 2] {
    let n = now.len();
    let mut rng = stream(seed, &format!("bootstrap {task}"), 0, 0);
    let mut differences: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let drawn: Vec<usize> = (0..n).map(|_| rng.random_range(0..n)).collect();
            let of = |items: &[Item]| drawn.iter().map(|index| items[*index]).collect::<Vec<_>>();
            value(&of(now)) - value(&of(before))
        })
        .collect();
    differences.sort_by(f64::total_cmp);
    let at = |share: f64| differences[((RESAMPLES - 1) as f64 * share).round() as usize];
    [at(0.025), at(0.975)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::task::Aggregation;

    fn items(values: &[f64]) -> Vec<Item> {
        values.iter().map(|value| Item { value: *value, weight: 1.0 }).collect()
    }

    /// For a mean of differences the interval is that of the normal law: `d ± 1.96 · s / √n`.
    #[test]
    fn the_interval_is_paired() {
        let before: Vec<f64> = (0..400).map(|i| f64::from(i % 2)).collect();
        let now: Vec<f64> = before.iter().enumerate().map(|(i, x)| if i % 10 == 0 { 1.0 - x } else { *x }).collect();
        let mean = |items: &[Item]| aggregate(Aggregation::Mean, items);
        let [low, high] = interval("t", [&items(&now), &items(&before)], mean, 7);
        // every tenth answer flips, and all of those were 0: differences are 1 with p = 0.1; s = 0.3, n = 400
        assert!(
            (low - (0.1 - 1.96 * 0.015)).abs() < 0.004 && (high - (0.1 + 1.96 * 0.015)).abs() < 0.004,
            "{low} {high}"
        );
        let same = interval("t", [&items(&before), &items(&before)], mean, 7);
        assert_eq!(same, [0.0, 0.0], "no difference, however the documents are drawn");
    }
}
