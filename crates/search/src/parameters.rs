//! Strict parameters whose every refusal names the key.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::Value;
use taper_base::registry::{MethodError, params};

/// As [`params`], for structs that have a default for every field; a value of the wrong type is refused with its key too.
pub(crate) fn parse<P: DeserializeOwned>(method: &'static str, value: &Value) -> Result<P, MethodError> {
    let whole = params::<P>(method, value);
    let Value::Object(fields) = value else { return whole };
    whole.map_err(|refusal| {
        let alone = |(key, value): (&String, &Value)| {
            let only = Value::Object([(key.clone(), value.clone())].into_iter().collect());
            let cause = serde_json::from_value::<P>(only).err()?.to_string();
            let named = cause.contains(&format!("`{key}`"));
            let reason = if named { cause } else { format!("`{key}`: {cause}") };
            Some(MethodError::Parameters { method, reason })
        };
        fields.iter().find_map(alone).unwrap_or(refusal)
    })
}

/// Refuses `value` of `key` unless `holds`.
pub(crate) fn want(
    method: &'static str,
    key: &str,
    value: &dyn fmt::Display,
    holds: bool,
    wanted: &str,
) -> Result<(), MethodError> {
    let refusal = || MethodError::Parameters { method, reason: format!("`{key}` is {value}, wanted {wanted}") };
    if holds { Ok(()) } else { Err(refusal()) }
}
