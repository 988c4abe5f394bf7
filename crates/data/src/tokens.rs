//! A batch of token sequences of one length.

use taper_base::Fingerprint;

use crate::DataError;

/// Token ids `[sequences, length]`, row after row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    ids: Vec<u32>, // [sequences, length]
    length: usize,
}

impl Tokens {
    /// The first `sequences * length` of `ids`, cut into rows.
    ///
    /// # Errors
    /// [`DataError::Shape`] for an empty batch, [`DataError::TooFewIds`] if there are not enough.
    pub fn new(mut ids: Vec<u32>, sequences: usize, length: usize) -> Result<Self, DataError> {
        let wanted = count(sequences, length)?;
        if ids.len() < wanted {
            return Err(DataError::TooFewIds { wanted, found: ids.len() });
        }
        ids.truncate(wanted);
        Ok(Self { ids, length })
    }

    /// All ids, `[sequences, length]`.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// How many rows.
    pub fn sequences(&self) -> usize {
        self.ids.len() / self.length
    }

    /// Tokens a row.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The rows, each `[length]`.
    pub fn rows(&self) -> std::slice::ChunksExact<'_, u32> {
        self.ids.chunks_exact(self.length)
    }

    /// The digest of the shape and the ids.
    pub fn fingerprint(&self) -> Fingerprint {
        let shape = format!("{} x {} {}", self.sequences(), self.length, ids_fingerprint(&self.ids));
        Fingerprint::of_bytes(shape.as_bytes())
    }
}

/// `sequences * length`, if that is a batch.
pub(crate) fn count(sequences: usize, length: usize) -> Result<usize, DataError> {
    let wanted = sequences.checked_mul(length).filter(|&wanted| wanted > 0);
    wanted.ok_or(DataError::Shape { sequences, length })
}

/// SHA-256 of ids as little-endian 32-bit words.
pub fn ids_fingerprint(ids: &[u32]) -> Fingerprint {
    Fingerprint::of_bytes(&ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_cut_into_rows_and_the_rest_is_left() {
        let tokens = Tokens::new(vec![1, 2, 3, 4, 5], 2, 2).unwrap();
        assert_eq!(tokens.rows().collect::<Vec<_>>(), [[1, 2], [3, 4]]);
        assert_eq!((tokens.sequences(), tokens.length(), tokens.ids()), (2, 2, &[1, 2, 3, 4][..]));
    }

    #[test]
    fn the_fingerprint_knows_ids_and_shape() {
        let of = |ids: &[u32], sequences, length| Tokens::new(ids.to_vec(), sequences, length).unwrap().fingerprint();
        assert_eq!(of(&[1, 2, 3, 4], 2, 2), of(&[1, 2, 3, 4, 5], 2, 2));
        assert_ne!(of(&[1, 2, 3, 4], 2, 2), of(&[1, 2, 3, 4], 1, 4));
        assert_ne!(of(&[1, 2, 3, 4], 2, 2), of(&[1, 2, 4, 3], 2, 2));
        // SHA-256 of the bytes 61 62 63 00
        let abc0 = Fingerprint::of_bytes(b"abc\0");
        assert_eq!(ids_fingerprint(&[0x0063_6261]), abc0);
    }

    #[test]
    fn too_few_ids_and_empty_batches_are_refused() {
        let error = Tokens::new(vec![1, 2, 3], 2, 2).unwrap_err();
        assert_eq!(error.to_string(), "3 token ids given, wanted 4");
        for (sequences, length) in [(0, 2), (2, 0), (usize::MAX, 2)] {
            assert!(matches!(Tokens::new(vec![1], sequences, length), Err(DataError::Shape { .. })));
        }
    }
}
