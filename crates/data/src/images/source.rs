//! Where images come from, as a recipe says it: a path, or `{path, dataset, image, label}`.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::source::OneOrMore;

/// Images, here or in a Hub dataset. In a recipe a path, or `{path, dataset, image, label}`.
///
/// A path is a `.parquet` or `.safetensors` file, a `.csv` list, an image, or a folder: with a `labels.csv`, of images (without
/// labels), of parquet files, or of folders, one a class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageSource {
    /// Files and folders, one after the other.
    #[serde(rename = "path")]
    pub paths: Vec<PathBuf>,
    /// The Hub dataset (`owner/name`, `owner/name@revision`) that the paths are files of; `None`: they are here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataset: Option<String>,
    /// The column of a parquet file that holds the images; `None`: `image` or `img`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The column of a parquet file that holds the labels; `None`: `label`, `labels` or `fine_label`, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// The long form in a recipe.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ImageFields")]
struct Fields {
    /// A .parquet or .safetensors file, a .csv list, a folder (labels.csv, images, or a folder a class), or a list of such.
    path: OneOrMore,
    /// A dataset on the Hub, owner/name or owner/name@revision; then path names files of it.
    #[serde(default)]
    dataset: Option<String>,
    /// The column of a .parquet file that holds the images; by default image or img.
    #[serde(default)]
    image: Option<String>,
    /// The column of a .parquet file that holds the labels; by default label, labels or fine_label.
    #[serde(default)]
    label: Option<String>,
}

impl ImageSource {
    /// The images at `path`, in columns of the usual names.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { paths: vec![path.into()], dataset: None, image: None, label: None }
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
}

impl fmt::Display for ImageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths: Vec<_> = self.paths.iter().map(|path| path.display().to_string()).collect();
        f.write_str(&paths.join(", "))?;
        self.dataset.as_ref().map_or(Ok(()), |dataset| write!(f, " of {dataset}"))
    }
}

impl<'de> Deserialize<'de> for ImageSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Source;
        impl<'de> Visitor<'de> for Source {
            type Value = ImageSource;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the path of a file or folder of images, or {path, dataset, image, label}")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<ImageSource, E> {
                if text.is_empty() { Err(E::custom("an empty path")) } else { Ok(ImageSource::new(text)) }
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ImageSource, A::Error> {
                let Fields { path, dataset, image, label } = Fields::deserialize(MapAccessDeserializer::new(map))?;
                for (name, value) in [("dataset", &dataset), ("image", &image), ("label", &label)] {
                    if value.as_ref().is_some_and(String::is_empty) {
                        return Err(A::Error::custom(format_args!("an empty name for `{name}`")));
                    }
                }
                Ok(ImageSource { paths: path.0, dataset, image, label })
            }
        }
        deserializer.deserialize_any(Source)
    }
}

impl JsonSchema for ImageSource {
    fn schema_name() -> Cow<'static, str> {
        "ImageSource".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let fields = generator.subschema_for::<Fields>();
        json_schema!({
            "description": "Images (folder, .parquet, .safetensors, .csv): a path, or {path, dataset, image, label}.",
            "anyOf": [{ "type": "string", "minLength": 1 }, fields],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: serde_json::Value) -> Result<ImageSource, String> {
        serde_json::from_value(value).map_err(|cause| cause.to_string())
    }

    #[test]
    fn a_path_alone_or_all_keys() {
        assert_eq!(parse(json!("a/b")).unwrap(), ImageSource::new("a/b"));
        let long = parse(json!({"path": ["a", "./b"], "image": "img", "label": "fine_label"})).unwrap();
        let based = long.based_at(Path::new("/r"));
        assert_eq!(based.paths, [Path::new("/r/a"), Path::new("/r/b")]);
        assert_eq!((based.image.as_deref(), based.label.as_deref()), (Some("img"), Some("fine_label")));
        assert_eq!(based.to_string(), "/r/a, /r/b");
        assert_eq!(serde_json::to_value(ImageSource::new("a")).unwrap(), json!({"path": ["a"]}));
    }

    #[test]
    fn paths_of_a_dataset_stay_as_they_are() {
        let source = parse(json!({"path": "data/a.parquet", "dataset": "o/n"})).unwrap().based_at(Path::new("/r"));
        assert_eq!(source.to_string(), "data/a.parquet of o/n");
    }

    #[test]
    fn empty_names_and_unknown_keys_are_refused() {
        assert!(parse(json!("")).unwrap_err().contains("an empty path"));
        assert!(parse(json!({"path": "a", "label": ""})).unwrap_err().contains("an empty name for `label`"));
        assert!(parse(json!({"path": "a", "lable": "x"})).unwrap_err().contains("unknown field `lable`"));
        assert!(parse(json!(3)).unwrap_err().contains("the path of a file or folder of images"));
    }
}
