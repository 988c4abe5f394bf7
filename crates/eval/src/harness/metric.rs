//! What answers are worth, document by document and together, by the formulas of lm-evaluation-harness (0.4.13).

use regex::Regex;

use super::answer::Answer;
use super::prompt::{Gold, Prompt};
use super::python::{Random, argmax, words};
use super::task::{Aggregation, FilterSpec, Metric, MetricSpec, OutputType, Task};

/// Resamples for a standard error that has no formula.
pub const BOOTSTRAP: usize = 100_000;
/// Resamples drawn from one seed.
const CHUNK: usize = 1000;

/// A document's value of a metric, and its weight where that counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Item {
    /// 1 or 0, or a log-likelihood.
    pub value: f64,
    /// Words or bytes; 1 elsewhere.
    pub weight: f64,
}

/// One document's outcome under one filter.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The filter's name; `none` without one.
    pub filter: String,
    /// What the filter made of the answers.
    pub filtered: Vec<Answer>,
    /// Each metric's value.
    pub items: Vec<(Metric, Item)>,
}

/// The outcomes of a document, one a filter.
pub(crate) fn outcomes(task: &Task, prompt: &Prompt, answers: &[Answer]) -> Vec<Outcome> {
    if task.output_type != OutputType::GenerateUntil || task.filter_list.is_empty() {
        let items = items(task, prompt, answers);
        return vec![Outcome { filter: "none".to_owned(), filtered: answers.to_vec(), items }];
    }
    let outcome = |name: &str, filters: &[FilterSpec]| {
        let text = answers.iter().find_map(|answer| match answer {
            Answer::Text(text) => Some(text.clone()),
            Answer::Likelihood { .. } => None,
        });
        let text = filters.iter().fold(text.unwrap_or_default(), |text, filter| apply(filter, text));
        let filtered = vec![Answer::Text(text)];
        Outcome { filter: name.to_owned(), items: items(task, prompt, &filtered), filtered }
    };
    task.filter_list.iter().map(|pipeline| outcome(&pipeline.name, &pipeline.filter)).collect()
}

/// `RegexFilter`: the match asked for, its first group that is not empty if it has several, without white space around.
fn apply(filter: &FilterSpec, text: String) -> String {
    let FilterSpec::Regex { regex_pattern, group_select, fallback } = filter else { return text };
    let Ok(regex) = Regex::new(regex_pattern) else { return fallback.clone() }; // checked with the task
    let groups = regex.captures_len() - 1;
    let found: Vec<Vec<&str>> = regex
        .captures_iter(&text)
        .map(|found| match groups {
            0 => vec![found.get(0).map_or("", |whole| whole.as_str())],
            _ => (1..=groups).map(|group| found.get(group).map_or("", |part| part.as_str())).collect(),
        })
        .collect();
    let place = if *group_select < 0 { found.len() as i64 + group_select } else { *group_select };
    let Some(found) = usize::try_from(place).ok().and_then(|place| found.get(place)) else { return fallback.clone() };
    let part = match groups {
        0 | 1 => found.first().copied(),
        _ => found.iter().copied().find(|part| !part.is_empty()),
    };
    part.map_or(fallback.as_str(), |part| part.trim_matches(super::python::is_space)).to_owned()
}

fn items(task: &Task, prompt: &Prompt, answers: &[Answer]) -> Vec<(Metric, Item)> {
    let likelihoods: Vec<(f64, bool)> = answers.iter().filter_map(Answer::likelihood).collect();
    let sum: f64 = likelihoods.iter().map(|(sum, _)| sum).sum();
    let plain = |value: f64| Item { value, weight: 1.0 };
    let right = |yes: bool| plain(f64::from(u8::from(yes)));
    let one = |spec: &MetricSpec| {
        let item = match (spec.metric, task.output_type) {
            (Metric::Acc, OutputType::Loglikelihood) => right(likelihoods.iter().all(|(_, greedy)| *greedy)),
            (Metric::Acc | Metric::AccNorm | Metric::AccBytes, _) => {
                right(Gold::Choice(chosen(spec.metric, prompt, &likelihoods)) == prompt.gold)
            }
            (Metric::Perplexity, _) => plain(sum),
            (Metric::WordPerplexity, _) => Item { value: sum, weight: words(&prompt.counted) as f64 },
            (Metric::BytePerplexity | Metric::BitsPerByte, _) => {
                Item { value: sum, weight: prompt.counted.len() as f64 }
            }
            (Metric::ExactMatch, _) => match (answers, &prompt.gold) {
                ([Answer::Text(text)], Gold::Text(gold)) => right(normal(spec, text) == normal(spec, gold)),
                _ => right(false),
            },
        };
        (spec.metric, item)
    };
    task.metric_list.iter().map(one).collect()
}

/// The choice that a metric takes for the answer.
pub(crate) fn chosen(metric: Metric, prompt: &Prompt, likelihoods: &[(f64, bool)]) -> usize {
    let length = |choice: &String| match metric {
        Metric::AccNorm => choice.chars().count() as f64,
        Metric::AccBytes => choice.len() as f64,
        _ => 1.0,
    };
    let pairs = likelihoods.iter().zip(&prompt.choices);
    argmax(&pairs.map(|((sum, _), choice)| sum / length(choice)).collect::<Vec<_>>())
}

/// `exact_match_hf_evaluate`: what is compared of a text.
fn normal(spec: &MetricSpec, text: &str) -> String {
    let mut text = text.to_owned();
    for pattern in &spec.regexes_to_ignore {
        if let Ok(regex) = Regex::new(pattern) {
            text = regex.replace_all(&text, "").into_owned(); // checked with the task
        }
    }
    if spec.ignore_case {
        text = text.to_lowercase();
    }
    if spec.ignore_punctuation {
        text.retain(|c| !c.is_ascii_punctuation());
    }
    text
}

impl Answer {
    /// Of a continuation.
    pub(crate) fn likelihood(&self) -> Option<(f64, bool)> {
        match self {
            Self::Likelihood { log_likelihood, greedy } => Some((*log_likelihood, *greedy)),
            Self::Text(_) => None,
        }
    }
}

/// The value of all documents together.
pub fn aggregate(aggregation: Aggregation, items: &[Item]) -> f64 {
    let value: f64 = items.iter().map(|item| item.value).sum();
    let weight: f64 = items.iter().map(|item| item.weight).sum();
    match aggregation {
        Aggregation::Mean => value / items.len() as f64,
        Aggregation::Perplexity => (-value / items.len() as f64).exp(),
        Aggregation::WeightedPerplexity => (-value / weight).exp(),
        Aggregation::BitsPerByte => -value / weight / std::f64::consts::LN_2,
    }
}

/// Its standard error: of a mean by formula, of a perplexity by Python's bootstrap, `resamples` of them; of the others, and
/// of a single document, none.
pub fn standard_error(aggregation: Aggregation, items: &[Item], resamples: usize) -> Option<f64> {
    if items.len() < 2 {
        return None;
    }
    match aggregation {
        Aggregation::Mean => {
            let values: Vec<f64> = items.iter().map(|item| item.value).collect();
            Some(deviation(&values) / (items.len() as f64).sqrt())
        }
        Aggregation::Perplexity if resamples >= CHUNK => Some(deviation(&bootstrap(items, resamples))),
        _ => None,
    }
}

/// Perplexities of resamples; chunk `i` is drawn by the generator of seed `i`.
fn bootstrap(items: &[Item], resamples: usize) -> Vec<f64> {
    let n = items.len();
    let mut found = Vec::with_capacity(resamples);
    for seed in 0..resamples / CHUNK {
        let mut random = Random::new(seed as u64);
        for _ in 0..CHUNK {
            let sum: f64 = (0..n).map(|_| items[random.choice(n)].value).sum();
            found.push((-sum / n as f64).exp());
        }
    }
    found
}

/// `√(Σ (x − mean)² / (n − 1))`.
fn deviation(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / (values.len() as f64 - 1.0)).sqrt()
}

/// Mean of tasks by their number of documents (`aggregate_subtask_metrics`), and its standard error
/// (`pooled_sample_stderr`): `√(Σ (n−1) s² n / (Σ n − k) / Σ n)`.
pub fn pooled(values: &[(f64, Option<f64>, usize)]) -> (f64, Option<f64>) {
    let total: f64 = values.iter().map(|(_, _, n)| *n as f64).sum();
    let mean = values.iter().map(|(value, _, n)| value * *n as f64).sum::<f64>() / total;
    let squares: Option<f64> =
        values.iter().map(|(_, error, n)| Some((*n as f64 - 1.0) * (*error)?.powi(2) * *n as f64)).sum();
    (mean, squares.map(|squares| (squares / (total - values.len() as f64) / total).sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_characters_for_acc_norm_and_bytes_for_acc_bytes() {
        let choices = vec!["ééé".to_owned(), "abcd".to_owned()]; // 3 and 4 characters, 6 and 4 bytes
        let prompt = Prompt { requests: Vec::new(), choices, gold: Gold::Choice(0), counted: String::new() };
        let of = |metric, first| chosen(metric, &prompt, &[(first, false), (-4.0, false)]);
        assert_eq!([-3.2, -2.8].map(|first| of(Metric::AccNorm, first)), [1, 0]); // -1.07 and -0.93 against -1
        assert_eq!([-6.2, -5.8].map(|first| of(Metric::AccBytes, first)), [1, 0]); // -1.03 and -0.97 against -1
        assert_eq!([-4.1, -3.9].map(|first| of(Metric::Acc, first)), [1, 0]);
    }

    /// Wanted values are those of `aggregate_subtask_metrics` and `pooled_sample_stderr`.
    #[test]
    fn tasks_count_by_their_documents() {
        let (value, error) = pooled(&[(0.5, Some(0.1), 10), (0.25, Some(0.05), 30), (1.0, Some(0.0), 2)]);
        assert!(
            (value - 0.34523809523809523).abs() < 1e-15 && (error.unwrap() - 0.043327697576600786).abs() < 1e-15,
            "{value} {error:?}"
        );
        assert_eq!(pooled(&[(0.5, None, 1), (0.25, Some(0.05), 30)]).1, None);
    }
}
