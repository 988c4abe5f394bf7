//! Documents with fields, as benchmarks have them: JSON objects from `.jsonl`, `.json` (a list of objects) and `.parquet`.

use std::fs::{self, File};
use std::path::Path;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use serde_json::{Map, Value};

use crate::DataError;
use crate::error::json_reason;
use crate::read::{guard, inside};

/// A document: its fields, in the order of their names.
pub type Record = Map<String, Value>;

/// The documents of `file`, in order. What a field holds is not looked at.
///
/// # Errors
/// [`DataError`] naming file and line, or row; a value that JSON has no word for, such as bytes, is one.
pub fn read_records(file: &Path) -> Result<Vec<Record>, DataError> {
    let extension = file.extension().unwrap_or_default().to_ascii_lowercase();
    match extension.to_str() {
        Some("jsonl") => lines(file),
        Some("json") => list(file),
        Some("parquet") => rows(file),
        _ => Err(DataError::RecordFormat { path: file.to_owned() }),
    }
}

fn text(file: &Path) -> Result<String, DataError> {
    let bytes = fs::read(file).map_err(DataError::read(file))?;
    let text = String::from_utf8(bytes).map_err(|cause| {
        let offset = cause.utf8_error().valid_up_to();
        let line = 1 + cause.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count();
        DataError::Utf8 { at: format!("{}:{line}", file.display()), offset: offset as u64 }
    })?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

fn lines(file: &Path) -> Result<Vec<Record>, DataError> {
    let text = text(file)?;
    let mut records = Vec::new();
    for (number, line) in text.split('\n').enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let at = format!("{}:{}", file.display(), number + 1);
        let value = serde_json::from_str(line)
            .map_err(|cause| DataError::Json { at: format!("{at}:{}", cause.column()), reason: json_reason(&cause) })?;
        records.push(object(value, &at)?);
    }
    Ok(records)
}

fn list(file: &Path) -> Result<Vec<Record>, DataError> {
    let path = file.display();
    let value = serde_json::from_str(&text(file)?).map_err(|cause| DataError::Json {
        at: format!("{path}:{}:{}", cause.line(), cause.column()),
        reason: json_reason(&cause),
    })?;
    let Value::Array(items) = value else {
        return Err(DataError::Json { at: path.to_string(), reason: "wanted a list of objects".to_owned() });
    };
    let items = items.into_iter().enumerate();
    items.map(|(number, item)| object(item, &format!("{path}: item {number} (counted from 0)"))).collect()
}

fn object(value: Value, at: &str) -> Result<Record, DataError> {
    match value {
        Value::Object(record) => Ok(record),
        _ => Err(DataError::Json { at: at.to_owned(), reason: "wanted an object".to_owned() }),
    }
}

fn rows(path: &Path) -> Result<Vec<Record>, DataError> {
    let file = File::open(path).map_err(DataError::read(path))?;
    let size = file.metadata().map_err(DataError::read(path))?.len();
    let reader = guard(path, || SerializedFileReader::new(file))?;
    for group in reader.metadata().row_groups() {
        group.columns().iter().try_for_each(|column| inside(path, column, size))?;
    }
    let mut iterator = guard(path, || reader.get_row_iter(None))?;
    let mut records = Vec::new();
    while let Some(row) = guard(path, || iterator.next().transpose())? {
        let number = records.len();
        let record = fields(&row).map_err(|(field, found)| DataError::Value {
            at: format!("{}: row {number} (counted from 0)", path.display()),
            field,
            found,
        })?;
        records.push(record);
    }
    Ok(records)
}

/// A field that has no JSON form, and what it holds.
type Odd = (String, String);

fn fields(row: &Row) -> Result<Record, Odd> {
    let one = |(name, field): (&String, &Field)| {
        let value = json(field).map_err(|found| (name.clone(), found))?;
        Ok((name.clone(), value))
    };
    row.get_column_iter().map(one).collect()
}

fn json(field: &Field) -> Result<Value, String> {
    let float = |x: f64| serde_json::Number::from_f64(x).map(Value::Number).ok_or_else(|| x.to_string());
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(x) => (*x).into(),
        Field::Byte(x) => (*x).into(),
        Field::Short(x) => (*x).into(),
        Field::Int(x) => (*x).into(),
        Field::Long(x) => (*x).into(),
        Field::UByte(x) => (*x).into(),
        Field::UShort(x) => (*x).into(),
        Field::UInt(x) => (*x).into(),
        Field::ULong(x) => (*x).into(),
        Field::Float(x) => float(f64::from(*x))?,
        Field::Double(x) => float(*x)?,
        Field::Str(x) => x.as_str().into(),
        Field::Group(row) => Value::Object(fields(row).map_err(|(name, found)| format!("{name}: {found}"))?),
        Field::ListInternal(list) => Value::Array(list.elements().iter().map(json).collect::<Result<_, _>>()?),
        other => return Err(format!("{other}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(name: &str, bytes: &[u8]) -> Result<Vec<Record>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        taper_base::files::write(&path, bytes).unwrap();
        read_records(&path).map_err(|error| error.to_string().replace(&format!("{}/", dir.path().display()), ""))
    }

    #[test]
    fn lines_and_lists_are_objects_in_order() {
        let want = [json!({"a": 1, "b": ["x"]}), json!({"a": null})];
        let lines = "\u{feff}{\"a\": 1, \"b\": [\"x\"]}\r\n\n{\"a\": null}\n";
        let list = "[{\"a\": 1, \"b\": [\"x\"]}, {\"a\": null}]";
        for (name, text) in [("a.jsonl", lines), ("a.JSON", list)] {
            let got: Vec<Value> = read(name, text.as_bytes()).unwrap().into_iter().map(Value::Object).collect();
            assert_eq!(got, want, "{name}");
        }
    }

    #[test]
    fn what_is_no_document_is_named_by_line() {
        let cases: [(&str, &[u8], &str); 7] = [
            ("a.jsonl", b"{\"a\": 1}\n[1]", "a.jsonl:2: wanted an object"),
            ("a.jsonl", b"{\"a\": 1}\n{\"a\" 1}", "a.jsonl:2:6: expected `:`"),
            ("a.jsonl", b"{}\n{\"a\": \"\xc3\"}", "a.jsonl:2: invalid UTF-8 at byte 10"),
            ("a.json", b"{}", "a.json: wanted a list of objects"),
            ("a.json", b"[{}, 1]", "a.json: item 1 (counted from 0): wanted an object"),
            ("a.json", b"[\n{,", "a.json:2:2: key must be a string"),
            ("a.csv", b"", "a.csv: documents are read from .jsonl, .json and .parquet files"),
        ];
        for (name, bytes, message) in cases {
            assert_eq!(read(name, bytes).unwrap_err(), message);
        }
        assert!(read("a.parquet", b"PAR1 not really").unwrap_err().contains("not a readable parquet file"));
    }
}
