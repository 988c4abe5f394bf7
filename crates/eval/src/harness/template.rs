//! Templates of tasks: Jinja, as lm-evaluation-harness writes them, without any way to run code or read files.
//!
//! `minijinja` renders; Python's methods on strings and lists are there as far as prompts need them. A name that a document
//! does not have is an error, and so is a list where text is wanted: nothing is ever rendered as a guess.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, UndefinedBehavior};
use regex::Regex;

use super::python::is_space;

/// Instructions that one rendering may take: a loop without end is an error.
const FUEL: u64 = 1_000_000;
/// Patterns kept, at most.
const PATTERNS: usize = 64;

/// Renders templates.
pub(crate) struct Templates(Environment<'static>);

impl Templates {
    pub(crate) fn new() -> Self {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_syntax(SyntaxConfig::builder().keep_trailing_newline(true).build().unwrap_or_default());
        environment.set_fuel(Some(FUEL));
        environment.set_formatter(write);
        environment.set_unknown_method_callback(method);
        let patterns = Patterns::default();
        let replace = move |text: &str, pattern: &str, with: &str| patterns.replace(text, pattern, with);
        environment.add_filter("regex_replace", replace);
        Self(environment)
    }

    /// The text of `template` for `document`.
    pub(crate) fn text(&self, template: &str, document: &Value) -> Result<String, Error> {
        self.0.render_str(template, document)
    }

    /// The value of a template that is one expression, `{{ … }}`, else its text.
    pub(crate) fn value(&self, template: &str, document: &Value) -> Result<Value, Error> {
        match expression(template) {
            Some(expression) => self.0.compile_expression_owned(expression.to_owned())?.eval(document),
            None => self.text(template, document).map(Value::from),
        }
    }

    /// What is wrong with a template that has not met a document yet.
    pub(crate) fn check(&self, template: &str) -> Result<(), Error> {
        match expression(template) {
            Some(expression) => self.0.compile_expression_owned(expression.to_owned()).map(|_| ()),
            None => self.0.template_from_str(template).map(|_| ()),
        }
    }
}

/// The inside of `{{ … }}` if that is all there is.
fn expression(template: &str) -> Option<&str> {
    let inside = template.trim().strip_prefix("{{")?.strip_suffix("}}")?;
    (!inside.contains("{{") && !inside.contains("}}") && !inside.contains("{%")).then_some(inside)
}

/// Values as Python writes them.
pub(super) fn write(out: &mut Output<'_>, _: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    let text = match value.kind() {
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.to_owned(),
        ValueKind::None => "None".to_owned(),
        ValueKind::String | ValueKind::Number => value.to_string(),
        kind => return Err(invalid(format!("{kind} where text is wanted"))),
    };
    out.write_str(&text).map_err(|cause| invalid(cause.to_string()))
}

pub(super) fn method(state: &mut State<'_, '_>, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    match (method, value.kind(), args) {
        ("index", ValueKind::Seq, [wanted]) => {
            let place = value.try_iter()?.position(|item| item == *wanted);
            place.map(Value::from).ok_or_else(|| invalid(format!("{wanted} is not in {value}")))
        }
        ("index", ValueKind::String, [wanted]) => {
            let (text, wanted) = (value.to_string(), wanted.to_string());
            let place = text.find(&wanted).map(|place| text[..place].chars().count());
            place.map(Value::from).ok_or_else(|| invalid(format!("`{wanted}` is not in `{text}`")))
        }
        ("strip", ValueKind::String, []) => Ok(value.to_string().trim_matches(is_space).into()),
        ("lstrip", ValueKind::String, []) => Ok(value.to_string().trim_start_matches(is_space).into()),
        ("rstrip", ValueKind::String, []) => Ok(value.to_string().trim_end_matches(is_space).into()),
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
    }
}

/// Patterns met so far. To compile one takes longer than to render many documents with it.
#[derive(Default)]
struct Patterns(Mutex<BTreeMap<String, Regex>>);

impl Patterns {
    /// `re.sub(pattern, replacement, text)`; `\1` is the first group.
    fn replace(&self, text: &str, pattern: &str, replacement: &str) -> Result<String, Error> {
        let regex = self.compiled(pattern).map_err(|cause| invalid(cause.to_string()))?;
        Ok(regex.replace_all(text, python_replacement(replacement)).into_owned())
    }

    fn compiled(&self, pattern: &str) -> Result<Regex, regex::Error> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(regex) = known.get(pattern) {
            return Ok(regex.clone());
        }
        if known.len() == PATTERNS {
            known.clear(); // patterns that come from documents
        }
        let regex = Regex::new(pattern)?;
        known.insert(pattern.to_owned(), regex.clone());
        Ok(regex)
    }
}

/// Python's `\1` is this library's `${1}`.
fn python_replacement(replacement: &str) -> String {
    let (mut out, mut chars) = (String::new(), replacement.chars().peekable());
    while let Some(c) = chars.next() {
        match (c, chars.peek().and_then(|next| next.to_digit(10))) {
            ('\\', Some(group)) => {
                out.push_str(&format!("${{{group}}}"));
                chars.next();
            }
            ('$', _) => out.push_str("$$"),
            _ => out.push(c),
        }
    }
    out
}

fn invalid(reason: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn text(template: &str) -> Result<String, String> {
        let document = Value::from(minijinja::value::Serde(json!({
            "text": "a bb  ccc", "choices": {"label": ["A", "B"], "text": ["x", "y"]}, "key": "B", "n": 3, "none": null,
            "yes": true, "padded": "  p ", "MiXed": "hELLO wORLD", "half": 0.5,
        })));
        Templates::new().text(template, &document).map_err(|cause| cause.to_string())
    }

    /// Wanted values are what Jinja2 3.1 and `lm_eval.utils.apply_template` give.
    #[test]
    fn what_tasks_use_is_as_in_jinja() {
        for (template, want) in [
            ("{{text.split(' ')[:-1]|join(' ')}}", "a bb "),
            ("{{' '+text.split(' ')[-1]}}", " ccc"),
            ("{{choices.label.index(key)}}", "1"),
            ("{{choices['text'][0]}}.\n", "x.\n"),
            ("{{padded.strip()}}|{{padded.lstrip()}}|{{padded.rstrip()}}", "p|p |  p"),
            ("{{MiXed.capitalize()}}", "Hello world"),
            ("{{yes}} {{none}} {{n}} {{half}}", "True None 3 0.5"),
            ("{{text.split('b', 1)[1]}}", "b  ccc"),
            ("{{text.replace('  ', ' ')|replace('a', 'b')}}", "b bb ccc"),
            ("{{ {'A': 0, 'B': 1}[key] }}", "1"),
            ("{{text|regex_replace('b(b)\\\\s*', '<\\\\1$>')}}", "a <b$>ccc"),
            ("{{text.index('b')}}", "2"),
        ] {
            assert_eq!(text(template).as_deref(), Ok(want), "{template}");
        }
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        assert!(text("{{txt}}").unwrap_err().contains("undefined"));
        assert!(text("{{choices}}").unwrap_err().contains("where text is wanted"));
        assert!(text("{{choices.label.index('C')}}").unwrap_err().contains("C is not in"));
        assert!(text("{{text").is_err());
        assert!(text("{% for i in range(10000) %}{% for j in range(10000) %}{% endfor %}{% endfor %}").is_err());
    }
}
