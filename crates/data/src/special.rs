//! The tokens a text begins and ends with, from the files beside a tokenizer.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::Tokenizer;

use crate::DataError;
use crate::error::json_reason;

/// Begin and end of text.
///
/// `bos` and `eos` are the tokenizer's: `tokenizer_config.json`, else `special_tokens_map.json`, decides by `bos_token` and
/// `eos_token`, also by saying null; only where neither has the key does `config.json`, then `generation_config.json`, by
/// `bos_token_id` and `eos_token_id`. So Qwen has no BOS although its `config.json` names one, as in transformers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SpecialTokens {
    /// Stands before a text.
    pub bos: Option<u32>,
    /// Stands after a text.
    pub eos: Option<u32>,
    /// Each of these ends a generation: `eos_token_id` (one or a list) of `generation_config.json`, else of `config.json`,
    /// else `eos`.
    pub stop: Vec<u32>,
}

impl SpecialTokens {
    /// What the files in the model folder `dir` say; none of them need exist.
    pub(crate) fn load(dir: &Path, tokenizer: &Tokenizer) -> Result<Self, DataError> {
        let [words, map, config, generation] =
            ["tokenizer_config.json", "special_tokens_map.json", "config.json", "generation_config.json"]
                .map(|name| ConfigFile::load(dir.join(name)));
        let (words, map, config, generation) = (words?, map?, config?, generation?);
        let find = |token: &str| -> Result<Option<u32>, DataError> {
            for file in [&words, &map] {
                if let Some(value) = file.get(token) {
                    return file.word(token, value, tokenizer);
                }
            }
            let key = format!("{token}_id");
            for file in [&config, &generation] {
                if let Some(&id) = file.ids(&key)?.first() {
                    return file.known(&key, id, tokenizer).map(Some);
                }
            }
            Ok(None)
        };
        let (bos, eos) = (find("bos_token")?, find("eos_token")?);
        let mut stop = generation.ids("eos_token_id")?;
        if stop.is_empty() {
            stop = config.ids("eos_token_id")?;
        }
        if stop.is_empty() {
            stop.extend(eos);
        }
        Ok(Self { bos, eos, stop })
    }
}

/// A JSON object; an empty one if there is no such file.
pub(crate) struct ConfigFile {
    path: PathBuf,
    object: Value,
}

impl ConfigFile {
    pub(crate) fn load(path: PathBuf) -> Result<Self, DataError> {
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => b"{}".to_vec(),
            Err(cause) => return Err(DataError::Read { path, cause }),
        };
        let object: Value = serde_json::from_slice(&bytes).map_err(|cause| DataError::Json {
            at: format!("{}:{}:{}", path.display(), cause.line(), cause.column()),
            reason: json_reason(&cause),
        })?;
        if !object.is_object() {
            return Err(DataError::Json { at: path.display().to_string(), reason: "wanted an object".to_owned() });
        }
        Ok(Self { path, object })
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.object.get(key)
    }

    /// The id of a token given as text, or as `{"content": text}`.
    fn word(&self, key: &str, value: &Value, tokenizer: &Tokenizer) -> Result<Option<u32>, DataError> {
        if value.is_null() {
            return Ok(None);
        }
        let text = self.text(key, value)?;
        let id = tokenizer.token_to_id(text);
        id.map(Some).ok_or_else(|| self.unknown(key, format!("`{text}`")))
    }

    /// A token given as text, or as `{"content": text}`.
    pub(crate) fn text<'v>(&self, key: &str, value: &'v Value) -> Result<&'v str, DataError> {
        let text = value.as_str().or_else(|| value.get("content")?.as_str());
        text.ok_or_else(|| self.wrong(key, "a token's text, an object with its `content`, or null"))
    }

    /// One id or a list of them; nothing for null or no such key.
    fn ids(&self, key: &str) -> Result<Vec<u32>, DataError> {
        let Some(value) = self.get(key).filter(|value| !value.is_null()) else {
            return Ok(Vec::new());
        };
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids: Option<Vec<u32>> = match value {
            Value::Array(values) => values.iter().map(id).collect(),
            value => id(value).map(|id| vec![id]),
        };
        ids.ok_or_else(|| self.wrong(key, "a token id or a list of them"))
    }

    fn known(&self, key: &str, id: u32, tokenizer: &Tokenizer) -> Result<u32, DataError> {
        if tokenizer.id_to_token(id).is_some() { Ok(id) } else { Err(self.unknown(key, id.to_string())) }
    }

    fn unknown(&self, key: &str, token: String) -> DataError {
        DataError::UnknownToken { path: self.path.clone(), key: key.to_owned(), token }
    }

    pub(crate) fn wrong(&self, key: &str, wanted: &str) -> DataError {
        let found = self.get(key).unwrap_or(&Value::Null);
        DataError::Json { at: self.path.display().to_string(), reason: format!("`{key}` is {found}, wanted {wanted}") }
    }
}

#[cfg(test)]
mod tests {
    use crate::tokenize::example;
    use crate::{DataError, SpecialTokens};

    /// The special tokens of a tokenizer with the words `<s>` 0, `</s>` 1, `a` 2, `b` 3 and these files beside it.
    fn load(files: &[(&str, &str)]) -> Result<SpecialTokens, DataError> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            taper_base::files::write(&dir.path().join(name), text.as_bytes()).unwrap();
        }
        let words = example(dir.path(), &["a", "b"])?;
        Ok(words.special().clone())
    }

    fn special(bos: Option<u32>, eos: Option<u32>, stop: &[u32]) -> SpecialTokens {
        SpecialTokens { bos, eos, stop: stop.to_vec() }
    }

    #[test]
    fn the_tokenizers_own_files_come_before_the_models() {
        let ids = ("config.json", r#"{"bos_token_id": 2, "eos_token_id": [3, 2]}"#);
        let words = ("tokenizer_config.json", r#"{"bos_token": null, "eos_token": {"content": "</s>"}}"#);
        let map = ("special_tokens_map.json", r#"{"bos_token": "<s>", "eos_token": "b"}"#);
        let generation = ("generation_config.json", r#"{"eos_token_id": 1, "bos_token_id": 0}"#);
        assert_eq!(load(&[]).unwrap(), SpecialTokens::default());
        assert_eq!(load(&[ids]).unwrap(), special(Some(2), Some(3), &[3, 2]));
        assert_eq!(load(&[ids, words]).unwrap(), special(None, Some(1), &[3, 2]));
        assert_eq!(load(&[ids, map]).unwrap(), special(Some(0), Some(3), &[3, 2]));
        assert_eq!(load(&[ids, words, map, generation]).unwrap(), special(None, Some(1), &[1]));
        assert_eq!(load(&[words]).unwrap(), special(None, Some(1), &[1]));
        assert_eq!(load(&[generation]).unwrap(), special(Some(0), Some(1), &[1]));
    }

    #[test]
    fn errors_name_the_file_and_the_key() {
        let cases = [
            (
                "tokenizer_config.json",
                r#"{"bos_token": "<bos>"}"#,
                "`bos_token` is `<bos>`, which is not in the tokenizer's vocabulary",
            ),
            ("tokenizer_config.json", r#"{"eos_token": 3}"#, "`eos_token` is 3, wanted a token's text"),
            (
                "config.json",
                r#"{"eos_token_id": 9}"#,
                "`eos_token_id` is 9, which is not in the tokenizer's vocabulary",
            ),
            (
                "config.json",
                r#"{"eos_token_id": [1, -1]}"#,
                "`eos_token_id` is [1,-1], wanted a token id or a list of them",
            ),
            ("generation_config.json", "[]", "wanted an object"),
            ("generation_config.json", "{\n\"a\" 1}", "expected `:`"),
        ];
        for (name, text, message) in cases {
            let error = load(&[(name, text)]).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(message), "{error}");
        }
    }
}
