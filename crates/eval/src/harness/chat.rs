//! Prompts as chats: who says what, and the text that a model's chat template makes of it.
//!
//! Who says what is lm-evaluation-harness's (`Message`, `multiturn_to_singleturn`, `HFLM.apply_chat_template` of 0.4.13); how a
//! template is rendered is transformers' (`render_jinja_template`): blocks trimmed, `raise_exception`, `strftime_now`,
//! `tojson` without escapes, the tokenizer's special tokens by name. Templates run no code and read no files.

use std::fmt::Write as _;
use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, context};
use regex::Regex;
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};
use taper_data::ChatTemplates;

use super::HarnessError;
use super::python::is_space;
use super::template::{method, write};

/// Instructions that one rendering may take.
const FUEL: u64 = 10_000_000;
const NAME: &str = "chat";
/// Ends a message that is to be continued, while it is rendered.
const TAG: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// A model's chat template. Deviation: where a model has several, the one named is rendered; lm-evaluation-harness reports that
/// one, and renders the default.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    tokens: Vec<(&'static str, String)>,
}

/// How prompts are put to a model.
#[derive(Debug, Clone, Copy, Default)]
pub struct Chat<'a> {
    /// The model's chat template, if it is applied.
    pub template: Option<&'a ChatTemplate>,
    /// What stands before all else; under a template, in the system's name.
    pub system: Option<&'a str>,
    /// Whether shots are turns of their own; else all is one message of the user.
    pub multiturn: bool,
}

/// What one side says, and what follows it where there is no template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    role: &'static str,
    content: String,
    delimiter: String,
}

impl Message {
    pub(crate) fn new(role: &'static str, content: impl Into<String>, delimiter: &str) -> Self {
        Self { role, content: content.into(), delimiter: delimiter.to_owned() }
    }
}

/// `build_qa_turn`: a question, and its answer or what an answer begins with. `delimiters` follow each.
pub(crate) fn turn(question: &str, answer: &str, prefix: Option<&str>, delimiters: [&str; 2]) -> Vec<Message> {
    let delimited = match prefix {
        Some(prefix) => !question.is_empty() && !touches_space(question, prefix),
        None => !answer.is_empty(),
    };
    let mut turn = vec![Message::new("user", question, if delimited { delimiters[0] } else { "" })];
    match (answer, prefix) {
        ("", None) => {}
        ("", Some(prefix)) => turn.push(Message::new("assistant", prefix, "")),
        (answer, prefix) => turn.push(Message::new("assistant", joined(prefix, answer, " "), delimiters[1])),
    }
    turn
}

/// `maybe_delimit`: both texts, with `delimiter` between them unless one is empty or white space parts them already.
pub(crate) fn joined(before: Option<&str>, after: &str, delimiter: &str) -> String {
    let before = before.unwrap_or_default();
    let parted = before.is_empty() || after.is_empty() || touches_space(before, after);
    format!("{before}{}{after}", if parted { "" } else { delimiter })
}

fn touches_space(before: &str, after: &str) -> bool {
    before.ends_with(is_space) || after.starts_with(is_space)
}

impl Chat<'_> {
    /// The text of `messages`, the last of which an answer follows, or continues if it is the assistant's.
    pub(crate) fn text(&self, messages: &[Message]) -> Result<String, Error> {
        let Some(template) = self.template else {
            return Ok(messages.iter().map(|message| format!("{}{}", message.content, message.delimiter)).collect());
        };
        let turns = match self.multiturn {
            true => messages.to_vec(),
            false => one_turn(messages),
        };
        let without_system = || turns.iter().filter(|message| message.role != "system").cloned().collect::<Vec<_>>();
        template.render(&turns).or_else(|cause| match without_system() {
            others if others.len() < turns.len() => template.render(&others), // as HFLM: a template may refuse the role
            _ => Err(cause),
        })
    }
}

/// `multiturn_to_singleturn`: all but the system's text, and an answer begun, is one message of the user.
fn one_turn(messages: &[Message]) -> Vec<Message> {
    let begins = usize::from(messages.first().is_some_and(|message| message.role == "system"));
    let ends = messages.len() - usize::from(messages.last().is_some_and(|message| message.role == "assistant"));
    let mut user = String::new();
    for (index, message) in messages.iter().enumerate().take(ends).skip(begins) {
        user += &message.content;
        user += if index + 1 == ends { "" } else { &message.delimiter };
    }
    let user = [Message::new("user", user, "")];
    [&messages[..begins], &user, &messages[ends..]].concat()
}

impl ChatTemplate {
    /// That of the model folder `dir`, by name if it has several.
    ///
    /// # Errors
    /// [`HarnessError::Chat`] if there is none; [`HarnessError::ChatTemplate`] if it is not one.
    pub fn load(dir: &Path, name: Option<&str>) -> Result<Self, HarnessError> {
        let read = || {
            let templates = ChatTemplates::load(dir)?;
            Ok((templates.get(name)?.to_owned(), templates))
        };
        let (source, templates) = read().map_err(|cause| HarnessError::Chat { cause })?;
        Self::new(&source, templates.tokens()).map_err(|cause| {
            let (dir, reason) = (dir.to_owned(), format!("{cause:#}"));
            HarnessError::ChatTemplate { dir, reason }
        })
    }

    fn new<'t>(source: &str, tokens: impl Iterator<Item = (&'static str, &'t str)>) -> Result<Self, Error> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax?);
        environment.set_fuel(Some(FUEL));
        environment.set_formatter(|out, state, value| match value.is_undefined() {
            true => Ok(()),
            false => write(out, state, value),
        });
        environment.set_unknown_method_callback(method);
        environment.add_function("raise_exception", |reason: String| -> Result<String, Error> { Err(invalid(reason)) });
        environment.add_function("strftime_now", today);
        environment.add_filter("tojson", to_json);
        environment.add_filter("trim", |text: &str| text.trim_matches(is_space).to_owned());
        environment.add_template_owned(NAME, without_generation_tags(source)?)?;
        let tokens = tokens.map(|(name, text)| (name, text.to_owned())).collect();
        Ok(Self { environment, source: source.to_owned(), tokens })
    }

    /// The template.
    pub fn source(&self) -> &str {
        &self.source
    }

    fn render(&self, messages: &[Message]) -> Result<String, Error> {
        let open = messages.last().filter(|last| last.role == "assistant");
        let item = |(index, message): (usize, &Message)| {
            let tag = if open.is_some() && index + 1 == messages.len() { TAG } else { "" };
            let content = format!("{}{tag}", message.content);
            Value::from_pairs([("role", message.role.to_owned()), ("content", content)])
        };
        let messages: Vec<Value> = messages.iter().enumerate().map(item).collect();
        let tokens = Value::from_pairs(self.tokens.iter().map(|(name, text)| (*name, text.as_str())));
        let given = context! {
            messages, tools => (), documents => (), add_generation_prompt => open.is_none(), ..tokens
        };
        let text = self.environment.get_template(NAME)?.render(given)?;
        match open {
            Some(last) => until_tag(text, last.content.trim_matches(is_space)),
            None => Ok(text),
        }
    }
}

/// What stands before the tag, as `continue_final_message` cuts it.
fn until_tag(mut text: String, last: &str) -> Result<String, Error> {
    let tag = TAG.trim_end();
    let Some(at) = text.rfind(tag).filter(|_| text.contains(last)) else {
        return Err(invalid("the chat template leaves out what an answer is to begin with".to_owned()));
    };
    let spaced = text[at..].starts_with(TAG);
    text.truncate(at);
    if !spaced {
        text.truncate(text.trim_end_matches(is_space).len());
    }
    Ok(text)
}

/// `{% generation %}` marks answers for training; what is in it stays.
fn without_generation_tags(source: &str) -> Result<String, Error> {
    let regex = |pattern| Regex::new(pattern).map_err(|cause| invalid(cause.to_string()));
    let begin = regex(r"\{%([-+]?)\s*generation\s*([-+]?)%\}")?.replace_all(source, "{%$1 if true $2%}");
    Ok(regex(r"\{%([-+]?)\s*endgeneration\s*([-+]?)%\}")?.replace_all(&begin, "{%$1 endif $2%}").into_owned())
}

/// Date and time of now, by `strftime`'s codes.
fn today(format: &str) -> Result<String, Error> {
    let mut text = String::new();
    let written = write!(text, "{}", chrono::Local::now().format(format));
    written.map(|()| text).map_err(|cause| invalid(format!("strftime_now: `{format}` is no format of a date: {cause}")))
}

/// `json.dumps(value, ensure_ascii=False, indent=indent)`.
fn to_json(value: Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let mut bytes = Vec::new();
    let written = match indent {
        Some(indent) => {
            let spaces = " ".repeat(indent.min(64));
            let formatter = PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut bytes, formatter))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut bytes, Spaced)),
    };
    written.map_err(|cause| invalid(format!("tojson: {cause}")))?;
    String::from_utf8(bytes).map_err(|cause| invalid(format!("tojson: {cause}")))
}

/// A space after each comma and colon, as Python writes them.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}

fn invalid(reason: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(template: &str, messages: &[(&'static str, &str)]) -> Result<String, String> {
        let messages: Vec<Message> = messages.iter().map(|(role, text)| Message::new(role, *text, "")).collect();
        let template = ChatTemplate::new(template, [("bos_token", "<s>")].into_iter());
        let text = template.and_then(|template| {
            let chat = Chat { template: Some(&template), system: None, multiturn: true };
            chat.text(&messages)
        });
        text.map_err(|cause| cause.to_string())
    }

    /// Wanted values are what transformers 5.23.0 gives (`apply_chat_template`).
    #[test]
    fn templates_render_as_in_transformers() {
        let chat = [("system", "S"), ("user", " a\nb "), ("assistant", "é<'\""), ("user", "q")];
        for (template, want) in [
            (
                "{% for m in messages %}\n    {% if loop.index0 == 1 %}{% continue %}{% endif %}\n{% generation %}\n{{ m | tojson }}\n{% endgeneration %}\n{% if loop.index0 == 2 %}{% break %}{% endif %}\n,{% endfor %}|{{ none }}|{{ true }}|{{ missing }}{{ bos_token }}\n",
                "{\"role\": \"system\", \"content\": \"S\"}\n,{\"role\": \"assistant\", \"content\": \"é<'\\\"\"}\n|None|True|<s>",
            ),
            (
                "{%- set ns = namespace(last=0, n=messages|length) %}{%- for m in messages[::-1] %}{% if m.role == 'assistant' and not ns.last %}{% set ns.last = ns.n - 1 - loop.index0 %}{% endif %}{%- endfor %}{{ ns.last }}{{ messages[1].content.split('a')[-1].lstrip('\n') }}|{{ messages[1]['content'] | trim }}|{{ messages[1].content.strip() }}",
                "2b |a\nb|a\nb",
            ),
            (
                "{{ {'a': [1, true, none, 0.5], 'é': '<'} | tojson }}{{ [1, {'b': []}] | tojson(indent=2) }}",
                "{\"a\": [1, true, null, 0.5], \"é\": \"<\"}[\n  1,\n  {\n    \"b\": []\n  }\n]",
            ),
            (
                "{% macro one(m, first=false) %}{{ m.role[0] }}{% if first %}!{% endif %}{% endmacro %}{% for m in messages %}{{ one(m, loop.first) }}{% endfor %}{% if tools is none and add_generation_prompt %}:{% endif %}{{ 'x' if messages[0].tool_calls is defined else 'y' }}{{ strftime_now('%%') }}",
                "s!uau:y%",
            ),
        ] {
            assert_eq!(render(template, &chat).as_deref(), Ok(want), "{template}");
        }
    }

    #[test]
    fn an_answer_begun_is_left_open_and_a_system_refused_is_left_out() {
        let turns = "{% for m in messages %}[{{ m.role }}]{{ m.content }}[end]{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";
        assert_eq!(render(turns, &[("user", "q")]).unwrap(), "[user]q[end][assistant]");
        assert_eq!(render(turns, &[("user", "q"), ("assistant", "So ")]).unwrap(), "[user]q[end][assistant]So ");
        let trims = turns.replace("m.content", "m.content | trim");
        assert_eq!(render(&trims, &[("user", "q"), ("assistant", "So ")]).unwrap(), "[user]q[end][assistant]So");
        let refused = render("{{ messages[0].content }}", &[("user", "q"), ("assistant", "So")]).unwrap_err();
        assert!(refused.contains("leaves out what an answer is to begin with"), "{refused}");
        let strict = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ m.content }}{% endfor %}";
        assert_eq!(render(strict, &[("system", "S"), ("user", "q")]).unwrap(), "q");
        assert!(
            render("{{ raise_exception('never') }}", &[("system", "S"), ("user", "q")]).unwrap_err().contains("never")
        );
        assert!(render("{{ strftime_now('%Q') }}", &[("user", "q")]).unwrap_err().contains("no format of a date"));
        assert!(render("{% for m in messages %}", &[("user", "q")]).is_err());
        assert!(
            render("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}", &[]).is_err()
        );
    }

    /// `build_qa_turn` and `multiturn_to_singleturn`.
    #[test]
    fn without_a_template_delimiters_stand_between_turns() {
        let plain = |prefix| {
            let mut messages = vec![Message::new("system", joined(Some("Sys."), "About.", "\n\n"), "")];
            messages.extend(turn("Q1", "A1", prefix, [" ", "\n\n"]));
            messages.extend(turn("Q2", "", prefix, [" ", ""]));
            messages
        };
        assert_eq!(Chat::default().text(&plain(None)).unwrap(), "Sys.\n\nAbout.Q1 A1\n\nQ2");
        assert_eq!(Chat::default().text(&plain(Some("So"))).unwrap(), "Sys.\n\nAbout.Q1 So A1\n\nQ2 So");
        let one = |prefix| one_turn(&plain(prefix)).into_iter().map(|m| (m.role, m.content)).collect::<Vec<_>>();
        let said =
            |turns: &[(&'static str, &str)]| turns.iter().map(|(r, t)| (*r, (*t).to_owned())).collect::<Vec<_>>();
        assert_eq!(one(None), said(&[("system", "Sys.\n\nAbout."), ("user", "Q1 A1\n\nQ2")]));
        let begun = [("system", "Sys.\n\nAbout."), ("user", "Q1 So A1\n\nQ2"), ("assistant", "So")];
        assert_eq!(one(Some("So")), said(&begun));
        assert_eq!(
            [joined(None, "b", " "), joined(Some("a"), "", " "), joined(Some("a "), "b", "-")],
            ["b", "a", "a b"]
        );
    }
}
