//! Nested parts of a batch: the first few sequences, more of them, all.

use taper_model::{Batch, ModelError};

use crate::plan::Load;
use crate::{Needs, ProxyError};

/// Tokens of one pass; a batch of more is taken in pieces of whole sequences. Fixed, so that sums have one order.
pub(crate) const TOKENS: usize = 4096;

/// A batch in nested parts: each is the first so many sequences, the last is all of it.
#[derive(Debug, Clone)]
pub struct Parts<'a> {
    ids: &'a [u32],
    length: usize,
    /// Sequences of each part, rising.
    ends: Vec<usize>,
}

impl<'a> Parts<'a> {
    /// One part: all of it.
    ///
    /// # Errors
    /// If the ids are no rows of `length`.
    pub fn whole(ids: &'a [u32], length: usize) -> Result<Self, ProxyError> {
        let sequences = Batch::new(ids, length)?.sequences();
        Ok(Self { ids, length, ends: vec![sequences] })
    }

    /// Rows of `length` ids in parts of `ends` sequences.
    ///
    /// # Errors
    /// If the ids are no rows, or `ends` does not rise from 1 or more to all of them.
    pub fn new(ids: &'a [u32], length: usize, ends: &[usize]) -> Result<Self, ProxyError> {
        let whole = Self::whole(ids, length)?;
        let rises = ends.is_sorted_by(|a, b| a < b) && ends.first() > Some(&0) && ends.last() == whole.ends.last();
        if !rises {
            return Err(ProxyError::Parts { got: ends.to_vec(), sequences: whole.ends[0] });
        }
        Ok(Self { ends: ends.to_vec(), ..whole })
    }

    /// How many parts, 1 or more.
    pub fn count(&self) -> usize {
        self.ends.len()
    }

    /// Tokens up to the end of part `part`.
    pub fn tokens(&self, part: usize) -> usize {
        self.ends[part] * self.length
    }

    /// Losses up to the end of part `part`: one a token but the last of each row; 1 if there is none.
    pub(crate) fn scored(&self, part: usize) -> f64 {
        (self.ends[part] * (self.length - 1)).max(1) as f64
    }

    /// What a pass over these parts is, to be planned for.
    pub fn load(&self, needs: Needs) -> Load {
        Load::new(needs, [self.ids.len() / self.length, self.length], self.count())
    }

    /// What part `part` has more than the one before it, in pieces.
    pub(crate) fn pieces(&self, part: usize) -> Result<Vec<Batch<'a>>, ModelError> {
        let start = part.checked_sub(1).map_or(0, |before| self.tokens(before));
        let batch = Batch::new(&self.ids[start..self.tokens(part)], self.length)?;
        Ok(batch.pieces(TOKENS).collect())
    }
}
