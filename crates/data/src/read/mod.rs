//! One file a format: each appends the documents of one file.

mod jsonl;
mod parquet;
mod text;

use std::path::Path;

use crate::{DataError, TextSource};

pub(crate) use parquet::{guard, inside};

/// What a file's name says of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    Jsonl,
    Parquet,
}

/// The format of the file at `path`, by its extension in any case.
pub(crate) fn format(path: &Path) -> Result<Format, DataError> {
    let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
    match extension.to_str() {
        Some("txt") => Ok(Format::Text),
        Some("jsonl") => Ok(Format::Jsonl),
        Some("parquet") => Ok(Format::Parquet),
        _ => Err(DataError::Format { path: path.to_owned() }),
    }
}

/// Appends the documents of `file`, read as `source` says.
pub(crate) fn documents(file: &Path, source: &TextSource, into: &mut Vec<String>) -> Result<(), DataError> {
    match format(file)? {
        Format::Text => text::read(file, source.separator.as_deref(), into),
        Format::Jsonl => jsonl::read(file, &source.field, into),
        Format::Parquet => parquet::read(file, &source.field, into),
    }
}
