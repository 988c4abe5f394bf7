//! Token ids given explicitly: a JSON list, or an object whose `ids` is one (other keys are notes).

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::DataError;
use crate::error::json_reason;

/// The ids in the file at `path`, each below `vocabulary`.
///
/// # Errors
/// [`DataError::Read`], [`DataError::Json`] for another content, [`DataError::OutsideVocabulary`] naming the place.
pub fn read_ids(path: &Path, vocabulary: usize) -> Result<Vec<u32>, DataError> {
    let bytes = fs::read(path).map_err(DataError::read(path))?;
    let wrong = |reason: String| DataError::Json { at: path.display().to_string(), reason };
    let value: Value = serde_json::from_slice(&bytes).map_err(|cause| DataError::Json {
        at: format!("{}:{}:{}", path.display(), cause.line(), cause.column()),
        reason: json_reason(&cause),
    })?;
    let list = if value.is_object() { value.get("ids") } else { Some(&value) };
    let list = list
        .and_then(Value::as_array)
        .ok_or_else(|| wrong("wanted a list of token ids, or {\"ids\": list}".to_owned()))?;
    let id = |(place, value): (usize, &Value)| {
        let id = value
            .as_u64()
            .ok_or_else(|| wrong(format!("{value} at place {place} (counted from 0), wanted a token id")))?;
        let fits = u32::try_from(id).ok().filter(|&id| (id as usize) < vocabulary);
        fits.ok_or_else(|| DataError::OutsideVocabulary { path: path.to_owned(), place, id, vocabulary })
    };
    list.iter().enumerate().map(id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(text: &str) -> Result<Vec<u32>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ids.json");
        taper_base::files::write(&path, text.as_bytes()).unwrap();
        read_ids(&path, 10).map_err(|error| error.to_string().replace(&format!("{}/", dir.path().display()), ""))
    }

    #[test]
    fn a_list_and_an_object_with_one_are_read() {
        assert_eq!(ids("[1, 9, 0]").unwrap(), [1, 9, 0]);
        assert_eq!(ids(r#"{"note": "first", "ids": [3]}"#).unwrap(), [3]);
        assert_eq!(ids("[]").unwrap(), [0_u32; 0]);
    }

    #[test]
    fn errors_name_the_place() {
        let list = "ids.json: wanted a list of token ids, or {\"ids\": list}";
        let cases = [
            ("[1, 10]", "ids.json: id 10 at place 1 (counted from 0) is outside the vocabulary of 10"),
            ("[4294967297]", "ids.json: id 4294967297 at place 0 (counted from 0) is outside the vocabulary of 10"),
            ("[1, -1]", "ids.json: -1 at place 1 (counted from 0), wanted a token id"),
            ("[[1]]", "ids.json: [1] at place 0 (counted from 0), wanted a token id"),
            ("{\"tokens\": [1]}", list),
            ("3", list),
            ("[1,\n 2", "ids.json:2:2: EOF while parsing a list"),
        ];
        for (text, message) in cases {
            assert_eq!(ids(text).unwrap_err(), message);
        }
        assert!(matches!(read_ids(Path::new("no/such.json"), 10), Err(DataError::Read { .. })));
    }
}
