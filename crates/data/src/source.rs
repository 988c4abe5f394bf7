//! Where text comes from, as a recipe says it: a path, or `{path, field, separator}`.

use std::borrow::Cow;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::DataError;
use crate::read;

/// Text: `.txt`, `.jsonl` and `.parquet` files, here or in a Hub dataset. In a recipe a path, or `{path, dataset, field,
/// separator}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TextSource {
    /// Files, and folders whose files are read in order of their names, without subfolders.
    #[serde(rename = "path")]
    pub paths: Vec<PathBuf>,
    /// The Hub dataset (`owner/name`, `owner/name@revision`) that the paths are files of; `None`: they are here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataset: Option<String>,
    /// The field of a `.jsonl` line or the column of a `.parquet` file that holds the text.
    pub field: String,
    /// What stands between two documents of a `.txt` file; `None`: each file is one document.
    pub separator: Option<String>,
}

/// The long form in a recipe.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fields {
    /// A file, a folder (its files in order of their names, subfolders left out), or a list of such.
    path: OneOrMore,
    /// A dataset on the Hub, owner/name or owner/name@revision; then path names files of it.
    #[serde(default)]
    dataset: Option<String>,
    /// The field of a .jsonl line or the column of a .parquet file that holds the text.
    #[serde(default = "default_field")]
    field: String,
    /// What stands between two documents of a .txt file; by default an empty line. null: each file is one document.
    #[serde(default = "default_separator", deserialize_with = "some_text_or_null")]
    separator: Option<String>,
}

fn default_field() -> String {
    "text".to_owned()
}

#[expect(clippy::unnecessary_wraps, reason = "serde wants the field's type")]
fn default_separator() -> Option<String> {
    Some("\n\n".to_owned())
}

fn some_text_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let separator = Option::<String>::deserialize(deserializer)?;
    match separator.as_deref() {
        Some("") => Err(D::Error::custom("an empty separator separates nothing; null makes each file one document")),
        _ => Ok(separator),
    }
}

impl TextSource {
    /// The text at `path`, with the default field and separator.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { paths: vec![path.into()], dataset: None, field: default_field(), separator: default_separator() }
    }

    /// The same source with relative paths starting at `folder`: a recipe's paths are relative to the recipe.
    #[must_use]
    pub fn based_at(mut self, folder: &Path) -> Self {
        if self.dataset.is_none() {
            // collected from components: `a/./b` reads `a/b`
            self.paths = self.paths.iter().map(|path| folder.join(path).components().collect()).collect();
        }
        self
    }

    /// The files to read, in order.
    ///
    /// # Errors
    /// [`DataError::Read`], [`DataError::Format`] for a file and [`DataError::EmptyFolder`] for a folder that holds no text.
    pub fn files(&self) -> Result<Vec<PathBuf>, DataError> {
        let mut files = Vec::new();
        for path in &self.paths {
            if fs::metadata(path).map_err(DataError::read(path))?.is_dir() {
                files.extend(folder(path)?);
            } else {
                read::format(path)?;
                files.push(path.clone());
            }
        }
        Ok(files)
    }
}

impl fmt::Display for TextSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths: Vec<_> = self.paths.iter().map(|path| path.display().to_string()).collect();
        f.write_str(&paths.join(", "))?;
        self.dataset.as_ref().map_or(Ok(()), |dataset| write!(f, " of {dataset}"))
    }
}

/// The text files of `folder`, sorted. Others (a README, a lock file) are normal beside a data set and left alone.
fn folder(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let entries = fs::read_dir(folder).map_err(DataError::read(folder))?;
    let entries: Result<Vec<_>, _> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let entries = entries.map_err(DataError::read(folder))?;
    let hidden = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    let mut files: Vec<PathBuf> = entries.iter().filter(|path| !hidden(path)).cloned().collect();
    files.retain(|path| read::format(path).is_ok() && path.is_file());
    files.sort();
    if files.is_empty() {
        return Err(DataError::EmptyFolder { path: folder.to_owned(), entries: entries.len() });
    }
    Ok(files)
}

impl<'de> Deserialize<'de> for TextSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Source;
        impl<'de> Visitor<'de> for Source {
            type Value = TextSource;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the path of a text file or folder, or {path, field, separator}")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<TextSource, E> {
                path(text).map(TextSource::new)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<TextSource, A::Error> {
                let Fields { path, dataset, field, separator } = Fields::deserialize(MapAccessDeserializer::new(map))?;
                if dataset.as_ref().is_some_and(|dataset| dataset.is_empty()) {
                    return Err(A::Error::custom("an empty dataset name"));
                }
                Ok(TextSource { paths: path.0, dataset, field, separator })
            }
        }
        deserializer.deserialize_any(Source)
    }
}

impl JsonSchema for TextSource {
    fn schema_name() -> Cow<'static, str> {
        "TextSource".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let fields = generator.subschema_for::<Fields>();
        json_schema!({
            "description": "Text (.txt, .jsonl, .parquet): a path, or {path, dataset, field, separator}.",
            "anyOf": [{ "type": "string", "minLength": 1 }, fields],
        })
    }
}

/// A path, or several.
pub(crate) struct OneOrMore(pub(crate) Vec<PathBuf>);

impl<'de> Deserialize<'de> for OneOrMore {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Paths;
        impl<'de> Visitor<'de> for Paths {
            type Value = OneOrMore;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path or a list of paths")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<OneOrMore, E> {
                Ok(OneOrMore(vec![path(text)?]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<OneOrMore, A::Error> {
                let mut paths = Vec::new();
                while let Some(text) = list.next_element::<String>()? {
                    paths.push(path(&text)?);
                }
                if paths.is_empty() { Err(A::Error::invalid_length(0, &self)) } else { Ok(OneOrMore(paths)) }
            }
        }
        deserializer.deserialize_any(Paths)
    }
}

impl JsonSchema for OneOrMore {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "OneOrMore".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let path = json_schema!({ "type": "string", "minLength": 1 });
        json_schema!({ "anyOf": [path, { "type": "array", "items": path, "minItems": 1 }] })
    }
}

fn path<E: Error>(text: &str) -> Result<PathBuf, E> {
    if text.is_empty() { Err(E::custom("an empty path")) } else { Ok(text.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: serde_json::Value) -> Result<TextSource, String> {
        serde_json::from_value(value).map_err(|cause| cause.to_string())
    }

    #[test]
    fn a_path_alone_means_the_default_field_and_an_empty_line() {
        let source = parse(json!("a.txt")).unwrap();
        assert_eq!(source, TextSource::new("a.txt"));
        assert_eq!((source.field.as_str(), source.separator.as_deref()), ("text", Some("\n\n")));
    }

    #[test]
    fn the_long_form_sets_each_field_and_null_means_no_separator() {
        let source = parse(json!({"path": ["a.txt", "b"], "field": "story", "separator": null})).unwrap();
        assert_eq!(source.paths, [PathBuf::from("a.txt"), PathBuf::from("b")]);
        assert_eq!((source.field.as_str(), source.separator), ("story", None));
        assert_eq!(parse(json!({"path": "a", "separator": "%"})).unwrap().separator.as_deref(), Some("%"));
    }

    #[test]
    fn what_is_written_is_read_back() {
        for source in
            [json!("a.txt"), json!({"path": ["a", "b"], "separator": null}), json!({"path": "a", "dataset": "x/y@r"})]
        {
            let source = parse(source).unwrap();
            assert_eq!(parse(serde_json::to_value(&source).unwrap()).unwrap(), source);
        }
    }

    #[test]
    fn errors_name_the_key_and_what_was_wanted() {
        let cases = [
            (
                json!(3),
                "invalid type: integer `3`, expected the path of a text file or folder, or {path, field, separator}",
            ),
            (json!(""), "an empty path"),
            (
                json!({"path": "a", "feild": "x"}),
                "unknown field `feild`, expected one of `path`, `dataset`, `field`, `separator`",
            ),
            (json!({"field": "x"}), "missing field `path`"),
            (json!({"path": 1}), "invalid type: integer `1`, expected a path or a list of paths"),
            (json!({"path": "a", "dataset": ""}), "an empty dataset name"),
            (json!({"path": []}), "invalid length 0, expected a path or a list of paths"),
            (
                json!({"path": "a", "separator": ""}),
                "an empty separator separates nothing; null makes each file one document",
            ),
        ];
        for (value, message) in cases {
            assert_eq!(parse(value).unwrap_err(), message);
        }
    }

    #[test]
    fn the_schema_offers_both_forms() {
        let schema = schemars::schema_for!(TextSource).to_value();
        assert_eq!(schema["anyOf"][0], json!({"type": "string", "minLength": 1}));
        let fields = &schema["$defs"]["Fields"];
        assert_eq!(fields["additionalProperties"], json!(false));
        assert_eq!(fields["required"], json!(["path"]));
        assert_eq!(fields["properties"]["separator"]["default"], json!("\n\n"));
    }

    #[test]
    fn a_folder_gives_its_text_files_by_name_and_a_list_keeps_its_order() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.txt", "a.jsonl", "C.TXT", "README.md", ".hidden.txt"] {
            taper_base::files::write(&dir.path().join(name), b"x").unwrap();
        }
        let names = |source: &TextSource| -> Vec<String> {
            let files = source.files().unwrap();
            files.iter().map(|file| file.file_name().unwrap().to_string_lossy().into_owned()).collect()
        };
        let on_hub = TextSource { dataset: Some("o/n".to_owned()), ..TextSource::new("f.txt") };
        assert_eq!((on_hub.clone().based_at(dir.path()), on_hub.to_string()), (on_hub, "f.txt of o/n".to_owned()));
        let mut source = TextSource::new(".").based_at(dir.path());
        assert_eq!(names(&source), ["C.TXT", "a.jsonl", "b.txt"]);
        source.paths = vec![dir.path().join("b.txt"), dir.path().join("a.jsonl")];
        assert_eq!(names(&source), ["b.txt", "a.jsonl"]);
    }

    #[test]
    fn paths_that_lead_to_no_text_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = |name: &str| TextSource::new(name).based_at(dir.path()).files().unwrap_err();
        assert!(matches!(error("none.txt"), DataError::Read { .. }));
        taper_base::files::write(&dir.path().join("a.json"), b"x").unwrap();
        assert!(matches!(error("a.json"), DataError::Format { .. }));
        assert!(matches!(error("."), DataError::EmptyFolder { entries: 1, .. }));
    }
}
