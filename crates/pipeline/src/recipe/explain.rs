//! YAML errors in words for the one who wrote the recipe.

use serde_saphyr::{Error, MessageFormatter, UserMessageFormatter};
use taper_base::registry::did_you_mean;

/// What is wrong, without the place.
pub(super) fn reason(error: &Error) -> String {
    let mut error = error.without_snippet();
    while let Error::AliasError { error: inner, .. } = error {
        error = inner.without_snippet();
    }
    let text = match error {
        Error::SerdeUnknownField { field, expected, .. } => unknown("field", field, expected),
        Error::SerdeUnknownVariant { variant, expected, .. } => unknown("value", variant, expected),
        Error::InvalidScalar { ty, .. } => format!("expected {}", scalar(ty)),
        Error::InvalidBooleanStrict { .. } => "expected true or false".to_owned(),
        Error::NullIntoString { .. } => "expected text, found nothing".to_owned(),
        Error::UnexpectedValueForUnitEnumVariant { .. } => "expected one word, found more".to_owned(),
        Error::Unexpected { expected, .. } => format!("expected {}", node(expected)),
        Error::MergeKeyNotAllowed { .. } => "merge keys (`<<`) are not part of recipes".to_owned(),
        Error::DuplicateMappingKey { key: Some(key), .. } => format!("the key `{key}` stands here a second time"),
        other => UserMessageFormatter.format_message(other).into_owned(),
    };
    let safe = |c: char| if c.is_control() { c.escape_debug().to_string() } else { c.to_string() };
    text.chars().map(safe).collect()
}

fn unknown(what: &str, name: &str, known: &[&str]) -> String {
    let hint = did_you_mean(name, known.iter().copied());
    format!("unknown {what} `{name}`{hint}; known: {}", known.join(", "))
}

/// The parser's word for a type of scalar, in the reader's.
fn scalar(ty: &str) -> String {
    match ty {
        "u64" | "usize" => "a whole number, 0 or more".to_owned(),
        "u32" => format!("a whole number from 0 to {}", u32::MAX),
        "f64" | "f32" | "float" | "floating point" => "a number".to_owned(),
        other => format!("a {other}"),
    }
}

/// The parser's word for a node, in the reader's.
fn node(expected: &str) -> String {
    match expected {
        "mapping start" => "fields (`key: value`)".to_owned(),
        "sequence start" => "a list".to_owned(),
        "string scalar" | "scalar" => "a single value".to_owned(),
        other => other.to_owned(),
    }
}
