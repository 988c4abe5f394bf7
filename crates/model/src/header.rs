//! The header of a safetensors file, checked before a weight is touched.
//!
//! The safetensors crate checks lengths, offsets, overlaps and sizes, and allocates no more than the header's own size.
//! It keeps the last of two equal names, which here is an error, and often does not say which tensor is at fault.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserializer;
use serde::de::{Error, IgnoredAny, MapAccess, Visitor};

use crate::{ModelError, Result};

/// The metadata of the file at `path`, whose content is `bytes`, and where the tensors' data starts.
pub(crate) fn read(path: &Path, bytes: &[u8]) -> Result<(Metadata, usize)> {
    let refuse = |reason: String| ModelError::Header { path: path.to_owned(), reason };
    let fault = |start: usize| {
        let entries = bytes.get(size_of::<u64>()..start).unwrap_or_default();
        serde_json::Deserializer::from_slice(entries).deserialize_map(Entries).err()
    };
    match SafeTensors::read_metadata(bytes) {
        Ok((length, metadata)) => {
            let start = length + size_of::<u64>();
            fault(start).map_or(Ok((metadata, start)), |cause| Err(refuse(cause.to_string())))
        }
        Err(_) if is_pickle(bytes) => {
            Err(refuse("is a pickle, which can run code when it is read; wanted safetensors".to_owned()))
        }
        Err(cause) => {
            let length = bytes.first_chunk().map_or(0, |length| u64::from_le_bytes(*length));
            let start = usize::try_from(length).ok().and_then(|length| length.checked_add(size_of::<u64>()));
            let named =
                fault(start.unwrap_or(0)).map(|named| named.to_string()).filter(|named| named.starts_with("tensor"));
            Err(refuse(format!("not a sound safetensors file: {}", named.unwrap_or_else(|| cause.to_string()))))
        }
    }
}

/// A zip file as torch writes it, or the bare pickle of old: protocol 2 to 5, then code where a header's length, which
/// is at most 100 MB, has zeros.
fn is_pickle(bytes: &[u8]) -> bool {
    match bytes {
        [b'P', b'K', 3, 4, ..] => true,
        [0x80, 2..=5, rest @ ..] => rest.get(2..6).is_none_or(|high| high != [0; 4]),
        _ => false,
    }
}

/// Goes through the header's entries and fails at the first that names a tensor again, is none, or whose size is wrong.
struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with one entry a tensor")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let mut seen = BTreeSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
            } else {
                let info: TensorInfo =
                    map.next_value().map_err(|cause| A::Error::custom(format!("tensor `{name}`: {cause}")))?;
                check(&info).map_err(|reason| A::Error::custom(format!("tensor `{name}` {reason}")))?;
            }
            if seen.contains(&name) {
                return Err(A::Error::custom(format!("tensor `{name}` is there twice")));
            }
            seen.insert(name);
        }
        Ok(())
    }
}

fn check(info: &TensorInfo) -> std::result::Result<(), String> {
    let (from, to) = info.data_offsets;
    let bits = info.shape.iter().try_fold(info.dtype.bitsize(), |bits, length| bits.checked_mul(*length));
    let stored = to.checked_sub(from).and_then(|bytes| bytes.checked_mul(8));
    if bits.is_some() && bits == stored {
        return Ok(());
    }
    Err(format!("of {:?} {:?} cannot be bytes {from} to {to}", info.dtype, info.shape))
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
        assert!(read(Path::new("m"), b"").is_err());
    }

    #[test]
    fn the_tensor_at_fault_is_named() {
        let refusal = |entry: &str| refusal(&format!(r#"{{"__metadata__": {{}}, "a": {entry}}}"#), 8);
        let start = "m: not a sound safetensors file: tensor `a`";
        for (entry, want) in [
            (r#"{"dtype": "F33", "shape": [2], "data_offsets": [0, 8]}"#, ": unknown variant `F33`"),
            (r#"{"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}"#, " of F32 [3] cannot be bytes 0 to 8"),
            (r#"{"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}"#, " of F32 [2] cannot be bytes 8 to 0"),
            (
                r#"{"dtype": "F32", "shape": [4294967296, 4294967296], "data_offsets": [0, 8]}"#,
                " of F32 [4294967296, 4",
            ),
            (r#"{"dtype": "F32", "shape": [2]}"#, ": missing field `data_offsets`"),
        ] {
            let refusal = refusal(entry);
            assert!(refusal.starts_with(&format!("{start}{want}")), "{refusal}");
        }
    }

    #[test]
    fn pickles_are_told_from_damaged_headers_whose_length_looks_like_one() {
        let refusal = |bytes: &[u8]| read(Path::new("m"), bytes).unwrap_err().to_string();
        for pickle in [b"PK\x03\x04abcdefgh".as_slice(), b"\x80\x02}q\x00X\x01\x00\x00.", b"\x80\x04."] {
            assert!(refusal(pickle).contains("is a pickle"), "{pickle:?}");
        }
        assert!(refusal(b"\x80\x02\0\0\0\0\0\0{}").contains("invalid header length")); // 640 bytes
    }
}
