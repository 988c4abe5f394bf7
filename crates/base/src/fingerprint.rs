//! SHA-256 fingerprints: of bytes, of files, of anything serializable. SHA-256 because the Hub names large files by it.

use std::fmt;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A SHA-256 digest; shown and stored as 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// The digest of `bytes`.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(hex(&Sha256::digest(bytes)))
    }

    /// The digest of a file's content, read in pieces.
    ///
    /// # Errors
    /// Whatever opening or reading the file returns.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        let mut file = std::fs::File::open(path)?;
        let (mut hasher, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(Self(hex(&hasher.finalize()))),
                read => hasher.update(&buffer[..read]),
            }
        }
    }

    /// The digest of `value`'s JSON form. Maps must be ordered for it to be stable, which `BTreeMap` and structs are.
    ///
    /// # Errors
    /// If `value` has no JSON form.
    pub fn of_json<T: Serialize>(value: &T) -> serde_json::Result<Self> {
        Ok(Self::of_bytes(&serde_json::to_vec(value)?))
    }

    /// The first twelve digits, for people.
    pub fn short(&self) -> &str {
        &self.0[..self.0.len().min(12)]
    }

    /// All digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 32 bytes of the digest; digits that are none (a hand-written file) count as zero.
    pub fn to_bytes(&self) -> [u8; 32] {
        let digit = |at: usize| self.0.as_bytes().get(at).and_then(|c| (*c as char).to_digit(16)).unwrap_or(0) as u8;
        std::array::from_fn(|i| digit(2 * i) << 4 | digit(2 * i + 1))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_published_digest_of_abc() {
        let abc = Fingerprint::of_bytes(b"abc");
        assert_eq!(abc.as_str(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(abc.short(), "ba7816bf8f01");
        assert_eq!(abc.to_bytes()[..3], [0xba, 0x78, 0x16]);
    }

    #[test]
    fn a_file_and_its_bytes_agree() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        crate::files::write(&path, b"abc").unwrap();
        assert_eq!(Fingerprint::of_file(&path).unwrap(), Fingerprint::of_bytes(b"abc"));
    }
}
