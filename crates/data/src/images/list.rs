//! A list of images: a `.csv` file with the columns `file` and, if they are labelled, `label` and `class`.
//!
//! Labels are numbers, which `class` may name, or the names themselves, numbered in their order. A row without a file is about
//! an image that is elsewhere, as in a `.safetensors` file beside the list, and left out.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use csv::{ReaderBuilder, StringRecord};

use super::collection::{Item, Part};
use super::tensors::label;
use crate::DataError;

/// A row of the list, and its line.
struct Row {
    at: String,
    file: String,
    label: Option<String>,
    class: Option<String>,
}

pub(super) fn read(path: &Path) -> Result<Part, DataError> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let rows = rows(path)?;
    let (labels, classes) = match numbers(&rows)? {
        Some(numbers) => {
            let classes = named(&rows, &numbers)?;
            (numbers, classes)
        }
        None => by_name(&rows),
    };
    let mut items = Vec::with_capacity(rows.len());
    for (row, label) in rows.iter().zip(labels) {
        let file = Path::new(&row.file);
        if !file.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
            let reason = format!("`file` is {}, wanted a path below the list's folder", row.file);
            return Err(DataError::ImageSet { at: row.at.clone(), reason });
        }
        items.push(Item::file(folder.join(file), label));
    }
    if items.is_empty() {
        let reason = "no row names a file".to_owned();
        return Err(DataError::ImageSet { at: path.display().to_string(), reason });
    }
    Ok(Part { items, classes })
}

fn rows(path: &Path) -> Result<Vec<Row>, DataError> {
    let at = path.display().to_string();
    let damaged = |cause: csv::Error| DataError::ImageSet { at: at.clone(), reason: cause.to_string() };
    let bytes = std::fs::read(path).map_err(DataError::read(path))?;
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let mut reader = ReaderBuilder::new().from_reader(text);
    let names = reader.headers().map_err(damaged)?.clone();
    let column = |name: &str| names.iter().position(|other| other.trim().eq_ignore_ascii_case(name));
    let Some(file) = column("file").or_else(|| column("file_name")) else {
        return Err(DataError::missing_field(at, "file", names.iter()));
    };
    let (labels, classes) = (column("label"), column("class"));
    let mut rows = Vec::new();
    for record in reader.records() {
        let record: StringRecord = record.map_err(damaged)?;
        let cell = |column: usize| record.get(column).map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned);
        let Some(file) = cell(file) else { continue };
        let line = record.position().map_or(0, csv::Position::line);
        rows.push(Row {
            at: format!("{at}:{line}"),
            file,
            label: labels.and_then(cell),
            class: classes.and_then(cell),
        });
    }
    Ok(rows)
}

/// The labels as numbers; `None` if one is a name.
fn numbers(rows: &[Row]) -> Result<Option<Vec<Option<u32>>>, DataError> {
    let mut numbers = Vec::with_capacity(rows.len());
    for row in rows {
        let Some(text) = &row.label else {
            numbers.push(None);
            continue;
        };
        let Ok(number) = text.parse() else { return Ok(None) };
        numbers.push(label(number, &row.at)?);
    }
    Ok(Some(numbers))
}

/// The classes that the column `class` gives to the numbers, if it is there: those that no row is of are their numbers.
fn named(rows: &[Row], numbers: &[Option<u32>]) -> Result<Option<Vec<String>>, DataError> {
    let mut names = BTreeMap::<u32, &str>::new();
    for (row, number) in rows.iter().zip(numbers) {
        let (Some(number), Some(class)) = (number, &row.class) else { continue };
        let known = names.entry(*number).or_insert(class);
        if *known != class {
            let reason = format!("label {number} is {class}, but {known} above");
            return Err(DataError::ImageSet { at: row.at.clone(), reason });
        }
    }
    let Some(most) = numbers.iter().flatten().max().filter(|_| !names.is_empty()) else { return Ok(None) };
    if *most >= 1 << 20 {
        return Ok(None); // refused later, with all other labels that large
    }
    Ok(Some(
        (0..=*most).map(|label| names.get(&label).map_or_else(|| label.to_string(), |&name| name.to_owned())).collect(),
    ))
}

/// The labels of names, and the names.
fn by_name(rows: &[Row]) -> (Vec<Option<u32>>, Option<Vec<String>>) {
    let mut names: Vec<String> = rows.iter().filter_map(|row| row.label.clone()).collect();
    names.sort();
    names.dedup();
    let place = |label: &String| names.binary_search(label).ok().and_then(|place| u32::try_from(place).ok());
    (rows.iter().map(|row| row.label.as_ref().and_then(place)).collect(), Some(names))
}
