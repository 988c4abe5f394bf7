//! What a stage's result depends on.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use taper_base::Fingerprint;

use crate::RunDirError;

/// The identity of a stage's result: same key, same result, so it need not be made again.
///
/// The fingerprint covers the release of taper, the stage, the version of its code and every input by name. A stage's own
/// version is raised by hand whenever its code changes what it makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageKey {
    stage: String,
    version: u32,
    taper: String,
    inputs: BTreeMap<String, Fingerprint>,
}

impl StageKey {
    /// The key of stage `stage` (also its folder's name), version 1, without inputs.
    pub fn new(stage: &str) -> Self {
        let taper = env!("CARGO_PKG_VERSION").to_owned();
        Self { stage: stage.to_owned(), version: 1, taper, inputs: BTreeMap::new() }
    }

    /// With another version of the stage's code.
    #[must_use]
    pub fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// With one more input: a file's or an earlier stage's fingerprint. A second input of the same name is combined with
    /// the first, never ignored.
    #[must_use]
    pub fn with(mut self, name: &str, input: &Fingerprint) -> Self {
        let input = match self.inputs.get(name) {
            Some(first) => Fingerprint::of_bytes(format!("{first}{input}").as_bytes()),
            None => input.clone(),
        };
        self.inputs.insert(name.to_owned(), input);
        self
    }

    /// With one more input: parameters by their JSON, whatever the order of its keys.
    ///
    /// # Errors
    /// [`RunDirError::Input`] if `value` has no JSON form.
    pub fn with_json<T: Serialize>(self, name: &str, value: &T) -> Result<Self, RunDirError> {
        let failed = |source| RunDirError::Input { stage: self.stage.clone(), input: name.to_owned(), source };
        let canonical = sorted(serde_json::to_value(value).map_err(failed)?);
        let input = Fingerprint::of_json(&canonical).map_err(failed)?;
        Ok(self.with(name, &input))
    }

    /// The stage.
    pub fn stage(&self) -> &str {
        &self.stage
    }

    /// The hash of everything in the key; what later stages take as their input.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut text = format!("taper {}\nstage {:?}\nversion {}\n", self.taper, self.stage, self.version);
        for (name, input) in &self.inputs {
            text.push_str(&format!("{name:?} {input}\n"));
        }
        Fingerprint::of_bytes(text.as_bytes())
    }
}

/// `value` with all keys in order: a build of serde_json may keep the order in which they were written.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let ordered: BTreeMap<String, Value> = map.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            Value::Object(ordered.into_iter().collect())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(sorted).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_part_of_a_key_changes_its_fingerprint() {
        let print = Fingerprint::of_bytes(b"x");
        let base = StageKey::new("search").with("model", &print);
        let others = [
            StageKey::new("search"),
            StageKey::new("eval").with("model", &print),
            StageKey::new("search").with("tokens", &print),
            StageKey::new("search").with("model", &Fingerprint::of_bytes(b"y")),
            base.clone().version(2),
            base.clone().with("model", &print),
            base.clone().with_json("params", &json!({"a": 1})).unwrap(),
        ];
        let mut prints: Vec<_> = others.iter().map(StageKey::fingerprint).collect();
        prints.push(base.fingerprint());
        prints.sort();
        prints.dedup();
        assert_eq!(prints.len(), others.len() + 1);
    }

    #[test]
    fn neither_the_order_of_inputs_nor_that_of_keys_matters() {
        let (x, y) = (Fingerprint::of_bytes(b"x"), Fingerprint::of_bytes(b"y"));
        let key = |params| StageKey::new("s").with("x", &x).with("y", &y).with_json("params", &params).unwrap();
        let other = |params| StageKey::new("s").with_json("params", &params).unwrap().with("y", &y).with("x", &x);
        assert_eq!(key(json!({"a": 1, "b": {"c": 2, "d": 3}})), other(json!({"b": {"d": 3, "c": 2}, "a": 1})));
    }

    #[test]
    fn parameters_without_json_are_refused_by_name() {
        let bad = BTreeMap::from([((1, 2), 3)]);
        let error = StageKey::new("search").with_json("params", &bad).unwrap_err();
        assert_eq!(error.to_string(), "stage search: its input `params` has no JSON form");
    }
}
