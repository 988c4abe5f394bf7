//! Nested parts of a batch: the first few sequences, more of them, all.

use taper_model::{Batch, ModelError};

use crate::plan::Load;
use crate::{Needs, ProxyError};

/// Tokens of one pass; a batch of more is taken in pieces of whole sequences. Fixed, so that sums have one order.
pub(crate) const TOKENS: usize = 4096;

/// A batch in nested parts: each is the first so many sequences, the last is all of it.
#[derive(Debug, Clone)]
pub struct Parts<'a> {
    batch: Batch<'a>,
    /// Sequences of each part, rising.
    ends: Vec<usize>,
}

impl<'a> Parts<'a> {
    /// One part: all of it.
    pub fn whole(batch: Batch<'a>) -> Self {
        Self { batch, ends: vec![batch.sequences()] }
    }

    /// A batch in parts of `ends` sequences, or images.
    ///
    /// # Errors
    /// If `ends` does not rise from 1 or more to all of them.
    pub fn new(batch: Batch<'a>, ends: &[usize]) -> Result<Self, ProxyError> {
        let sequences = batch.sequences();
        let rises = ends.is_sorted_by(|a, b| a < b) && ends.first() > Some(&0) && ends.last() == Some(&sequences);
        if !rises {
            return Err(ProxyError::Parts { got: ends.to_vec(), sequences });
        }
        Ok(Self { batch, ends: ends.to_vec() })
    }

    /// How many parts, 1 or more.
    pub fn count(&self) -> usize {
        self.ends.len()
    }

    /// Tokens up to the end of part `part`.
    pub fn tokens(&self, part: usize) -> usize {
        self.ends[part] * self.batch.length()
    }

    /// Losses up to the end of part `part`: one a token but the last of each row, or one an image; 1 if there is none.
    pub(crate) fn scored(&self, part: usize) -> f64 {
        let each = self.batch.scored() / self.batch.sequences();
        (self.ends[part] * each).max(1) as f64
    }

    /// What a pass over these parts is, to be planned for.
    pub fn load(&self, needs: Needs) -> Load {
        Load::new(needs, [self.batch.sequences(), self.batch.length()], self.count())
    }

    /// What part `part` has more than the one before it, in pieces.
    pub(crate) fn pieces(&self, part: usize) -> Result<Vec<Batch<'a>>, ModelError> {
        let start = part.checked_sub(1).map_or(0, |before| self.ends[before]);
        Ok(self.batch.rows(start..self.ends[part])?.pieces(TOKENS).collect())
    }
}
