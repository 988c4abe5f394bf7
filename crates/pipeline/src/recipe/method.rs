//! A method as a recipe names it: one key names it, its value holds the method's own parameters.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// A method and its parameters: `evolution`, or `evolution: {population: 30}`.
#[derive(Debug, Clone, PartialEq)]
pub struct Method {
    /// Which method.
    pub name: String,
    /// Its own parameters, an object; what it leaves out has its default.
    pub params: Value,
}

impl Method {
    /// The method `name` with its defaults.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), params: Value::Object(serde_json::Map::new()) }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name)
    }
}

impl Serialize for Method {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(&self.name, &self.params)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for Method {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneMethod;
        impl<'de> Visitor<'de> for OneMethod {
            type Value = Method;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a method, or `name: {parameters}`")
            }
            fn visit_str<E: Error>(self, name: &str) -> Result<Method, E> {
                Ok(Method::new(name))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Method, A::Error> {
                let Some((name, params)) = map.next_entry::<String, Value>()? else {
                    return Err(A::Error::custom("expected the name of a method, found nothing"));
                };
                if !params.is_object() && !params.is_null() {
                    return Err(A::Error::custom(format!("`{name}` takes named parameters: `{name}: {{key: value}}`")));
                }
                if let Some(second) = map.next_key::<String>()? {
                    let reason = format!("one key names the method, found two: `{name}` and `{second}`");
                    return Err(A::Error::custom(reason));
                }
                Ok(if params.is_null() { Method::new(&name) } else { Method { name, params } })
            }
        }
        deserializer.deserialize_any(OneMethod)
    }
}

impl JsonSchema for Method {
    fn schema_name() -> Cow<'static, str> {
        "Method".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A method: its name, or one key that is its name and holds its parameters. See `taper methods`.",
            "anyOf": [
                { "type": "string", "minLength": 1 },
                {
                    "type": "object",
                    "minProperties": 1,
                    "maxProperties": 1,
                    "additionalProperties": { "type": ["object", "null"] },
                },
            ],
        })
    }
}
