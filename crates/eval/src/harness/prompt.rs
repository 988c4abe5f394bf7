//! From a document to what the model is asked, text for text as lm-evaluation-harness builds it
//! (`ConfigurableTask.fewshot_context`, `construct_requests` of 0.4.13).

use minijinja::value::{Serde, Value as Rendered};
use serde_json::{Map, Value};

use super::HarnessError;
use super::chat::{Chat, Message, joined, turn};
use super::python::{Random, is_space};
use super::task::{Choices, OutputType, Sampler, Target, Task};
use super::template::Templates;

/// The seed of lm-evaluation-harness for shots.
pub const FEWSHOT_SEED: u64 = 1234;

/// A document: its fields.
pub type Fields = Map<String, Value>;

/// What a document asks.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// Contexts and continuations; a generation has no continuation, a rolling text no context.
    pub requests: Vec<(String, String)>,
    /// The choices, as metrics count their lengths.
    pub choices: Vec<String>,
    /// The right choice, or the text wanted.
    pub gold: Gold,
    /// The text whose words and bytes count; empty where none do.
    pub counted: String,
}

/// The right answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gold {
    /// A choice, by its number.
    Choice(usize),
    /// A text.
    Text(String),
}

/// Builds the prompts of one task, document after document.
pub(crate) struct Prompts<'a> {
    task: &'a Task,
    templates: Templates,
    shots: usize,
    pool: &'a [Fields],
    random: Random,
    chat: Chat<'a>,
}

/// What `doc_to_text` or `doc_to_target` gave.
#[derive(Debug, Clone, PartialEq)]
enum Piece {
    Number(i64),
    Text(String),
}

/// A document with its place, for errors.
#[derive(Clone, Copy)]
struct At<'a> {
    split: &'a str,
    number: usize,
    fields: &'a Fields,
}

impl<'a> Prompts<'a> {
    /// `pool` holds the documents that shots are drawn from.
    pub(crate) fn new(task: &'a Task, (shots, pool): (usize, &'a [Fields]), seed: u64, chat: Chat<'a>) -> Self {
        Self { task, templates: Templates::new(), shots, pool, random: Random::new(seed), chat }
    }

    /// The prompt of document `number`. Shots depend on the documents before it: they are drawn in order.
    pub(crate) fn next(&mut self, number: usize, fields: &Fields) -> Result<Prompt, HarnessError> {
        let at = At { split: self.task.evaluated_split().unwrap_or_default(), number, fields };
        let before = self.before(at)?;
        let text = self.text(at)?;
        let choices = self.choices(at)?;
        let target = self.target(at)?;
        let delimiter = self.choice_delimiter();
        let (requests, gold) = match (self.task.output_type, &text) {
            (OutputType::MultipleChoice, Piece::Number(gold)) => {
                let Piece::Text(target) = &target else {
                    return Err(self.wrong(at, "doc_to_target", "a number, but the choices are prompts".to_owned()));
                };
                let ask = |choice: &String| {
                    let context = self.context(at, &before, choice, "")?;
                    Ok::<_, HarnessError>((context, format!("{delimiter}{target}")))
                };
                (choices.iter().map(ask).collect::<Result<_, _>>()?, Piece::Number(*gold))
            }
            (OutputType::MultipleChoice, Piece::Text(text)) => {
                let context = self.context(at, &before, text, &self.task.target_delimiter)?;
                let ask = |choice: &String| (context.clone(), format!("{delimiter}{choice}"));
                (choices.iter().map(ask).collect(), target)
            }
            (output, Piece::Text(text)) => {
                let answer = match &target {
                    Piece::Text(target) => target.clone(),
                    Piece::Number(number) => number.to_string(),
                };
                let context = || self.context(at, &before, text, &self.task.target_delimiter);
                let request = match output {
                    OutputType::Loglikelihood => (context()?, answer.clone()),
                    OutputType::LoglikelihoodRolling => (String::new(), answer.clone()),
                    _ => (context()?, String::new()),
                };
                (vec![request], Piece::Text(answer))
            }
            (_, Piece::Number(_)) => {
                return Err(self.wrong(at, "doc_to_text", "a number, and there are no choices".to_owned()));
            }
        };
        let gold = self.gold(at, gold, &choices)?;
        let counted = match (&self.task.doc_to_count, &gold) {
            (Some(template), _) => self.render(at, "doc_to_count", template)?,
            (None, Gold::Text(text)) => text.clone(),
            (None, Gold::Choice(_)) => String::new(),
        };
        Ok(Prompt { requests, choices, gold, counted })
    }

    /// What stands before a choice: a chat template ends with white space of its own.
    fn choice_delimiter(&self) -> &'a str {
        let begun =
            self.task.gen_prefix.as_ref().is_some_and(|prefix| !prefix.is_empty() && !prefix.ends_with(is_space));
        if self.chat.template.is_some() && !begun { "" } else { &self.task.target_delimiter }
    }

    /// All that comes before the answer to `question`.
    fn context(&self, at: At<'_>, before: &[Message], question: &str, delimiter: &str) -> Result<String, HarnessError> {
        let own = turn(question, "", self.prefix(at)?.as_deref(), [delimiter, ""]);
        let text = self.chat.text(&[before, &own].concat());
        text.map_err(|cause| self.wrong(at, "chat template", format!("{cause:#}")))
    }

    /// System's text, description and shots.
    fn before(&mut self, at: At<'_>) -> Result<Vec<Message>, HarnessError> {
        let description = self.render(at, "description", &self.task.description)?;
        let system = joined(self.chat.system, &description, &self.task.fewshot_delimiter);
        let mut before = Vec::new();
        before.extend((!system.is_empty()).then(|| Message::new("system", system, "")));
        let split = self.task.shots_split().unwrap_or_default();
        for shot in self.draw(at.fields)? {
            let at = At { split, number: shot, fields: &self.pool[shot] };
            before.extend(self.shot(at)?);
        }
        Ok(before)
    }

    /// What an answer begins with.
    fn prefix(&self, at: At<'_>) -> Result<Option<String>, HarnessError> {
        const KEY: &str = "gen_prefix";
        let Some(template) = &self.task.gen_prefix else { return Ok(None) };
        let text = match at.fields.get(template) {
            Some(Value::String(text)) => text.clone(),
            Some(other) => return Err(self.wrong(at, KEY, format!("`{template}` is {other}, wanted text"))),
            None => self.render(at, KEY, template)?,
        };
        Ok((!text.is_empty()).then_some(text))
    }

    /// A document with its answer.
    fn shot(&self, at: At<'_>) -> Result<Vec<Message>, HarnessError> {
        let (text, choices, answer) = (self.text(at)?, self.choices(at)?, self.target(at)?);
        let choice = |number: i64, field| {
            let found = usize::try_from(number).ok().and_then(|number| choices.get(number)).cloned();
            found.ok_or_else(|| self.wrong(at, field, format!("{number} is no choice of {}", choices.len())))
        };
        let (text, answer) = match (text, answer) {
            (Piece::Number(number), Piece::Text(answer)) => (choice(number, "doc_to_text")?, answer),
            (Piece::Text(text), Piece::Number(number)) => (text, choice(number, "doc_to_target")?),
            (Piece::Text(text), Piece::Text(answer)) => (text, answer),
            (Piece::Number(_), Piece::Number(_)) => {
                return Err(self.wrong(at, "doc_to_target", "a number, but the choices are prompts".to_owned()));
            }
        };
        Ok(turn(
            &text,
            &answer,
            self.prefix(at)?.as_deref(),
            [&self.task.target_delimiter, &self.task.fewshot_delimiter],
        ))
    }

    /// Numbers of the documents that are shots for `document`: `ContextSampler.sample` and `FirstNSampler.sample`.
    fn draw(&mut self, document: &Fields) -> Result<Vec<usize>, HarnessError> {
        let (shots, pool) = (self.shots, self.pool);
        let leave_out = self.task.shots_leave_out_the_document();
        let too_few = |found: usize| HarnessError::Shots {
            task: self.task.task.clone(),
            split: self.task.shots_split().unwrap_or_default().to_owned(),
            asked: shots,
            found,
        };
        if shots == 0 {
            return Ok(Vec::new());
        }
        let others = || (0..pool.len()).filter(|index| !leave_out || pool[*index] != *document).collect::<Vec<_>>();
        if self.task.fewshot_config.sampler == Sampler::FirstN {
            let mut others = others();
            if others.len() < shots {
                return Err(too_few(others.len()));
            }
            others.truncate(shots);
            return Ok(others);
        }
        let drawn = self.random.sample(pool.len(), shots + usize::from(leave_out));
        let mut drawn = drawn.ok_or_else(|| too_few(pool.len()))?;
        drawn.retain(|index| !leave_out || pool[*index] != *document);
        drawn.truncate(shots);
        if drawn.len() == shots {
            return Ok(drawn);
        }
        let others = others(); // several copies of the document were drawn
        let again = self.random.sample(others.len(), shots).ok_or_else(|| too_few(others.len()))?;
        Ok(again.into_iter().map(|index| others[index]).collect())
    }

    fn gold(&self, at: At<'_>, gold: Piece, choices: &[String]) -> Result<Gold, HarnessError> {
        if self.task.output_type != OutputType::MultipleChoice {
            return match gold {
                Piece::Text(text) => Ok(Gold::Text(text)),
                Piece::Number(number) => Ok(Gold::Text(number.to_string())),
            };
        }
        let found = match &gold {
            Piece::Number(number) => usize::try_from(*number).ok().filter(|number| *number < choices.len()),
            Piece::Text(text) => choices.iter().position(|choice| choice == text),
        };
        let shown = || match &gold {
            Piece::Number(number) => number.to_string(),
            Piece::Text(text) => format!("`{text}`"),
        };
        let reason = || format!("the answer {} is none of the {} choices", shown(), choices.len());
        found.map(Gold::Choice).ok_or_else(|| self.wrong(at, "doc_to_target", reason()))
    }

    fn text(&self, at: At<'_>) -> Result<Piece, HarnessError> {
        self.piece(at, "doc_to_text", &self.task.doc_to_text)
    }

    fn target(&self, at: At<'_>) -> Result<Piece, HarnessError> {
        match &self.task.doc_to_target {
            Target::Choice(number) => Ok(Piece::Number(*number as i64)),
            Target::Template(template) => self.piece(at, "doc_to_target", template),
        }
    }

    /// A field's value, or a template's text; digits are a number where there are choices.
    fn piece(&self, at: At<'_>, key: &str, template: &str) -> Result<Piece, HarnessError> {
        match at.fields.get(template) {
            Some(Value::String(text)) => return Ok(Piece::Text(text.clone())),
            Some(Value::Number(number)) if number.is_i64() => return Ok(Piece::Number(number.as_i64().unwrap_or(0))),
            Some(Value::Bool(yes)) => return Ok(Piece::Number(i64::from(*yes))),
            Some(other) => return Err(self.wrong(at, key, format!("`{template}` is {other}, wanted text"))),
            None => {}
        }
        let text = self.render(at, key, template)?;
        let digits = !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
        match text.parse() {
            Ok(number) if digits && self.task.doc_to_choice.is_some() => Ok(Piece::Number(number)),
            _ => Ok(Piece::Text(text)),
        }
    }

    fn choices(&self, at: At<'_>) -> Result<Vec<String>, HarnessError> {
        const KEY: &str = "doc_to_choice";
        let value = match &self.task.doc_to_choice {
            None => return Ok(Vec::new()),
            Some(Choices::Fixed(choices)) => return Ok(choices.clone()),
            Some(Choices::Template(field)) if at.fields.contains_key(field) => Rendered::from(Serde(&at.fields[field])),
            Some(Choices::Template(template)) => {
                let value = self.templates.value(template, &Rendered::from(Serde(at.fields)));
                value.map_err(|cause| self.wrong(at, KEY, format!("{cause:#}")))?
            }
        };
        let wrong = || self.wrong(at, KEY, format!("{value}, wanted a list of texts"));
        let Ok(items) = value.try_iter() else { return Err(wrong()) };
        let choices = items.map(|item| item.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>();
        choices.filter(|choices| !choices.is_empty() && value.as_str().is_none()).ok_or_else(wrong)
    }

    fn render(&self, at: At<'_>, key: &str, template: &str) -> Result<String, HarnessError> {
        if !template.contains('{') {
            return Ok(template.to_owned());
        }
        let text = self.templates.text(template, &Rendered::from(Serde(at.fields)));
        text.map_err(|cause| self.wrong(at, key, format!("{cause:#}")))
    }

    fn wrong(&self, at: At<'_>, field: &str, reason: String) -> HarnessError {
        let (task, split) = (self.task.task.clone(), at.split.to_owned());
        HarnessError::Document { task, split, document: at.number, field: field.to_owned(), reason }
    }
}

/// `documents` with the fields that the task adds.
///
/// # Errors
/// [`HarnessError::Document`] naming document and field.
pub(crate) fn process(task: &Task, split: &str, documents: &mut [Fields]) -> Result<(), HarnessError> {
    if task.process_docs.is_empty() {
        return Ok(());
    }
    let templates = Templates::new();
    for (number, fields) in documents.iter_mut().enumerate() {
        let document = Rendered::from(Serde(&*fields));
        for (field, template) in &task.process_docs {
            let value = templates.value(template, &document);
            let value = value.and_then(|value| {
                serde_json::to_value(&value)
                    .map_err(|cause| minijinja::Error::new(minijinja::ErrorKind::BadSerialization, cause.to_string()))
            });
            let value = value.map_err(|cause| HarnessError::Document {
                task: task.task.clone(),
                split: split.to_owned(),
                document: number,
                field: format!("process_docs.{field}"),
                reason: format!("{cause:#}"),
            })?;
            fields.insert(field.clone(), value);
        }
    }
    Ok(())
}
