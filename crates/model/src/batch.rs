//! What goes through a model at once: sequences of tokens, or images with their labels.

use std::ops::Range;

use taper_arch::ImageSpec;

use crate::{ModelError, Result};

/// Token ids `[sequences, length]`, row after row, whose targets are the next ones; or images with the class of each. Of an image
/// all tokens make up a sequence.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    input: Input<'a>,
    length: usize,
    first: Option<&'a [u32]>,
    image: Option<ImageSpec>,
}

/// What is read.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Input<'a> {
    Tokens(&'a [u32]),
    /// `[images, channels, height, width]`, one label each.
    Images {
        pixels: &'a [f32],
        labels: &'a [u32],
    },
}

impl<'a> Batch<'a> {
    /// `ids` in rows of `length`.
    ///
    /// # Errors
    /// [`ModelError::Ids`] if that does not come out even, or is nothing.
    pub fn new(ids: &'a [u32], length: usize) -> Result<Self> {
        if length == 0 || ids.is_empty() || !ids.len().is_multiple_of(length) {
            return Err(ModelError::Ids { reason: format!("{} are no sequences of {length}", ids.len()) });
        }
        Ok(Self { input: Input::Tokens(ids), length, first: None, image: None })
    }

    /// Images of the sizes `image`, `pixels` `[images, channels, height, width]`, and the class of each.
    ///
    /// # Errors
    /// [`ModelError::Images`] if they are not as many as their labels, or none.
    pub fn images(pixels: &'a [f32], labels: &'a [u32], image: ImageSpec) -> Result<Self> {
        if labels.is_empty() || pixels.len() != labels.len() * image.pixels() {
            let (got, each) = (pixels.len(), image.pixels());
            let reason = format!("{got} numbers are no {} images of {each}", labels.len());
            return Err(ModelError::Images { reason });
        }
        Ok(Self { input: Input::Images { pixels, labels }, length: image.tokens(), first: None, image: Some(image) })
    }

    /// The same, but each token sees its own sequence from place `first` on only: the start of its document. One for each
    /// token, ascending in a sequence. Images are seen whole.
    #[must_use]
    pub fn seeing_from(self, first: &'a [u32]) -> Self {
        Self { first: Some(first), ..self }
    }

    pub(crate) fn input(&self) -> Input<'a> {
        self.input
    }

    pub(crate) fn first(&self) -> Option<&'a [u32]> {
        self.first
    }

    pub(crate) fn of_image(&self) -> Option<ImageSpec> {
        self.image
    }

    /// Tokens of each sequence.
    pub fn length(&self) -> usize {
        self.length
    }

    /// How many sequences, or images.
    pub fn sequences(&self) -> usize {
        match self.input {
            Input::Tokens(ids) => ids.len() / self.length,
            Input::Images { labels, .. } => labels.len(),
        }
    }

    /// How many losses it has.
    pub fn scored(&self) -> usize {
        match self.input {
            Input::Tokens(_) => self.sequences() * (self.length - 1),
            Input::Images { labels, .. } => labels.len(),
        }
    }

    /// The sequences `rows` of it.
    ///
    /// # Errors
    /// [`ModelError::Ids`] if there are none such.
    pub fn rows(self, rows: Range<usize>) -> Result<Self> {
        if rows.is_empty() || rows.end > self.sequences() {
            let reason = format!("{} sequences have no {} to {}", self.sequences(), rows.start, rows.end);
            return Err(ModelError::Ids { reason });
        }
        let tokens = rows.start * self.length..rows.end * self.length;
        let input = match self.input {
            Input::Tokens(ids) => Input::Tokens(&ids[tokens.clone()]),
            Input::Images { pixels, labels } => {
                let each = pixels.len() / labels.len();
                Input::Images { pixels: &pixels[rows.start * each..rows.end * each], labels: &labels[rows] }
            }
        };
        Ok(Self { input, first: self.first.and_then(|first| first.get(tokens)), ..self })
    }

    /// The same in pieces of whole sequences, each of at most `tokens` tokens but at least one sequence.
    pub fn pieces(self, tokens: usize) -> impl Iterator<Item = Self> {
        let (step, sequences) = ((tokens / self.length).max(1), self.sequences());
        (0..sequences).step_by(step).filter_map(move |start| self.rows(start..sequences.min(start + step)).ok())
    }

    /// The same in pieces of whole sequences, about as large as each other, each of about `tokens` tokens at most but at least one
    /// sequence.
    pub(crate) fn even_pieces(self, tokens: usize) -> Vec<Self> {
        let sequences = self.sequences();
        let count = (sequences * self.length).div_ceil(tokens.max(1)).clamp(1, sequences.max(1));
        self.pieces(sequences.div_ceil(count) * self.length).collect()
    }

    /// Targets and whether each counts: the next token, none after the last of a row; or the label.
    pub(crate) fn targets(&self) -> (Vec<u32>, Vec<bool>) {
        match self.input {
            Input::Images { labels, .. } => (labels.to_vec(), vec![true; labels.len()]),
            Input::Tokens(ids) => {
                let row = |row: &[u32]| -> Vec<u32> { row[1..].iter().copied().chain([0]).collect() };
                let counts = (0..ids.len()).map(|t| t % self.length != self.length - 1).collect();
                (ids.chunks(self.length).flat_map(row).collect(), counts)
            }
        }
    }
}
