//! Where a model comes from, as a user writes it: a folder, or a Hub id with an optional revision.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::HubError;

/// A folder, or a Hub id with an optional revision (branch, tag or commit; the main branch if none is given).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelSource {
    /// Path or id.
    pub name: String,
    /// Of a Hub id.
    pub revision: Option<String>,
}

impl ModelSource {
    /// The same source with relative folders starting at `folder`: a recipe's paths are relative to the recipe. A name
    /// that is no folder there stays what it is.
    #[must_use]
    pub fn based_at(mut self, folder: &Path) -> Self {
        let explicit = ["./", "../", ".\\", "..\\"].iter().any(|start| self.name.starts_with(start));
        let there = folder.join(&self.name);
        if self.revision.is_none() && !Path::new(&self.name).is_absolute() && (explicit || there.is_dir()) {
            self.name = there.display().to_string();
        }
        self
    }

    /// The folder, if the name is one. With a revision it is a Hub id.
    pub(crate) fn folder(&self) -> Option<PathBuf> {
        let path = PathBuf::from(&self.name);
        (self.revision.is_none() && path.is_dir()).then_some(path)
    }

    /// Owner and name of a Hub id.
    pub(crate) fn id(&self) -> Result<(&str, &str), HubError> {
        let refuse = |reason| HubError::Name { name: self.name.clone(), reason };
        if self.name.starts_with(['/', '.', '~']) || self.name.contains('\\') {
            return Err(refuse("there is no such folder"));
        }
        let (owner, name) = self.name.split_once('/').unwrap_or(("", &self.name));
        let sound = |part: &str| {
            let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !part.is_empty() && part.chars().all(good) && !part.starts_with(['-', '.']) && !part.contains("..")
        };
        if (owner.is_empty() || sound(owner)) && sound(name) {
            Ok((owner, name))
        } else {
            Err(refuse("an id has letters, digits, `-`, `_` and `.`, and at most one `/`"))
        }
    }
}

impl FromStr for ModelSource {
    type Err = HubError;

    /// `folder`, `owner/name` or `owner/name@revision`.
    fn from_str(text: &str) -> Result<Self, HubError> {
        let refuse = |reason| Err(HubError::Name { name: text.to_owned(), reason });
        if text.trim().is_empty() {
            return refuse("it is empty");
        }
        if Path::new(text).is_dir() {
            return Ok(Self { name: text.to_owned(), revision: None });
        }
        match text.rsplit_once('@') {
            Some(("", _) | (_, "")) => refuse("an id and a revision are written owner/name@revision"),
            Some((name, revision)) => Ok(Self { name: name.to_owned(), revision: Some(revision.to_owned()) }),
            None => Ok(Self { name: text.to_owned(), revision: None }),
        }
    }
}

impl fmt::Display for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.revision {
            Some(revision) => write!(f, "{}@{revision}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// The long form in a recipe.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fields {
    /// Hub id such as owner/name, or a folder.
    #[serde(alias = "path")]
    id: String,
    /// Branch, tag or commit of a Hub id; the main branch if left out. Pin a commit for a result that can be repeated.
    #[serde(default)]
    revision: Option<String>,
}

impl<'de> Deserialize<'de> for ModelSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Source;
        impl<'de> Visitor<'de> for Source {
            type Value = ModelSource;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a folder, a Hub id (owner/name or owner/name@revision), or {id, revision}")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<ModelSource, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ModelSource, A::Error> {
                let Fields { id, revision } = Fields::deserialize(MapAccessDeserializer::new(map))?;
                if id.trim().is_empty() {
                    return Err(A::Error::custom("`id` is empty"));
                }
                Ok(ModelSource { name: id, revision })
            }
        }
        deserializer.deserialize_any(Source)
    }
}

impl JsonSchema for ModelSource {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ModelSource".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let fields = generator.subschema_for::<Fields>();
        json_schema!({"description": "A folder, a Hub id (owner/name or owner/name@revision), or {id, revision}.",
            "anyOf": [{"type": "string"}, fields]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ModelSource, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn text_and_long_form_agree() {
        let pinned = ModelSource { name: "a/b".to_owned(), revision: Some("r1".to_owned()) };
        assert_eq!(parse("\"a/b@r1\"").unwrap(), pinned);
        assert_eq!(parse(r#"{"id": "a/b", "revision": "r1"}"#).unwrap(), pinned);
        assert_eq!(pinned.to_string(), "a/b@r1");
        for bad in ["\"\"", "\"@r\"", "\"a/b@\"", r#"{"id": ""}"#, r#"{"id": "a", "rev": "b"}"#, "3", "{}"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ids_are_told_from_paths() {
        let id = |name: &str| ModelSource { name: name.to_owned(), revision: None }.id().map(|(o, n)| format!("{o}|{n}"));
        assert_eq!(id("meta-llama/Llama-3.1-8B").unwrap(), "meta-llama|Llama-3.1-8B");
        assert_eq!(id("gpt2").unwrap(), "|gpt2");
        assert!(id("./no/such").unwrap_err().to_string().contains("there is no such folder"));
        for bad in ["a/b/c", "a b", "a/..", "/etc", "a/b?x", "-a/b"] {
            assert!(id(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn folders_are_relative_to_the_recipe() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("m")).unwrap();
        let based = |name: &str| ModelSource { name: name.to_owned(), revision: None }.based_at(dir.path()).name;
        assert_eq!(based("m"), dir.path().join("m").display().to_string());
        assert_eq!(based("./m"), dir.path().join("./m").display().to_string());
        assert_eq!(based("a/b"), "a/b");
    }
}
