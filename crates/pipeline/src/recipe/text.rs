//! Values with a notation of their own: amounts, shares, sizes, names, paths. Errors are placed by the YAML reader.

use std::fmt;
use std::path::PathBuf;

use schemars::{Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};
use taper_base::Bytes;

/// A scalar as written, whatever its type.
enum Scalar {
    Text(String),
    Whole(u64),
    Number(f64),
}

struct AnyScalar(&'static str);

impl Visitor<'_> for AnyScalar {
    type Value = Scalar;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(text.to_owned()))
    }
    fn visit_u64<E: Error>(self, number: u64) -> Result<Scalar, E> {
        Ok(Scalar::Whole(number))
    }
    fn visit_i64<E: Error>(self, number: i64) -> Result<Scalar, E> {
        Ok(u64::try_from(number).map_or(Scalar::Number(number as f64), Scalar::Whole))
    }
    fn visit_f64<E: Error>(self, number: f64) -> Result<Scalar, E> {
        Ok(Scalar::Number(number))
    }
}

/// `50%`, `4.5B`, `123456`.
pub(super) mod amount {
    use serde::Serializer;
    use taper_arch::budget::Amount;

    use super::*;

    const WANTED: &str = "a budget such as 50%, 4.5B, 800M or 123456";

    pub fn serialize<S: Serializer>(amount: &Option<Amount>, serializer: S) -> Result<S::Ok, S::Error> {
        match amount {
            None => serializer.serialize_none(),
            Some(amount) => serializer.collect_str(amount),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Amount>, D::Error> {
        match amount(deserializer, WANTED)?.parse().map_err(D::Error::custom)? {
            Amount::Count(0) => Err(D::Error::custom("a budget of 0 parameters leaves no model")),
            amount => Ok(Some(amount)),
        }
    }

    /// The text of an amount; a share that was written as a number gets a hint.
    pub fn amount<'de, D: Deserializer<'de>>(deserializer: D, wanted: &'static str) -> Result<String, D::Error> {
        match deserializer.deserialize_any(AnyScalar(wanted))? {
            Scalar::Text(text) => Ok(text),
            Scalar::Whole(number) => Ok(number.to_string()),
            Scalar::Number(number) if number > 0.0 && number <= 1.0 => {
                let percent = (number * 1e6).round() / 1e4; // 0.55 is shown as 55, not as 55.00000000000001
                Err(D::Error::custom(format!("{number} is no budget; did you mean `{percent}%`?")))
            }
            Scalar::Number(number) => Err(D::Error::custom(format!("{number} is not {wanted}"))),
        }
    }
}

/// `60%`, `250 ms`.
pub(super) mod time {
    use serde::Serializer;
    use taper_arch::budget::Amount;

    use super::*;

    const WANTED: &str = "a budget such as 60%, 250 ms or 1.5 s";

    pub fn serialize<S: Serializer>(amount: &Option<Amount>, serializer: S) -> Result<S::Ok, S::Error> {
        match amount {
            None => serializer.serialize_none(),
            Some(Amount::Count(nanos)) => serializer.collect_str(&format_args!("{nanos} ns")),
            Some(share) => serializer.collect_str(share),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Amount>, D::Error> {
        let text = amount::amount(deserializer, WANTED)?;
        Amount::of_time(&text).map(Some).map_err(D::Error::custom)
    }
}

/// A share in [0, 1): `2%` or 0.02.
pub(super) fn share<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    const WANTED: &str = "a share such as 2% or 0.02";
    let number = number(deserializer, WANTED)?;
    if !(0.0..1.0).contains(&number) {
        let hint = if (1.0..100.0).contains(&number) { format!("; did you mean `{number}%`?") } else { String::new() };
        return Err(D::Error::custom(format!("a share of {number} is not in 0 to 1, 1 excluded{hint}")));
    }
    Ok(number)
}

/// A share in (0, 1]: `95%` or 0.95.
pub(super) fn kept<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    const WANTED: &str = "a share such as 95% or 0.95";
    let number = number(deserializer, WANTED)?;
    if number > 0.0 && number <= 1.0 {
        return Ok(number);
    }
    let hint = if number > 1.0 && number <= 100.0 { format!("; did you mean `{number}%`?") } else { String::new() };
    Err(D::Error::custom(format!("a recovery of {number} is not in 0 to 1, 0 excluded{hint}")))
}

/// A number, or its hundredfold with a percent sign.
fn number<'de, D: Deserializer<'de>>(deserializer: D, wanted: &'static str) -> Result<f64, D::Error> {
    match deserializer.deserialize_any(AnyScalar(wanted))? {
        Scalar::Whole(number) => Ok(number as f64),
        Scalar::Number(number) => Ok(number),
        Scalar::Text(text) => {
            let percent = text.trim().strip_suffix('%').and_then(|digits| digits.trim().parse::<f64>().ok());
            Ok(percent.ok_or_else(|| D::Error::custom(format!("`{text}` is not {wanted}")))? / 100.0)
        }
    }
}

/// `5GB`, `500MB`, `2GiB`, or a number of bytes.
pub(super) fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    const WANTED: &str = "a size such as 5GB, 500MB or 2GiB";
    let text = match deserializer.deserialize_any(AnyScalar(WANTED))? {
        Scalar::Whole(number) => number.to_string(),
        Scalar::Number(number) => number.to_string(),
        Scalar::Text(text) => text,
    };
    parse_bytes(&text).ok_or_else(|| D::Error::custom(format!("`{text}` is not {WANTED}")))
}

/// Whole bytes, at least 1 and below 1e15.
fn parse_bytes(text: &str) -> Option<Bytes> {
    const UNITS: [(&str, f64); 10] = [
        ("KiB", 1024.0),
        ("MiB", 1024.0 * 1024.0),
        ("GiB", 1024.0 * 1024.0 * 1024.0),
        ("TiB", 1024.0 * 1024.0 * 1024.0 * 1024.0),
        ("kB", 1e3),
        ("KB", 1e3),
        ("MB", 1e6),
        ("GB", 1e9),
        ("TB", 1e12),
        ("B", 1.0),
    ];
    let text = text.trim();
    let unit = UNITS.iter().find_map(|(unit, scale)| text.strip_suffix(unit).map(|digits| (digits, *scale)));
    let (digits, scale) = unit.unwrap_or((text, 1.0));
    let size = digits.trim().parse::<f64>().ok()? * scale;
    ((1.0..1e15).contains(&size) && size.fract() == 0.0).then_some(Bytes(size as u64))
}

/// A run's name.
pub(super) fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    check_name(&name).map_err(D::Error::custom)?;
    Ok(name)
}

/// Refuses what is no plain folder name on some system.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() {
        return Err("an empty name".to_owned());
    }
    if let Some(other) = name.chars().find(|c| !allowed(*c)) {
        return Err(format!("{other:?} in `{}`; allowed are letters, digits, - _ and .", name.escape_debug()));
    }
    if name.starts_with('.') {
        return Err(format!("`{name}` starts with a dot"));
    }
    if name.len() > 100 {
        return Err(format!("a name of {} characters; allowed are 100", name.len()));
    }
    Ok(())
}

/// A path that is not empty.
pub(super) fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() || text.contains('\0') {
        return Err(D::Error::custom("an empty path, or one with a NUL in it"));
    }
    Ok(PathBuf::from(text))
}

/// A path that is not empty, or nothing.
pub(super) fn some_path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    Ok(Option::<Named>::deserialize(deserializer)?.map(|named| named.0))
}

/// A list of paths, none of them empty.
pub(super) fn paths<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
    Ok(Vec::<Named>::deserialize(deserializer)?.into_iter().map(|named| named.0).collect())
}

#[derive(Deserialize)]
#[serde(transparent)]
struct Named(#[serde(deserialize_with = "path")] PathBuf);

pub(super) fn amount_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "anyOf": [
        { "type": "string", "pattern": r"^\s*[0-9.]+\s*[%kKmMbBG]?\s*$" },
        { "type": "integer", "minimum": 1 },
    ]})
}

pub(super) fn time_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "pattern": r"^\s*[0-9.]+\s*(%|ns|us|ms|s)\s*$" })
}

pub(super) fn share_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "anyOf": [
        { "type": "string", "pattern": r"^\s*[0-9.]+\s*%\s*$" },
        { "type": "number", "minimum": 0, "exclusiveMaximum": 1 },
    ]})
}

pub(super) fn kept_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "anyOf": [
        { "type": "string", "pattern": r"^\s*[0-9.]+\s*%\s*$" },
        { "type": "number", "exclusiveMinimum": 0, "maximum": 1 },
    ]})
}

pub(super) fn bytes_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "anyOf": [
        { "type": "string", "pattern": r"^\s*[0-9.]+\s*([kKMGT]B|[KMGT]iB|B)?\s*$" },
        { "type": "integer", "minimum": 1 },
    ]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_decimal_unless_they_say_otherwise() {
        assert_eq!(parse_bytes("5GB"), Some(Bytes(5_000_000_000)));
        assert_eq!(parse_bytes(" 1.5 GiB"), Some(Bytes(3 << 29)));
        assert_eq!(parse_bytes("77"), Some(Bytes(77)));
        assert_eq!(parse_bytes("20 B"), Some(Bytes(20)));
        for bad in ["", "GB", "-1", "0", "1.5", "1e40", "5 gigs", "inf", "nan", "9999TB"] {
            assert_eq!(parse_bytes(bad), None, "{bad}");
        }
    }

    #[test]
    fn names_are_plain_folder_names() {
        for good in ["demo", "llama-3.1-8b-50", "_x", "1"] {
            check_name(good).unwrap();
        }
        for bad in ["", ".", "..", ".x", "a/b", "a b", "é", "a\n", &"x".repeat(101)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
