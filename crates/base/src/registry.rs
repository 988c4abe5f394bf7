//! One kind of registry for every family of methods: a plain table sorted by name.
//!
//! A recipe names a method by one key whose value holds that method's own parameters (`gradient-trace: {sketch_rank: 64}`);
//! `taper methods`, the recipe's schema and every "did you mean" come from the same table.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// One method of a family `T`.
pub struct Entry<T: ?Sized> {
    /// The name recipes use; also the name of the method's file.
    pub name: &'static str,
    /// One line for `taper methods`.
    pub summary: &'static str,
    /// Paper or origin.
    pub source: &'static str,
    /// The method with its parameters; `Null` stands for none given.
    pub build: fn(&Value) -> Result<Box<T>, MethodError>,
}

/// Why a method could not be made from what a recipe says.
#[derive(Debug, thiserror::Error)]
pub enum MethodError {
    /// No such name in the table.
    #[error("unknown {family} `{name}`{hint}; known: {known}")]
    Unknown {
        /// What kind of method was looked for.
        family: &'static str,
        /// The name given.
        name: String,
        /// ", did you mean `x`?" or nothing.
        hint: String,
        /// All names of the family.
        known: String,
    },
    /// The method's own parameters are wrong.
    #[error("{method}: {reason}")]
    Parameters {
        /// The method's name.
        method: &'static str,
        /// What is wrong, by name.
        reason: String,
    },
}

/// Builds the method `name` of `table`.
///
/// # Errors
/// [`MethodError::Unknown`] with the nearest known name, or what the method says of its parameters.
pub fn build<T: ?Sized>(
    family: &'static str,
    table: &[Entry<T>],
    name: &str,
    params: &Value,
) -> Result<Box<T>, MethodError> {
    let entry = table.iter().find(|entry| entry.name == name);
    let names = || table.iter().map(|entry| entry.name);
    let entry = entry.ok_or_else(|| MethodError::Unknown {
        family,
        name: name.to_owned(),
        hint: did_you_mean(name, names()),
        known: names().collect::<Vec<_>>().join(", "),
    })?;
    (entry.build)(params)
}

/// ", did you mean `x`?" for the nearest of `known`, empty if none is near.
pub fn did_you_mean<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    known
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().max(3) / 3)
        .min()
        .map(|(_, candidate)| format!(", did you mean `{candidate}`?"))
        .unwrap_or_default()
}

/// A method's strict parameter struct from what the recipe gives; nothing given means the defaults.
///
/// # Errors
/// [`MethodError::Parameters`] naming the method and the offending key or value.
pub fn params<P: DeserializeOwned>(method: &'static str, value: &Value) -> Result<P, MethodError> {
    let value = if value.is_null() { Value::Object(serde_json::Map::new()) } else { value.clone() };
    serde_json::from_value(value)
        .map_err(|cause| MethodError::Parameters { method, reason: hinted(&cause.to_string()) })
}

/// serde's "unknown field `x`, expected one of `y`, `z`" with the nearest name, in the words of other unknown names.
fn hinted(cause: &str) -> String {
    let mut quoted = cause.split('`').skip(1).step_by(2);
    match quoted.next() {
        Some(field) if cause.starts_with("unknown field `") => {
            let known: Vec<&str> = quoted.collect();
            let hint = did_you_mean(field, known.iter().copied());
            format!("unknown field `{field}`{hint}; known: {}", known.join(", "))
        }
        _ => cause.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Half {
        factor: f64,
    }
    impl Default for Half {
        fn default() -> Self {
            Self { factor: 0.5 }
        }
    }

    const TABLE: &[Entry<dyn Fn(f64) -> f64>] = &[Entry {
        name: "half",
        summary: "",
        source: "",
        build: |value| {
            let Half { factor } = params("half", value)?;
            Ok(Box::new(move |x| x * factor))
        },
    }];

    fn error(name: &str, value: Value) -> String {
        build("scale", TABLE, name, &value).err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn builds_with_defaults_and_with_parameters() {
        assert_eq!(build("scale", TABLE, "half", &Value::Null).unwrap()(8.0), 4.0);
        assert_eq!(build("scale", TABLE, "half", &serde_json::json!({"factor": 0.25})).unwrap()(8.0), 2.0);
    }

    #[test]
    fn errors_name_the_method_the_key_and_the_nearest_name() {
        assert_eq!(error("hlaf", Value::Null), "unknown scale `hlaf`, did you mean `half`?; known: half");
        assert_eq!(error("quarter", Value::Null), "unknown scale `quarter`; known: half");
        assert_eq!(
            error("half", serde_json::json!({"fctor": 1})),
            "half: unknown field `fctor`, did you mean `factor`?; known: factor"
        );
    }
}
