//! Plain text: documents with a separator between them.

use std::fs;
use std::path::Path;

use crate::DataError;

/// Appends the documents of `file`. A byte order mark at the start is no text and goes. In a file whose lines end with
/// CRLF, so do those of the separator.
pub(super) fn read(file: &Path, separator: Option<&str>, into: &mut Vec<String>) -> Result<(), DataError> {
    let bytes = fs::read(file).map_err(DataError::read(file))?;
    let text = String::from_utf8(bytes).map_err(|cause| DataError::Utf8 {
        at: file.display().to_string(),
        offset: cause.utf8_error().valid_up_to() as u64,
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    match separator {
        Some(separator) if text.contains("\r\n") && separator.contains('\n') && !text.contains(separator) => {
            into.extend(text.split(&separator.replace('\n', "\r\n")).map(str::to_owned));
        }
        Some(separator) => into.extend(text.split(separator).map(str::to_owned)),
        None => into.push(text.to_owned()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(bytes: &[u8], separator: Option<&str>) -> Result<Vec<String>, DataError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        taper_base::files::write(&path, bytes).unwrap();
        let mut into = Vec::new();
        read(&path, separator, &mut into).map(|()| into)
    }

    #[test]
    fn documents_end_where_the_separator_begins() {
        let text = b"\xef\xbb\xbfone\n<|endoftext|>\ntwo";
        assert_eq!(documents(text, Some("<|endoftext|>")).unwrap(), ["one\n", "\ntwo"]);
        assert_eq!(documents(text, None).unwrap(), ["one\n<|endoftext|>\ntwo"]);
    }

    #[test]
    fn lines_that_end_with_crlf_have_separators_that_do() {
        assert_eq!(documents(b"one\r\ntwo\r\n\r\nthree\r\n", Some("\n\n")).unwrap(), ["one\r\ntwo", "three\r\n"]);
        assert_eq!(documents(b"one\r\nx\n\ntwo", Some("\n\n")).unwrap(), ["one\r\nx", "two"]);
    }

    #[test]
    fn invalid_utf8_is_located() {
        let error = documents(b"ab\xff", None).unwrap_err();
        assert!(error.to_string().ends_with("a.txt: invalid UTF-8 at byte 2"), "{error}");
    }
}
