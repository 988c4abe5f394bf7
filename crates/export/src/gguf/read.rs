//! A file's header, read from a map of it. Every length is held against what is left of the file before anything is taken.

use super::format::{ALIGNMENT, Kind, MAGIC, VERSION};

/// Keys and tensors of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    /// Keys with texts; others are passed over.
    pub(crate) texts: Vec<(String, String)>,
    pub(crate) tensors: Vec<Entry>,
}

/// A tensor: its name, its shape, outermost dimension first, how and from which byte on it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    /// The kind, or the number of one that taper does not know.
    pub(crate) kind: Result<Kind, u32>,
    pub(crate) start: usize,
}

/// Most dimensions of a tensor.
const DIMENSIONS: u32 = 4;

impl Header {
    /// The header of the file whose bytes these are.
    ///
    /// # Errors
    /// What was wanted at which byte.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut reader = Reader { bytes, at: 0 };
        if reader.take(4, "the magic number")? != MAGIC {
            return Err("no GGUF file: it does not begin with `GGUF`".to_owned());
        }
        let version = reader.u32("the version")?;
        if !(2..=VERSION).contains(&version) {
            return Err(format!("its version is {version}, wanted 2 or {VERSION}"));
        }
        let (tensors, keys) = (reader.u64("the number of tensors")?, reader.u64("the number of keys")?);
        let (mut texts, mut alignment) = (Vec::new(), ALIGNMENT);
        for _ in 0..keys {
            let key = reader.text("a key")?;
            let kind = reader.u32(&key)?;
            if kind == TEXT {
                let value = reader.text(&key)?;
                texts.push((key, value));
            } else if kind == 4 && key == "general.alignment" {
                alignment = u64::from(reader.u32(&key)?);
            } else {
                reader.skip(kind, &key)?;
            }
        }
        if !alignment.is_power_of_two() || alignment > 1 << 20 {
            return Err(format!("`general.alignment` is {alignment}, wanted a power of two up to 2^20"));
        }
        let mut entries = Vec::new();
        for _ in 0..tensors {
            entries.push(reader.entry()?);
        }
        let data = (reader.at as u64).next_multiple_of(alignment) as usize;
        for entry in &mut entries {
            entry.start =
                entry.start.checked_add(data).ok_or_else(|| format!("tensor `{}`: its offset", entry.name))?;
        }
        Ok(Self { texts, tensors: entries })
    }

    /// The text of a key.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.texts.iter().find(|(own, _)| own == key).map(|(_, text)| text.as_str())
    }
}

/// Kinds of values: text, and a list.
const TEXT: u32 = 8;
const LIST: u32 = 9;

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: u64, what: &str) -> Result<&'a [u8], String> {
        let end = usize::try_from(count).ok().and_then(|count| self.at.checked_add(count));
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or_else(|| {
            let left = self.bytes.len() - self.at;
            format!("{what} at byte {} takes {count} bytes, and {left} are left", self.at)
        })?;
        self.at += taken.len();
        Ok(taken)
    }

    fn u32(&mut self, what: &str) -> Result<u32, String> {
        Ok(self.take(4, what)?.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte)))
    }

    fn u64(&mut self, what: &str) -> Result<u64, String> {
        Ok(self.take(8, what)?.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn text(&mut self, what: &str) -> Result<String, String> {
        let (at, length) = (self.at, self.u64(what)?);
        let bytes = self.take(length, what)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| format!("{what} at byte {at} is not UTF-8"))
    }

    /// Bytes of a value of a kind that has as many always.
    fn size(kind: u32) -> Option<u64> {
        match kind {
            0 | 1 | 7 => Some(1),
            2 | 3 => Some(2),
            4..=6 => Some(4),
            10..=12 => Some(8),
            _ => None,
        }
    }

    /// Passes over a value.
    fn skip(&mut self, kind: u32, key: &str) -> Result<(), String> {
        let what = format!("the value of `{key}`");
        if let Some(size) = Self::size(kind) {
            return self.take(size, &what).map(drop);
        }
        if kind != LIST {
            return Err(format!("{what} is of kind {kind}, which there is not"));
        }
        let (kind, count) = (self.u32(&what)?, self.u64(&what)?);
        match Self::size(kind) {
            Some(size) => self.take(count.saturating_mul(size), &what).map(drop),
            None if kind == TEXT => (0..count).try_for_each(|_| {
                let length = self.u64(&what)?;
                self.take(length, &what).map(drop)
            }),
            None => Err(format!("{what} is a list of kind {kind}, wanted numbers or texts")),
        }
    }

    fn entry(&mut self) -> Result<Entry, String> {
        let name = self.text("a tensor's name")?;
        let what = format!("tensor `{name}`");
        let dimensions = self.u32(&what)?;
        if dimensions > DIMENSIONS {
            return Err(format!("{what} has {dimensions} dimensions, wanted {DIMENSIONS} at most"));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            let size = self.u64(&what)?;
            shape.insert(0, usize::try_from(size).map_err(|_| format!("{what} has a dimension of {size}"))?);
        }
        let number = self.u32(&what)?;
        let start = self.u64(&what)?;
        let start = usize::try_from(start).map_err(|_| format!("{what} begins at byte {start}"))?;
        Ok(Entry { name, shape, kind: Kind::of_number(number).ok_or(number), start })
    }
}
