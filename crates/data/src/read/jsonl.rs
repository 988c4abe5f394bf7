//! JSON Lines: an object a line, one field of which is the document. Empty lines are passed over; null is an error.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde_json::Value;

use crate::DataError;
use crate::error::json_reason;

/// Appends the text in `field` of each line of `file`.
pub(super) fn read(file: &Path, field: &str, into: &mut Vec<String>) -> Result<(), DataError> {
    let mut lines = BufReader::with_capacity(1 << 20, File::open(file).map_err(DataError::read(file))?);
    let (mut line, mut offset) = (Vec::new(), 0);
    for number in 1_u64.. {
        line.clear();
        if lines.read_until(b'\n', &mut line).map_err(DataError::read(file))? == 0 {
            break;
        }
        let at = || format!("{}:{number}", file.display());
        let text = std::str::from_utf8(&line)
            .map_err(|cause| DataError::Utf8 { at: at(), offset: offset + cause.valid_up_to() as u64 })?;
        offset += line.len() as u64;
        let text = if number == 1 { text.strip_prefix('\u{feff}').unwrap_or(text) } else { text };
        if !text.trim().is_empty() {
            into.push(document(text, field, at)?);
        }
    }
    Ok(())
}

fn document(line: &str, field: &str, at: impl Fn() -> String) -> Result<String, DataError> {
    let value: Value = serde_json::from_str(line)
        .map_err(|cause| DataError::Json { at: format!("{}:{}", at(), cause.column()), reason: json_reason(&cause) })?;
    let Value::Object(mut object) = value else {
        return Err(DataError::Json { at: at(), reason: format!("{}, wanted an object", kind(&value)) });
    };
    match object.remove(field) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(DataError::NotText { at: at(), field: field.to_owned(), found: kind(&other).to_owned() }),
        None => Err(DataError::missing_field(at(), field, object.keys().map(String::as_str))),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(bytes: &[u8]) -> Result<Vec<String>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        taper_base::files::write(&path, bytes).unwrap();
        let mut into = Vec::new();
        let read = read(&path, "text", &mut into);
        read.map(|()| into).map_err(|error| error.to_string().replace(&format!("{}/", dir.path().display()), ""))
    }

    #[test]
    fn a_document_a_line_in_order() {
        let lines = "\u{feff}{\"text\": \"a\\n\\u00e9\", \"n\": 1}\r\n\n{\"n\": {}, \"text\": \"\"}\n{\"text\":\"b\"}";
        assert_eq!(documents(lines.as_bytes()).unwrap(), ["a\né", "", "b"]);
    }

    #[test]
    fn errors_name_line_and_column_and_what_was_wanted() {
        let good = "{\"text\": \"a\"}\n";
        let cases: [(&[u8], &str); 8] = [
            (b"{\"text\": 1}", "a.jsonl:2: `text` is a number, wanted text"),
            (b"{\"text\": null}", "a.jsonl:2: `text` is null, wanted text"),
            (b"{\"txt\": \"\", \"url\": 1}", "a.jsonl:2: no field `text`, did you mean `txt`?; there are: txt, url"),
            (b"{}", "a.jsonl:2: no field `text`; there are: none"),
            (b"[1]", "a.jsonl:2: a list, wanted an object"),
            (b"{\"text\": \"a\" \"b\"}", "a.jsonl:2:14: expected `,` or `}`"),
            (b"{\"text\": \"trunca", "a.jsonl:2:16: EOF while parsing a string"),
            (b"{\"text\": \"\xc3\"}", "a.jsonl:2: invalid UTF-8 at byte 24"), // 14 of the first line, 10 of this
        ];
        for (line, message) in cases {
            assert_eq!(documents(&[good.as_bytes(), line].concat()).unwrap_err(), message);
        }
        let deep = "[".repeat(100_000);
        assert!(documents(deep.as_bytes()).unwrap_err().contains("recursion limit exceeded"));
        assert!(documents(br#"{"text": "\ud83d"}"#).is_err(), "half of a surrogate pair is no text");
    }
}
