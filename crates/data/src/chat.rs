//! A checkpoint's chat templates, as text, found where transformers finds them.
//!
//! `chat_template.jinja` and `additional_chat_templates/<name>.jinja` come before `tokenizer_config.json`'s `chat_template`
//! (one template, or a list of named ones), and that before `chat_template.json`, which processors of older releases have.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::DataError;
use crate::special::ConfigFile;

const DEFAULT: &str = "default";
/// The tokens that a template may ask for.
const TOKENS: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The chat templates of a model folder, by name, and the special tokens they may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatTemplates {
    dir: PathBuf,
    templates: BTreeMap<String, String>,
    tokens: BTreeMap<&'static str, String>,
}

impl ChatTemplates {
    /// Those in the model folder `dir`, of which there may be none.
    ///
    /// # Errors
    /// If a file is unreadable, or not what it should be.
    pub fn load(dir: &Path) -> Result<Self, DataError> {
        let words = ConfigFile::load(dir.join("tokenizer_config.json"))?;
        let map = ConfigFile::load(dir.join("special_tokens_map.json"))?;
        let mut templates = jinja_files(dir)?;
        for file in [&words, &ConfigFile::load(dir.join("chat_template.json"))?] {
            if templates.is_empty() {
                templates = named(file)?;
            }
        }
        let mut tokens = BTreeMap::new();
        for key in TOKENS {
            let file = if words.get(key).is_some() { &words } else { &map };
            let value = file.get(key).filter(|value| !value.is_null());
            let text = value.map(|value| file.text(key, value)).transpose()?;
            tokens.extend(text.map(|text| (key, text.to_owned())));
        }
        Ok(Self { dir: dir.into(), templates, tokens })
    }

    /// The template called `name`; without a name the only one, or the one called `default`. Where there is one without a
    /// name of its own, any name means it.
    ///
    /// # Errors
    /// [`DataError::NoChatTemplate`] or [`DataError::ChatTemplateName`].
    pub fn get(&self, name: Option<&str>) -> Result<&str, DataError> {
        let unnamed = self.templates.len() == 1 && self.templates.contains_key(DEFAULT);
        let name = name.filter(|_| !unnamed).unwrap_or(DEFAULT);
        match self.templates.get(name) {
            Some(template) => Ok(template),
            None if self.templates.is_empty() => Err(DataError::NoChatTemplate { dir: self.dir.clone() }),
            None => {
                let known: Vec<&str> = self.templates.keys().map(String::as_str).collect();
                let (dir, name, known) = (self.dir.clone(), name.to_owned(), known.join(", "));
                Err(DataError::ChatTemplateName { dir, name, known })
            }
        }
    }

    /// Special tokens by the names that templates give them: `bos_token`, `eos_token` and so on.
    pub fn tokens(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.tokens.iter().map(|(name, text)| (*name, text.as_str()))
    }
}

/// `chat_template.jinja` and the files of `additional_chat_templates`.
fn jinja_files(dir: &Path) -> Result<BTreeMap<String, String>, DataError> {
    let mut files = vec![(DEFAULT.to_owned(), dir.join("chat_template.jinja"))];
    let folder = dir.join("additional_chat_templates");
    if folder.is_dir() {
        for entry in fs::read_dir(&folder).map_err(DataError::read(&folder))? {
            let path = entry.map_err(DataError::read(&folder))?.path();
            let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            files.extend(path.extension().is_some_and(|ending| ending == "jinja").then_some((name, path)));
        }
    }
    let mut templates = BTreeMap::new();
    for (name, path) in files.into_iter().filter(|(_, path)| path.is_file()) {
        templates.insert(name, fs::read_to_string(&path).map_err(DataError::read(&path))?);
    }
    Ok(templates)
}

/// The key `chat_template` of `file`.
fn named(file: &ConfigFile) -> Result<BTreeMap<String, String>, DataError> {
    const KEY: &str = "chat_template";
    let one = |item: &Value| Some((item["name"].as_str()?.to_owned(), item["template"].as_str()?.to_owned()));
    let templates = match file.get(KEY) {
        None | Some(Value::Null) => Some(BTreeMap::new()),
        Some(Value::String(template)) => Some(BTreeMap::from([(DEFAULT.to_owned(), template.clone())])),
        Some(Value::Array(items)) => items.iter().map(one).collect(),
        Some(_) => None,
    };
    templates.ok_or_else(|| file.wrong(KEY, "a template, or a list of objects with `name` and `template`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            taper_base::files::write(&path, text.as_bytes()).unwrap();
        }
        dir
    }

    fn template(files: &[(&str, &str)], name: Option<&str>) -> Result<String, String> {
        let dir = folder(files);
        let found = ChatTemplates::load(dir.path()).and_then(|templates| templates.get(name).map(str::to_owned));
        found.map_err(|error| error.to_string().replace(&dir.path().display().to_string(), "DIR"))
    }

    #[test]
    fn files_of_their_own_come_before_the_tokenizers_and_that_before_the_processors() {
        let processor = ("chat_template.json", r#"{"chat_template": "P"}"#);
        let words = ("tokenizer_config.json", r#"{"chat_template": "T"}"#);
        let own = ("chat_template.jinja", "J");
        assert_eq!(template(&[processor], None).as_deref(), Ok("P"));
        assert_eq!(template(&[processor, words], None).as_deref(), Ok("T"));
        assert_eq!(template(&[processor, words, own], None).as_deref(), Ok("J"));
        assert_eq!(template(&[own], Some("any")).as_deref(), Ok("J"));
        let more = ("additional_chat_templates/rag.jinja", "R");
        assert_eq!(template(&[own, more], Some("rag")).as_deref(), Ok("R"));
        assert_eq!(template(&[own, more], None).as_deref(), Ok("J"));
    }

    #[test]
    fn a_name_picks_among_several_and_none_is_refused_by_name() {
        let list = r#"{"chat_template": [{"name": "rag", "template": "R"}, {"name": "tool_use", "template": "U"}]}"#;
        let words = ("tokenizer_config.json", list);
        assert_eq!(template(&[words], Some("rag")).as_deref(), Ok("R"));
        let refused = "DIR: no chat template `default`; there are: rag, tool_use";
        assert_eq!(template(&[words], None).unwrap_err(), refused);
        let none = "DIR: no chat template, neither `chat_template` in tokenizer_config.json nor a chat_template.jinja";
        assert_eq!(template(&[("tokenizer_config.json", "{}")], None).unwrap_err(), none);
        let odd = template(&[("tokenizer_config.json", r#"{"chat_template": 3}"#)], None).unwrap_err();
        assert!(odd.contains("tokenizer_config.json: `chat_template` is 3, wanted a template"), "{odd}");
    }

    #[test]
    fn tokens_are_those_of_the_tokenizers_files() {
        let words = r#"{"bos_token": {"content": "<s>"}, "eos_token": null, "pad_token": "<p>"}"#;
        let map = r#"{"bos_token": "no", "eos_token": "no", "unk_token": "<u>"}"#;
        let dir = folder(&[("tokenizer_config.json", words), ("special_tokens_map.json", map)]);
        let templates = ChatTemplates::load(dir.path()).unwrap();
        let tokens: Vec<_> = templates.tokens().collect();
        assert_eq!(tokens, [("bos_token", "<s>"), ("pad_token", "<p>"), ("unk_token", "<u>")]);
    }
}
