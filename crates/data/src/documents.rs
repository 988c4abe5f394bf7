//! The documents of a text source, in memory.

use taper_base::Fingerprint;

use crate::{DataError, Shares, Split, TextSource, read};

/// Documents in the order of their files. Each is as its file has it, byte for byte; those of white space only are dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Documents {
    name: String,
    documents: Vec<String>,
}

impl Documents {
    /// Reads all of `source`; the corpus is held in memory once.
    ///
    /// # Errors
    /// Whatever [`TextSource::files`] and the file formats refuse; [`DataError::NoDocuments`] if nothing is left.
    pub fn read(source: &TextSource) -> Result<Self, DataError> {
        let mut documents = Vec::new();
        for file in source.files()? {
            read::documents(&file, source, &mut documents)?;
        }
        Self::new(source.to_string(), documents)
    }

    /// `documents` made elsewhere; errors call them `name`.
    ///
    /// # Errors
    /// [`DataError::NoDocuments`] if all are white space or there are none.
    pub fn new(name: impl Into<String>, mut documents: Vec<String>) -> Result<Self, DataError> {
        let name = name.into();
        documents.retain(|document| !document.trim().is_empty());
        if documents.is_empty() { Err(DataError::NoDocuments { text: name }) } else { Ok(Self { name, documents }) }
    }

    /// Where they come from.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All documents, never none.
    pub fn all(&self) -> &[String] {
        &self.documents
    }

    /// The documents that `shares` put into `split`, in order.
    pub fn of_split(&self, shares: &Shares, split: Split) -> Vec<&str> {
        let documents = self.documents.iter().map(String::as_str);
        documents.filter(|document| shares.split_of(document) == split).collect()
    }

    /// The digest of all documents and their boundaries: what a stage's key depends on.
    pub fn fingerprint(&self) -> Fingerprint {
        let each: Vec<_> = self.documents.iter().map(|text| Fingerprint::of_bytes(text.as_bytes())).collect();
        Fingerprint::of_bytes(each.iter().map(Fingerprint::as_str).collect::<String>().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_follow_each_other_and_the_separator_is_part_of_no_document() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| taper_base::files::write(&dir.path().join(name), text.as_bytes()).unwrap();
        write("1.txt", "one\nline two\n\n\n\n \n\ntwo\n");
        write("0.jsonl", "{\"text\": \"zero\\n\\nstill zero\"}\n");
        let mut source = TextSource::new(dir.path());
        assert_eq!(Documents::read(&source).unwrap().all(), ["zero\n\nstill zero", "one\nline two", "two\n"]);
        source.separator = None;
        let whole = Documents::read(&source).unwrap();
        assert_eq!(whole.all(), ["zero\n\nstill zero", "one\nline two\n\n\n\n \n\ntwo\n"]);
        assert_eq!(whole.name(), dir.path().display().to_string());
    }

    #[test]
    fn nothing_but_white_space_is_an_error() {
        let error = Documents::new("x.txt", vec![String::new(), " \n".to_owned()]).unwrap_err();
        assert_eq!(error.to_string(), "x.txt: no document in it");
    }

    #[test]
    fn the_fingerprint_knows_order_and_boundaries() {
        let of =
            |texts: &[&str]| Documents::new("", texts.iter().map(|&t| t.to_owned()).collect()).unwrap().fingerprint();
        assert_eq!(of(&["a", "b"]), of(&["a", "b"]));
        assert_ne!(of(&["a", "b"]), of(&["b", "a"]));
        assert_ne!(of(&["a", "b"]), of(&["ab"]));
    }
}
