//! The header of a safetensors file, checked before a weight is touched.
//!
//! The safetensors crate checks lengths, offsets, overlaps and sizes, and allocates no more than the header's own size.
//! It keeps the last of two equal names; here that is an error.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::Metadata;
use serde::Deserializer;
use serde::de::{Error, IgnoredAny, MapAccess, Visitor};

use crate::{ModelError, Result};

/// The metadata of the file at `path`, whose content is `bytes`, and where the tensors' data starts.
pub(crate) fn read(path: &Path, bytes: &[u8]) -> Result<(Metadata, usize)> {
    let refuse = |reason: String| ModelError::Header { path: path.to_owned(), reason };
    let (length, metadata) = SafeTensors::read_metadata(bytes).map_err(|cause| match bytes.get(..2) {
        Some(b"PK" | [0x80, _]) => refuse("is a pickle, which can run code when it is read; wanted safetensors".to_owned()),
        _ => refuse(format!("not a sound safetensors file: {cause}")),
    })?;
    let start = length + size_of::<u64>();
    let mut names = serde_json::Deserializer::from_slice(&bytes[size_of::<u64>()..start]);
    names.deserialize_map(UniqueNames).map_err(|cause| refuse(cause.to_string()))?;
    Ok((metadata, start))
}

struct UniqueNames;

impl<'de> Visitor<'de> for UniqueNames {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with one entry a tensor")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let mut seen = BTreeSet::new();
        while let Some((name, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
            if seen.contains(&name) {
                return Err(A::Error::custom(format!("tensor `{name}` is there twice")));
            }
            seen.insert(name);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(header: &str, data: usize) -> String {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        read(Path::new("m"), &bytes).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_sound_header_passes_and_hostile_ones_are_refused() {
        let entry = |name: &str, from: usize, to: usize| {
            format!(r#""{name}": {{"dtype": "F32", "shape": [{}], "data_offsets": [{from}, {to}]}}"#, (to - from) / 4)
        };
        assert_eq!(refusal(&format!("{{{}, {}}}", entry("a", 0, 4), entry("b", 4, 8)), 8), "");
        let twice = refusal(&format!("{{{}, {}}}", entry("a", 0, 4), entry("a", 0, 4)), 4);
        assert!(twice.starts_with("m: tensor `a` is there twice"), "{twice}");
        assert!(refusal(&format!("{{{}, {}}}", entry("a", 0, 8), entry("b", 4, 8)), 8).contains("not a sound"));
        assert!(refusal(&format!("{{{}}}", entry("a", 0, 8)), 4).contains("not a sound"));
        assert!(refusal("[1, 2]", 0).contains("not a sound"));
        let huge = [u64::MAX.to_le_bytes().as_slice(), b"{}"].concat();
        assert!(read(Path::new("m"), &huge).is_err());
        assert!(read(Path::new("m"), b"PK\x03\x04abcdefgh").unwrap_err().to_string().contains("is a pickle"));
        assert!(read(Path::new("m"), b"").is_err());
    }
}
