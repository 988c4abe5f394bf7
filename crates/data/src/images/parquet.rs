//! Parquet files as the Hub has them: encoded images in a column of bytes, or of `{bytes, path}`, and integers as labels.
//!
//! The file's `huggingface` note names the classes.

use std::fs::File;
use std::path::Path;

use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::DataType;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::SchemaDescriptor;
use serde_json::Value;

use super::ImageSource;
use super::collection::{Content, Item, Part};
use super::tensors::label;
use crate::DataError;
use crate::read::{guard, inside};

/// Rows decoded at once: images are large.
const BATCH: usize = 64;

pub(super) fn read(path: &Path, source: &ImageSource) -> Result<Part, DataError> {
    let file = File::open(path).map_err(DataError::read(path))?;
    let size = file.metadata().map_err(DataError::read(path))?.len();
    let reader = guard(path, || SerializedFileReader::new(file))?;
    let notes = reader.metadata().file_metadata();
    let (images, labels) = columns(path, notes.schema_descr(), source)?;
    let mut part = Part::default();
    for group in 0..reader.num_row_groups() {
        let group = guard(path, || reader.get_row_group(group))?;
        let column = |column: usize| {
            inside(path, group.metadata().column(column), size)?;
            guard(path, || group.get_column_reader(column))
        };
        let encoded = match column(images)? {
            ColumnReader::ByteArrayColumnReader(reader) => values(path, reader)?,
            _ => return Err(bad(path, "the images are no bytes".to_owned())),
        };
        let numbers: Vec<Option<i64>> = match labels.map(&column).transpose()? {
            None => vec![None; encoded.len()],
            Some(ColumnReader::Int64ColumnReader(reader)) => values(path, reader)?,
            Some(ColumnReader::Int32ColumnReader(reader)) => {
                values(path, reader)?.into_iter().map(|number| number.map(i64::from)).collect()
            }
            Some(_) => return Err(bad(path, "the labels are no whole numbers".to_owned())),
        };
        if numbers.len() != encoded.len() {
            return Err(bad(path, format!("{} images and {} labels in a row group", encoded.len(), numbers.len())));
        }
        for (image, number) in encoded.into_iter().zip(numbers) {
            let name = format!("{}: row {} (counted from 0)", path.display(), part.items.len());
            let Some(image) = image else {
                let reason = "no image, or one that is not in the file itself".to_owned();
                return Err(DataError::ImageSet { at: name, reason });
            };
            let label = number.map_or(Ok(None), |number| label(number, &name))?;
            part.items.push(Item { name, label, content: Content::Encoded(image) });
        }
    }
    let label_name = labels.map(|column| notes.schema_descr().column(column).name().to_owned());
    let note = notes.key_value_metadata().and_then(|notes| notes.iter().find(|note| note.key == "huggingface"));
    part.classes = note.and_then(|note| classes(note.value.as_deref()?, &label_name?));
    Ok(part)
}

/// The places of the images' and the labels' columns.
fn columns(path: &Path, schema: &SchemaDescriptor, source: &ImageSource) -> Result<(usize, Option<usize>), DataError> {
    let names: Vec<String> = schema.columns().iter().map(|column| column.path().string()).collect();
    let place = |wanted: &str| names.iter().position(|name| name == wanted);
    let image = |wanted: &str| place(wanted).or_else(|| place(&format!("{wanted}.bytes")));
    let missing =
        |wanted: &str| DataError::missing_field(path.display().to_string(), wanted, names.iter().map(String::as_str));
    let images = match &source.image {
        Some(name) => image(name).ok_or_else(|| missing(name)),
        None => image("image").or_else(|| image("img")).ok_or_else(|| missing("image")),
    }?;
    let labels = match &source.label {
        Some(name) => Some(place(name).ok_or_else(|| missing(name))?),
        None => ["label", "labels", "fine_label"].into_iter().find_map(place),
    };
    for column in [Some(images), labels].into_iter().flatten() {
        if schema.column(column).max_rep_level() > 0 {
            return Err(bad(path, format!("`{}` is a list", names[column])));
        }
    }
    Ok((images, labels))
}

/// All values of a column in one row group, null where there is none.
fn values<T: DataType>(path: &Path, mut reader: ColumnReaderImpl<T>) -> Result<Vec<Option<T::T>>, DataError> {
    let mut all = Vec::new();
    let (mut definitions, mut values) = (Vec::new(), Vec::new());
    loop {
        definitions.clear();
        values.clear();
        let (rows, found, _) = guard(path, || reader.read_records(BATCH, Some(&mut definitions), None, &mut values))?;
        if rows == 0 {
            return Ok(all);
        }
        if definitions.is_empty() {
            all.extend(values.drain(..).map(Some)); // a required column has no levels
            continue;
        }
        let whole = definitions.iter().copied().max().unwrap_or_default();
        let mut values = values.drain(..);
        if found == 0 {
            all.extend(definitions.iter().map(|_| None));
        } else {
            all.extend(definitions.iter().map(|level| if *level == whole { values.next() } else { None }));
        }
    }
}

/// The names of the classes of `label`, from what the `datasets` library writes.
fn classes(note: &str, label: &str) -> Option<Vec<String>> {
    let note: Value = serde_json::from_str(note).ok()?;
    let names = note.get("info")?.get("features")?.get(label)?.get("names")?.as_array()?;
    names.iter().map(|name| name.as_str().map(str::to_owned)).collect()
}

fn bad(path: &Path, reason: String) -> DataError {
    DataError::ImageSet { at: path.display().to_string(), reason }
}
