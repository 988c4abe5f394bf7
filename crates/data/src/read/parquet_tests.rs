use std::path::PathBuf;
use std::sync::Arc;

use parquet::basic::{Compression, GzipLevel, ZstdLevel};
use parquet::data_type::{ByteArray, Int64Type};
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use tempfile::TempDir;

use super::*;

const TEXT: &str = "message m { required int64 id; optional byte_array text (UTF8); }";

/// A parquet file of `groups`, each a row group; ids count from 0.
fn write(path: &Path, groups: &[&[Option<&[u8]>]], properties: WriterProperties) {
    let schema = Arc::new(parse_message_type(TEXT).unwrap());
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut writer = SerializedFileWriter::new(file.reopen().unwrap(), schema, Arc::new(properties)).unwrap();
    for group in groups {
        let mut out = writer.next_row_group().unwrap();
        let mut column = out.next_column().unwrap().unwrap();
        let ids: Vec<i64> = (0..group.len() as i64).collect();
        column.typed::<Int64Type>().write_batch(&ids, None, None).unwrap();
        column.close().unwrap();
        let mut column = out.next_column().unwrap().unwrap();
        let values: Vec<ByteArray> = group.iter().flatten().map(|bytes| bytes.to_vec().into()).collect();
        let levels: Vec<i16> = group.iter().map(|value| i16::from(value.is_some())).collect();
        column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
        column.close().unwrap();
        out.close().unwrap();
    }
    writer.close().unwrap();
    std::fs::copy(file.path(), path).unwrap();
}

fn plain() -> WriterProperties {
    WriterProperties::builder().build()
}

fn place() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    (dir, path)
}

fn documents(path: &Path, field: &str) -> Result<Vec<String>, String> {
    let mut into = Vec::new();
    let folder = format!("{}/", path.parent().unwrap().display());
    read(path, field, &mut into).map(|()| into).map_err(|error| error.to_string().replace(&folder, ""))
}

#[test]
fn every_codec_encoding_and_row_group_gives_the_same_documents() {
    let (_dir, path) = place();
    let texts: Vec<String> = (0..3000).map(|n| format!("document {} é", n % 700)).collect();
    let values: Vec<Option<&[u8]>> = texts.iter().map(|text| Some(text.as_bytes())).collect();
    let codecs = [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(GzipLevel::default()),
        Compression::ZSTD(ZstdLevel::default()),
        Compression::LZ4,
        Compression::LZ4_RAW,
    ];
    for codec in codecs {
        for (dictionary, version) in [(true, WriterVersion::PARQUET_1_0), (false, WriterVersion::PARQUET_2_0)] {
            let properties = WriterProperties::builder().set_compression(codec).set_dictionary_enabled(dictionary);
            let properties = properties.set_writer_version(version).build();
            write(&path, &[&values[..1100], &[], &values[1100..]], properties);
            assert_eq!(documents(&path, "text").unwrap(), texts, "{codec} {dictionary}");
        }
    }
}

#[test]
fn errors_name_the_row_or_the_columns_there_are() {
    let (_dir, path) = place();
    write(&path, &[&[Some(b"a"), Some(b"b")], &[Some(b"c"), None]], plain());
    assert_eq!(documents(&path, "text").unwrap_err(), "a.parquet: row 3 (counted from 0): `text` is null, wanted text");
    let missing = "a.parquet: no field `txt`, did you mean `text`?; there are: id, text";
    assert_eq!(documents(&path, "txt").unwrap_err(), missing);
    assert_eq!(documents(&path, "id").unwrap_err(), "a.parquet: `id` is a column of INT64, wanted text");
    write(&path, &[&[Some(b"a")], &[Some(b"b\xff")]], plain());
    assert_eq!(documents(&path, "text").unwrap_err(), "a.parquet: row 1 (counted from 0): invalid UTF-8 at byte 1");
}

#[test]
fn a_list_of_texts_is_refused() {
    let (_dir, path) = place();
    let schema = "message m { repeated byte_array text (UTF8); }";
    let mut out = Vec::new();
    let schema = Arc::new(parse_message_type(schema).unwrap());
    SerializedFileWriter::new(&mut out, schema, Arc::new(plain())).unwrap().close().unwrap();
    taper_base::files::write(&path, &out).unwrap();
    assert_eq!(documents(&path, "text").unwrap_err(), "a.parquet: `text` is a list, wanted text");
}

#[test]
fn a_required_column_may_lie_in_a_group_and_lack_the_mark_of_text() {
    let (_dir, path) = place();
    let schema =
        Arc::new(parse_message_type("message m { required group meta { required byte_array text; } }").unwrap());
    let mut out = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut out, schema, Arc::new(plain())).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<ByteArrayType>().write_batch(&["a".into(), "".into()], None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    taper_base::files::write(&path, &out).unwrap();
    assert_eq!(documents(&path, "meta.text").unwrap(), ["a", ""]);
}

#[test]
fn data_that_lies_outside_the_file_is_an_error() {
    let (_dir, path) = place();
    let text = (0..9000_u32).map(|n| (n * n).to_string()).collect::<String>();
    write(&path, &[&[Some(text.as_bytes())]], plain());
    let whole = std::fs::read(&path).unwrap();
    // The footer's length stands before the last four bytes; the data between it and the first four is cut out.
    let footer = 8 + u32::from_le_bytes(whole[whole.len() - 8..whole.len() - 4].try_into().unwrap()) as usize;
    let cut = [b"PAR1", &whole[whole.len() - footer..]].concat();
    taper_base::files::write(&path, &cut).unwrap();
    let message =
        format!("a.parquet: damaged parquet file: a column chunk lies outside the file's {} bytes", cut.len());
    assert_eq!(documents(&path, "text").unwrap_err(), message);
}

#[test]
fn a_row_group_must_hold_the_rows_it_says() {
    let (_dir, path) = place();
    write(&path, &[&[Some(b"a"), Some(b"b")]], plain());
    let reader = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
    for (wanted, fits) in [(1, false), (2, true), (3, false)] {
        let mut rows = Rows { path: &path, field: "text", max_definition: 1, done: 0 };
        let ColumnReader::ByteArrayColumnReader(column) =
            reader.get_row_group(0).unwrap().get_column_reader(1).unwrap()
        else {
            panic!("the column holds text")
        };
        let result = rows.read(column, wanted, &mut Vec::new());
        assert_eq!(result.is_ok(), fits, "{wanted}: {result:?}");
        assert!(fits || matches!(result, Err(DataError::DamagedParquet { .. })));
    }
}

#[test]
fn a_panic_of_the_library_is_an_error() {
    let panic =
        || -> Result<(), ParquetError> { std::panic::resume_unwind(Box::new("index out of bounds".to_owned())) };
    let error = guard(Path::new("a.parquet"), panic).unwrap_err();
    assert_eq!(error.to_string(), "a.parquet: damaged parquet file: index out of bounds");
}

#[test]
fn a_truncated_file_or_one_of_another_kind_is_an_error() {
    let (_dir, path) = place();
    write(&path, &[&[Some(b"some text"), Some(b"more")]], plain());
    let whole = std::fs::read(&path).unwrap();
    for length in 0..whole.len() {
        taper_base::files::write(&path, &whole[..length]).unwrap();
        assert_eq!(documents(&path, "text").unwrap_err(), "a.parquet: not a readable parquet file", "{length} bytes");
    }
    taper_base::files::write(&path, b"PAR1 this is just some text, and not a little of it").unwrap();
    assert!(documents(&path, "text").is_err());
}

#[test]
fn no_damaged_byte_makes_the_reader_panic() {
    let (_dir, path) = place();
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    write(&path, &[&[Some(b"one"), Some(b"two"), Some(b"one")], &[Some(b"three")]], properties);
    let whole = std::fs::read(&path).unwrap();
    let wanted = documents(&path, "text").unwrap();
    let mut refused = 0;
    for at in 0..whole.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff, whole[at] ^ 1, whole[at] ^ 0x10] {
            let mut damaged = whole.clone();
            damaged[at] = value;
            // In place and without a sync: the file is rewritten thousands of times.
            std::io::Write::write_all(&mut std::fs::OpenOptions::new().write(true).open(&path).unwrap(), &damaged)
                .unwrap();
            refused += usize::from(documents(&path, "text").is_err_and(|error| !error.is_empty()));
        }
    }
    assert_eq!(wanted, ["one", "two", "one", "three"]);
    assert!(refused > whole.len() / 2, "{refused} of {} files refused", 7 * whole.len());
}
