//! Parquet: a document a row, from one text column of any encoding; snappy, gzip, zstd and lz4. A null row is an error.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::ByteArrayType;
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::ColumnDescriptor;

use crate::DataError;

/// Rows decoded at once.
const BATCH: usize = 1024;

/// Appends the rows of column `field` of `path`, all row groups in order.
pub(super) fn read(path: &Path, field: &str, into: &mut Vec<String>) -> Result<(), DataError> {
    let file = File::open(path).map_err(DataError::read(path))?;
    let size = file.metadata().map_err(DataError::read(path))?.len();
    let reader = guard(path, || SerializedFileReader::new(file))?;
    let schema = reader.metadata().file_metadata().schema_descr();
    let names: Vec<String> = schema.columns().iter().map(|column| column.path().string()).collect();
    let column = names
        .iter()
        .position(|name| name == field)
        .ok_or_else(|| DataError::missing_field(path.display().to_string(), field, names.iter().map(String::as_str)))?;
    let description = schema.column(column);
    is_text(path, field, &description)?;
    let mut rows = Rows { path, field, max_definition: description.max_def_level(), done: 0 };
    for group in 0..reader.num_row_groups() {
        let group = guard(path, || reader.get_row_group(group))?;
        inside(path, group.metadata().column(column), size)?;
        let wanted = group.metadata().num_rows();
        let wanted =
            u64::try_from(wanted).map_err(|cause| damaged(path, format!("a row group of {wanted} rows: {cause}")))?;
        match guard(path, || group.get_column_reader(column))? {
            ColumnReader::ByteArrayColumnReader(reader) => rows.read(reader, wanted, into)?,
            _ => return Err(not_text(path.display().to_string(), field, "another type in one row group")),
        }
    }
    Ok(())
}

fn is_text(path: &Path, field: &str, column: &ColumnDescriptor) -> Result<(), DataError> {
    let found = match column.physical_type() {
        Type::BYTE_ARRAY if column.max_rep_level() == 0 => return Ok(()),
        Type::BYTE_ARRAY => "a list".to_owned(),
        other => format!("a column of {other}"),
    };
    Err(not_text(path.display().to_string(), field, &found))
}

/// The reader trusts these offsets: it panics on negative ones, and allocates before it reads.
pub(crate) fn inside(path: &Path, chunk: &ColumnChunkMetaData, size: u64) -> Result<(), DataError> {
    let starts = [Some(chunk.data_page_offset()), chunk.dictionary_page_offset()];
    let length = u64::try_from(chunk.compressed_size()).ok();
    let fits = |start: i64| Some(u64::try_from(start).ok()?.checked_add(length?)? <= size);
    let first = starts.into_iter().flatten().min().unwrap_or_default();
    if fits(first) == Some(true) && starts.into_iter().flatten().all(|start| start >= 0) {
        return Ok(());
    }
    Err(damaged(path, format!("a column chunk lies outside the file's {size} bytes")))
}

/// Where the reading of one column stands.
struct Rows<'a> {
    path: &'a Path,
    field: &'a str,
    /// A value below this definition level is null.
    max_definition: i16,
    done: u64,
}

impl Rows<'_> {
    /// Reads one row group, which says it has `wanted` rows.
    fn read(
        &mut self,
        mut reader: ColumnReaderImpl<ByteArrayType>,
        wanted: u64,
        into: &mut Vec<String>,
    ) -> Result<(), DataError> {
        let end = self.done.saturating_add(wanted);
        let (mut definitions, mut values) = (Vec::new(), Vec::new());
        loop {
            definitions.clear();
            values.clear();
            let (rows, ..) =
                guard(self.path, || reader.read_records(BATCH, Some(&mut definitions), None, &mut values))?;
            if let Some(null) = definitions.iter().position(|level| *level < self.max_definition) {
                return Err(not_text(self.row(null), self.field, "null"));
            }
            if rows == 0 || values.len() != rows {
                break;
            }
            for (place, value) in values.iter().enumerate() {
                let text = std::str::from_utf8(value.data())
                    .map_err(|cause| DataError::Utf8 { at: self.row(place), offset: cause.valid_up_to() as u64 })?;
                into.push(text.to_owned());
            }
            self.done += rows as u64;
        }
        if self.done == end {
            return Ok(());
        }
        Err(damaged(self.path, format!("a row group ends at row {}, wanted {end}", self.done)))
    }

    fn row(&self, place: usize) -> String {
        format!("{}: row {} (counted from 0)", self.path.display(), self.done + place as u64)
    }
}

/// Runs a piece of the parquet library. It is meant to return errors, yet asserts some of what a damaged file can break.
pub(crate) fn guard<T>(path: &Path, work: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, DataError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|cause| DataError::Parquet { path: path.to_owned(), cause }),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(damaged(path, text.unwrap_or_else(|| "the reader gave up".to_owned())))
        }
    }
}

fn damaged(path: &Path, reason: String) -> DataError {
    DataError::DamagedParquet { path: path.to_owned(), reason }
}

fn not_text(at: String, field: &str, found: &str) -> DataError {
    DataError::NotText { at, field: field.to_owned(), found: found.to_owned() }
}

#[cfg(test)]
#[path = "parquet_tests.rs"]
mod tests;
