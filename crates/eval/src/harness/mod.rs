//! The harness: tasks as data, answers of a model, and results number for number as lm-evaluation-harness 0.4.13 gives them.
//!
//! [`Suite`] (what tasks there are) → [`evaluate`] (prompts, requests, answers, values) → [`report`] (the results' layout)
//! or [`compare()`] (two models, document by document).

mod answer;
mod builtin;
mod chat;
mod check;
mod compare;
mod error;
mod generate;
mod metric;
mod prompt;
mod python;
mod recovery;
mod request;
mod results;
mod store;
mod suite;
mod task;
mod template;

use taper_base::progress::Progress;
use taper_data::TextTokenizer;
use taper_model::Model;

pub use answer::{Answer, Effort};
pub use chat::{Chat, ChatTemplate};
pub use compare::{Comparison, compare};
pub use error::HarnessError;
pub use metric::{BOOTSTRAP, Item, Outcome};
pub use prompt::{FEWSHOT_SEED, Fields, Gold, Prompt};
pub use recovery::{Pair, Recovery, recoveries};
pub use results::{REVISION, report};
pub use store::AnswerStore;
pub use suite::{Selection, Suite};
pub use task::{Aggregation, Group, Metric, OutputType, Task};

use answer::Asker;
use request::{Ask, Encoder, Refusal};

/// A model to evaluate.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// Its weights.
    pub model: &'a Model,
    /// Its tokenizer.
    pub tokenizer: &'a TextTokenizer,
    /// What its answers are kept under.
    pub fingerprint: &'a str,
}

/// How much of each document set is evaluated, and how.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// Shots, if not as the task says.
    pub shots: Option<usize>,
    /// Documents: a number, or a share below 1.
    pub limit: Option<f64>,
    /// Seed of shots.
    pub seed: u64,
    /// Whether kept answers are forgotten first.
    pub fresh: bool,
    /// How prompts are put to the model.
    pub chat: Chat<'a>,
}

/// The documents of a split of a task.
pub type Source<'a> = dyn Fn(&Task, &str) -> Result<Vec<Fields>, HarnessError> + 'a;

/// One document, asked and answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluated {
    /// Its number.
    pub number: usize,
    /// Its fields.
    pub fields: Fields,
    /// What was asked.
    pub prompt: Prompt,
    /// What was answered, one a request.
    pub answers: Vec<Answer>,
    /// What that is worth.
    pub outcomes: Vec<Outcome>,
}

/// One task, evaluated.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskRun {
    /// The task.
    pub task: Task,
    /// Shots.
    pub shots: usize,
    /// Documents there are.
    pub documents: usize,
    /// Those evaluated, in their order.
    pub evaluated: Vec<Evaluated>,
    /// What answering took.
    pub effort: Effort,
}

/// The prompts of `task`: what lm-evaluation-harness asks of the same documents.
///
/// # Errors
/// [`HarnessError`] naming task, document and field.
pub fn prompts(
    task: &Task,
    source: &Source<'_>,
    options: Options<'_>,
) -> Result<(usize, Vec<(Fields, Prompt)>), HarnessError> {
    let split = task.evaluated_split().unwrap_or_default().to_owned();
    let load = |split: &str| -> Result<Vec<Fields>, HarnessError> {
        let mut documents = source(task, split)?;
        if documents.is_empty() {
            let of: Vec<String> =
                task.dataset_where.iter().map(|(field, value)| format!(" with {field} = {value}")).collect();
            let (task, split) = (task.task.clone(), split.to_owned());
            return Err(HarnessError::NoDocuments { task, split, of: of.join(",") });
        }
        prompt::process(task, split, &mut documents)?;
        Ok(documents)
    };
    let documents = load(&split)?;
    let shots = task.shots(options.shots);
    let pool = match task.shots_split() {
        Some(other) if shots > 0 && other != split => load(other)?,
        _ if shots > 0 => documents.clone(),
        _ => Vec::new(),
    };
    let all = documents.len();
    let limit = match options.limit {
        Some(limit) if limit < 1.0 => (all as f64 * limit).ceil() as usize,
        Some(limit) => limit as usize,
        None => all,
    };
    let mut prompts = prompt::Prompts::new(task, (shots, &pool), options.seed, options.chat);
    let mut made = Vec::new();
    for (number, fields) in documents.into_iter().enumerate().take(limit) {
        let prompt = prompts.next(number, &fields)?;
        made.push((fields, prompt));
    }
    Ok((all, made))
}

/// Evaluates `tasks`, one after the other; answers that `store` has cost nothing.
///
/// # Errors
/// [`HarnessError`] naming task, document and field; what the model or the store says.
pub fn evaluate(
    subject: Subject<'_>,
    tasks: &[&Task],
    source: &Source<'_>,
    options: Options<'_>,
    (store, progress): (&mut AnswerStore, &dyn Progress),
) -> Result<Vec<TaskRun>, HarnessError> {
    let encoder = Encoder::new(subject.tokenizer, subject.model.spec().max_tokens)?;
    let mut runs = Vec::with_capacity(tasks.len());
    for task in tasks {
        let (documents, prompts) = prompts(task, source, options)?;
        let (asks, counts) = requests(task, &prompts, &encoder)?;
        let name = format!("{}@{}", task.task, task.metadata.version);
        let mut asker = Asker { subject, task: name, store, progress };
        if options.fresh {
            asker.store.forget(subject.fingerprint, &asker.task)?;
        }
        let owners = counts.iter().enumerate().flat_map(|(document, pieces)| vec![document; pieces.iter().sum()]);
        let (answers, effort) = asker.answers(&asks, &owners.collect::<Vec<_>>())?;
        let mut answers = answers.into_iter();
        let evaluated = prompts.into_iter().zip(counts).enumerate().map(|(number, ((fields, prompt), counts))| {
            let answers: Vec<Answer> = counts.iter().map(|count| sum(answers.by_ref().take(*count))).collect();
            let outcomes = metric::outcomes(task, &prompt, &answers);
            Evaluated { number, fields, prompt, answers, outcomes }
        });
        let evaluated = evaluated.collect();
        runs.push(TaskRun { task: (*task).clone(), shots: task.shots(options.shots), documents, evaluated, effort });
    }
    Ok(runs)
}

/// The answer to a text in pieces.
fn sum(answers: impl Iterator<Item = Answer>) -> Answer {
    let add = |a: Answer, b: Answer| match (a, b) {
        (
            Answer::Likelihood { log_likelihood: a, greedy: first },
            Answer::Likelihood { log_likelihood: b, greedy: second },
        ) => Answer::Likelihood { log_likelihood: a + b, greedy: first && second },
        (_, b) => b,
    };
    answers.reduce(add).unwrap_or(Answer::Text(String::new())) // a request has at least one piece
}

/// What is asked for each document, and how many pieces each of its requests has.
fn requests(
    task: &Task,
    prompts: &[(Fields, Prompt)],
    encoder: &Encoder<'_>,
) -> Result<(Vec<Ask>, Vec<Vec<usize>>), HarnessError> {
    let tokenizer = |cause| HarnessError::Tokenize { task: task.task.clone(), cause };
    let wrong = |document: usize, field: &str, reason: String| HarnessError::Document {
        task: task.task.clone(),
        split: task.evaluated_split().unwrap_or_default().to_owned(),
        document,
        field: field.to_owned(),
        reason,
    };
    let refused = |document: usize, field: &str, refusal: Refusal| match refusal {
        Refusal::Reason(reason) => wrong(document, field, reason),
        Refusal::Tokenizer(cause) => tokenizer(cause),
    };
    let (mut asks, mut counts) = (Vec::new(), Vec::with_capacity(prompts.len()));
    match task.output_type {
        OutputType::MultipleChoice | OutputType::Loglikelihood => {
            let field = if task.doc_to_choice.is_some() { "doc_to_choice" } else { "doc_to_target" };
            let pairs: Vec<(String, String)> = prompts.iter().flat_map(|(_, prompt)| prompt.requests.clone()).collect();
            let mut scores = encoder.scores(&pairs).map_err(tokenizer)?.into_iter();
            for (document, (_, prompt)) in prompts.iter().enumerate() {
                counts.push(vec![1; prompt.requests.len()]);
                for ask in scores.by_ref().take(prompt.requests.len()) {
                    asks.push(ask.map_err(|reason| wrong(document, field, reason))?);
                }
            }
        }
        OutputType::LoglikelihoodRolling => {
            for (document, (_, prompt)) in prompts.iter().enumerate() {
                let text = &prompt.requests[0].1;
                let windows = encoder.rolling(text).map_err(|refusal| refused(document, "doc_to_target", refusal))?;
                counts.push(vec![windows.len()]);
                asks.extend(windows);
            }
        }
        OutputType::GenerateUntil => {
            let (until, most) =
                task.generation_kwargs.as_ref().map_or((&[][..], 1), |g| (&g.until[..], g.max_gen_toks));
            for (document, (_, prompt)) in prompts.iter().enumerate() {
                let ask = encoder.generation(&prompt.requests[0].0, until, most);
                asks.push(ask.map_err(|refusal| refused(document, "doc_to_text", refusal))?);
                counts.push(vec![1]);
            }
        }
    }
    Ok((asks, counts))
}
