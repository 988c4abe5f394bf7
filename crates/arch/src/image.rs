//! What a model that reads images has instead of a vocabulary: patches, learnt tokens before them, a classifier.

use serde::{Deserialize, Serialize};

use crate::ArchError;
use crate::spec::within;

/// What the classifier sees of the residual stream after the final norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pool {
    /// The first token.
    First,
    /// Each token before the patches has a classifier of its own, and the mean of their logits is taken: DeiT, distilled.
    EachPrefix,
    /// The first token and the mean of all patches, side by side: DINOv2.
    FirstAndMean,
}

/// An image classifier's input and output: `channels · height · width` pixels in square patches, each a token, all seen by all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSpec {
    /// Height and width in pixels.
    pub size: [usize; 2],
    /// Colours.
    pub channels: usize,
    /// Side of a patch in pixels; divides both sides of the image.
    pub patch: usize,
    /// Learnt tokens before the patches: for the class, for distillation.
    pub prefix: usize,
    /// What the classifier sees.
    pub pool: Pool,
}

impl ImageSpec {
    /// Patches along height and width.
    pub fn grid(&self) -> [usize; 2] {
        self.size.map(|side| side / self.patch)
    }

    /// Patches of an image.
    pub fn patches(&self) -> usize {
        let [rows, columns] = self.grid();
        rows * columns
    }

    /// Tokens of an image.
    pub fn tokens(&self) -> usize {
        self.prefix + self.patches()
    }

    /// Numbers in a patch.
    pub fn patch_values(&self) -> usize {
        self.channels * self.patch * self.patch
    }

    /// Numbers in an image.
    pub fn pixels(&self) -> usize {
        self.channels * self.size[0] * self.size[1]
    }

    /// Tokens, or means of tokens, that the classifier sees.
    pub fn pooled(&self) -> usize {
        match self.pool {
            Pool::First => 1,
            Pool::EachPrefix => self.prefix,
            Pool::FirstAndMean => 2,
        }
    }

    pub(crate) fn validate(&self) -> Result<(), ArchError> {
        within("num_channels", self.channels, 1 << 8)?;
        within("patch_size", self.patch, 1 << 12)?;
        for side in self.size {
            within("image_size", side, 1 << 16)?;
            if !side.is_multiple_of(self.patch) {
                let (got, want) = (side.to_string(), format!("a multiple of patch_size, {}", self.patch));
                return Err(ArchError::Dimension { what: "image_size".to_owned(), got, want });
            }
        }
        within("tokens before the patches", self.prefix, 1 << 8)?;
        within("patches", self.patches(), 1 << 20)
    }
}
