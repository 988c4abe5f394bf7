//! Where a model comes from, as a recipe says it: a folder, or an id on the Hub with or without a revision.

use std::borrow::Cow;
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::HubError;

/// A model: a folder, or an id on the Hub.
///
/// In a recipe `owner/name`, `owner/name@revision`, `./folder`, `/folder`, `{id, revision}` or `{path}`. What starts
/// with `./`, `../` or `/` is a folder, all else an id: the text alone decides, so a recipe means the same everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSource {
    /// Path or id.
    pub name: String,
    /// Branch, tag or commit on the Hub; `None` is the main branch.
    pub revision: Option<String>,
}

/// The long form in a recipe.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fields {
    /// An id on the Hub (owner/name), or a folder (./…, ../… or /…; relative to the recipe).
    #[serde(default)]
    id: Option<String>,
    /// A folder, instead of an id; relative to the recipe.
    #[serde(default)]
    path: Option<String>,
    /// Branch, tag or commit on the Hub; a full commit gives the same model for ever.
    #[serde(default)]
    revision: Option<String>,
}

impl ModelSource {
    /// The same source with a relative folder starting at `folder`: a recipe's paths are relative to the recipe.
    #[must_use]
    pub fn based_at(mut self, folder: &Path) -> Self {
        if is_path(&self.name) && Path::new(&self.name).is_relative() {
            let plain: PathBuf =
                folder.join(&self.name).components().filter(|part| *part != Component::CurDir).collect();
            self.name = dotted(&plain.to_string_lossy());
        }
        self
    }

    /// The folder, or the GGUF file, if it is one. `None`: it is on the Hub.
    pub fn folder(&self) -> Option<PathBuf> {
        is_path(&self.name).then(|| PathBuf::from(&self.name))
    }

    /// Whether it can be fetched, as far as this machine alone can say: the folder exists, or it reads as an id.
    ///
    /// # Errors
    /// [`HubError::NoFolder`] or [`HubError::Source`].
    pub fn check(&self) -> Result<(), HubError> {
        let wrong = |reason: String| HubError::Source { text: self.to_string(), reason };
        match (self.folder(), &self.revision) {
            (Some(_), Some(_)) => Err(wrong("a folder has no revision".to_owned())),
            (Some(path), None) if path.is_dir() || is_gguf(&path) => Ok(()),
            (Some(path), None) => Err(HubError::NoFolder { path }),
            (None, revision) => {
                check_id(&self.name).and_then(|()| revision.as_deref().map_or(Ok(()), check_revision)).map_err(wrong)
            }
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        match text.split_once('@') {
            Some((name, revision)) if !is_path(text) => Self::new(name, Some(revision)),
            _ => Self::new(text, None),
        }
    }

    fn new(name: &str, revision: Option<&str>) -> Result<Self, String> {
        match (is_path(name), revision) {
            (true, Some(_)) => return Err("a folder has no revision".to_owned()),
            (true, None) => {}
            (false, revision) => check_id(name).and_then(|()| revision.map_or(Ok(()), check_revision))?,
        }
        Ok(Self { name: name.to_owned(), revision: revision.map(str::to_owned) })
    }
}

/// Whether it is a file of weights that can be unpacked.
fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "gguf") && path.is_file()
}

/// Whether `name` can only be a path.
fn is_path(name: &str) -> bool {
    let dots = name == "." || name == ".." || name.starts_with("./") || name.starts_with("../");
    dots || Path::new(name).is_absolute()
}

/// `path` such that it can only be a path.
fn dotted(path: &str) -> String {
    if is_path(path) { path.to_owned() } else { Path::new(".").join(path).to_string_lossy().into_owned() }
}

/// What the Hub allows: one or two names of letters, digits, `-`, `_` and `.`.
pub(crate) fn check_id(id: &str) -> Result<(), String> {
    let good = |part: &str| {
        let allowed = part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        allowed && !part.is_empty() && !part.starts_with(['-', '.']) && !part.ends_with(['-', '.'])
    };
    let sound = id.len() <= 96 && !id.contains("..") && !id.contains("--");
    if id.is_empty() {
        Err("an empty model name".to_owned())
    } else if sound && id.split('/').count() <= 2 && id.split('/').all(good) {
        Ok(())
    } else {
        Err(format!("`{id}` is no Hub id such as `owner/name`; a folder starts with ./, ../ or /"))
    }
}

/// A revision becomes part of a path in the cache.
pub(crate) fn check_revision(revision: &str) -> Result<(), String> {
    let allowed = revision.chars().all(|c| !c.is_control() && !c.is_whitespace() && !"\\:?*[~^@".contains(c));
    if allowed && is_plain_path(revision) {
        Ok(())
    } else {
        Err(format!("`{revision}` is no revision: wanted a branch, a tag or a commit"))
    }
}

/// Whether `path` is relative and stays below where it starts.
pub(crate) fn is_plain_path(path: &str) -> bool {
    path.split('/').all(|part| !matches!(part, "" | "." | "..")) && !path.contains(['\\', ':', '\0'])
}

impl FromStr for ModelSource {
    type Err = HubError;

    /// As on a command line, where a folder or a GGUF file that is there needs no `./`.
    fn from_str(text: &str) -> Result<Self, HubError> {
        let path = Path::new(text);
        let folder = (path.is_dir() || is_gguf(path)).then(|| dotted(text));
        Self::parse(folder.as_deref().unwrap_or(text))
            .map_err(|reason| HubError::Source { text: text.to_owned(), reason })
    }
}

impl fmt::Display for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.revision.as_ref().map_or(Ok(()), |revision| write!(f, "@{revision}"))
    }
}

/// The short form.
impl Serialize for ModelSource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ModelSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Source;
        impl<'de> Visitor<'de> for Source {
            type Value = ModelSource;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a Hub id, a folder, or {id, revision}")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<ModelSource, E> {
                ModelSource::parse(text).map_err(E::custom)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ModelSource, A::Error> {
                let Fields { id, path, revision } = Fields::deserialize(MapAccessDeserializer::new(map))?;
                let name = match (id, path) {
                    (Some(id), None) => id,
                    (None, Some(path)) if !path.is_empty() => dotted(&path),
                    (None, Some(_)) => return Err(A::Error::custom("an empty path")),
                    (Some(_), Some(_)) => return Err(A::Error::custom("a model has an `id` or a `path`, not both")),
                    (None, None) => return Err(A::Error::missing_field("id")),
                };
                ModelSource::new(&name, revision.as_deref()).map_err(A::Error::custom)
            }
        }
        deserializer.deserialize_any(Source)
    }
}

impl JsonSchema for ModelSource {
    fn schema_name() -> Cow<'static, str> {
        "ModelSource".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let fields = generator.subschema_for::<Fields>();
        json_schema!({
            "description": "A model: an id on the Hub (owner/name, owner/name@revision), a folder (./…, ../…, /…), \
                            {id, revision} or {path}.",
            "anyOf": [{ "type": "string", "minLength": 1 }, fields],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn source(name: &str, revision: Option<&str>) -> ModelSource {
        ModelSource { name: name.to_owned(), revision: revision.map(str::to_owned) }
    }

    fn read(value: serde_json::Value) -> Result<ModelSource, String> {
        serde_json::from_value(value).map_err(|cause| cause.to_string())
    }

    #[test]
    fn each_form_is_read_and_what_is_written_is_read_back() {
        for (value, wanted) in [
            (json!("a/b"), source("a/b", None)),
            (json!("a/b@v1.0"), source("a/b", Some("v1.0"))),
            (json!("gpt2@refs/pr/1"), source("gpt2", Some("refs/pr/1"))),
            (json!("./m@1"), source("./m@1", None)),
            (json!("/abs/m"), source("/abs/m", None)),
            (json!({"id": "./m"}), source("./m", None)),
            (json!({"id": "a/b"}), source("a/b", None)),
            (json!({"id": "a/b", "revision": "main"}), source("a/b", Some("main"))),
            (json!({"path": "m@1"}), source("./m@1", None)),
            (json!({"path": "../m"}), source("../m", None)),
        ] {
            let read_once = read(value).unwrap();
            assert_eq!(read_once, wanted);
            assert_eq!(read(serde_json::to_value(&read_once).unwrap()).unwrap(), wanted);
            assert_eq!(wanted.to_string().parse::<ModelSource>().unwrap(), wanted);
        }
    }

    #[test]
    fn errors_name_the_key_and_what_was_wanted() {
        let no_id = |id| format!("`{id}` is no Hub id such as `owner/name`; a folder starts with ./, ../ or /");
        let no_revision = |text| format!("`{text}` is no revision: wanted a branch, a tag or a commit");
        let plain = str::to_owned;
        for (value, message) in [
            (json!(1), plain("invalid type: integer `1`, expected a Hub id, a folder, or {id, revision}")),
            (json!(""), plain("an empty model name")),
            (json!("a/b/c"), no_id("a/b/c")),
            (json!({"id": "a b"}), no_id("a b")),
            (json!("a/b@"), no_revision("")),
            (json!("a/b@../x"), no_revision("../x")),
            (json!({}), plain("missing field `id`")),
            (json!({"id": "a", "path": "b"}), plain("a model has an `id` or a `path`, not both")),
            (json!({"id": "./b", "revision": "x"}), plain("a folder has no revision")),
            (json!({"path": "b", "revision": "x"}), plain("a folder has no revision")),
            (json!({"path": ""}), plain("an empty path")),
            (json!({"id": "a", "rev": "x"}), plain("unknown field `rev`, expected one of `id`, `path`, `revision`")),
        ] {
            assert_eq!(read(value).unwrap_err(), message);
        }
    }

    #[test]
    fn relative_folders_start_at_the_recipe_and_ids_stay() {
        let at = |name: &str, base: &str| source(name, None).based_at(Path::new(base)).name;
        assert_eq!(at("./demo", "recipes"), "./recipes/demo");
        assert_eq!(at("../m", "recipes"), "./recipes/../m");
        assert_eq!(at("./demo", ""), "./demo");
        assert_eq!(at("./demo", "../x"), "../x/demo");
        assert_eq!(at("./demo", "/abs"), "/abs/demo");
        assert_eq!(at("/m", "recipes"), "/m");
        assert_eq!(at("src/lib", "."), "src/lib");
        assert_eq!("src".parse::<ModelSource>().unwrap().name, "./src"); // a folder that is there, on a command line
    }

    #[test]
    fn a_source_is_a_folder_that_exists_or_an_id() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        assert_eq!(source(path, None).folder().as_deref(), Some(dir.path()));
        assert!(source(path, None).check().is_ok() && source("a/b", Some("main")).check().is_ok());
        assert_eq!(source("a/b", None).folder(), None);
        let message = |name: &str, revision| source(name, revision).check().unwrap_err().to_string();
        assert!(message(path, Some("main")).ends_with("a folder has no revision"));
        assert!(message("./none", None).starts_with("./none: no such folder"));
        for bad in ["a/b/c", "a b", "-a/b", "a/..", "a--b", "", "https://x.y/z", "models\\x"] {
            assert!(message(bad, None).contains("no Hub id such as `owner/name`") || bad.is_empty(), "{bad}");
        }
        assert!(message("a/b", Some("x y")).contains("is no revision"));
    }

    #[test]
    fn the_schema_offers_both_forms() {
        let schema = schemars::schema_for!(ModelSource).to_value();
        assert_eq!(schema["anyOf"][0], json!({"type": "string", "minLength": 1}));
        assert_eq!(schema["$defs"]["Fields"]["additionalProperties"], json!(false));
    }
}
