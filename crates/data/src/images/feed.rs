//! Images without end, for training: all of them in a new order time after time, perhaps shifted and mirrored.
//!
//! Example `i` is image `order_e[i mod n]` of time `e = i / n`, `order_e` shuffled by the stream `(seed, "image feed", e)`. It is
//! shifted by up to `shift` pixels each way, what comes in black (torchvision's `RandomCrop` with padding), and mirrored with
//! probability ½, by the stream `(seed, "augment", i)`. So an example depends on its number alone, and nothing has to be kept of
//! where a training stood.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use taper_base::rng::{self, RngExt, seq::SliceRandom};

use super::{Image, Images, Processor};
use crate::DataError;

/// What is done to an image at random.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Augment {
    /// Pixels it is shifted by each way, at most.
    #[schemars(range(min = 0, max = 4096))]
    pub shift: usize,
    /// Whether every other one is mirrored.
    pub mirror: bool,
}

/// Labelled images to train on.
#[derive(Debug, Clone)]
pub struct ImageFeed<'a> {
    images: &'a Images,
    processor: &'a Processor,
    places: Vec<usize>,
    labels: Vec<u32>,
    augment: Augment,
    seed: u64,
}

impl<'a> ImageFeed<'a> {
    /// The images at `places`, of the classes `labels`.
    ///
    /// # Errors
    /// [`DataError::NothingToTrain`] if there are none.
    pub fn new(
        (images, processor): (&'a Images, &'a Processor),
        (places, labels): (Vec<usize>, Vec<u32>),
        augment: Augment,
        seed: u64,
    ) -> Result<Self, DataError> {
        if places.is_empty() || places.len() != labels.len() {
            return Err(DataError::NothingToTrain { text: images.source().to_owned() });
        }
        Ok(Self { images, processor, places, labels, augment, seed })
    }

    /// How many images there are, never none.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Pixels, `[count, 3, height, width]`, and classes of the examples `from..from + count`.
    ///
    /// # Errors
    /// If an image cannot be read, or they differ in size.
    pub fn examples(&self, from: u64, count: u64) -> Result<(Vec<f32>, Vec<u32>), DataError> {
        let n = self.places.len() as u64;
        let orders: Vec<Vec<usize>> = (from / n..=(from + count.max(1) - 1) / n).map(|time| self.order(time)).collect();
        let chosen: Vec<(u64, usize)> = (from..from + count)
            .map(|index| (index, orders[(index / n - from / n) as usize][(index % n) as usize]))
            .collect();
        let one = |&(index, at): &(u64, usize)| {
            let fitted = self.processor.fitted(&self.images.decode(self.places[at])?)?;
            let changed = self.changed(&fitted, index);
            Ok((at, [fitted.height(), fitted.width()], self.processor.scaled(changed.as_ref().unwrap_or(&fitted))))
        };
        let made: Vec<_> = chosen.par_iter().map(one).collect::<Result<_, DataError>>()?;
        if let Some((at, found, _)) = made.iter().find(|(_, size, _)| *size != made[0].1) {
            let (image, wanted) = (self.images.name(self.places[*at]).to_owned(), made[0].1);
            return Err(DataError::UnequalImages { image, found: *found, wanted });
        }
        let labels = made.iter().map(|(at, _, _)| self.labels[*at]).collect();
        Ok((made.into_iter().flat_map(|(_, _, numbers)| numbers).collect(), labels))
    }

    fn order(&self, time: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.places.len()).collect();
        order.shuffle(&mut rng::stream(self.seed, "image feed", time, 0));
        order
    }

    /// Shifted and mirrored; `None` if nothing is to be done.
    fn changed(&self, image: &Image, index: u64) -> Option<Image> {
        let Augment { shift, mirror } = self.augment;
        if shift == 0 && !mirror {
            return None;
        }
        let mut rng = rng::stream(self.seed, "augment", index, 0);
        let mut by = || rng.random_range(0..=2 * shift) as isize - shift as isize;
        let (down, right) = (by(), by());
        let mirrored = mirror && rng.random::<bool>();
        Some(moved(image, [down, right], mirrored))
    }
}

/// `image` moved down and to the right, black where nothing was, then mirrored.
fn moved(image: &Image, [down, right]: [isize; 2], mirrored: bool) -> Image {
    let (height, width) = (image.height(), image.width());
    let mut pixels = vec![0; 3 * height * width];
    let source = |at: usize, by: isize, side: usize| {
        let from = at as isize - by;
        usize::try_from(from).ok().filter(|from| *from < side)
    };
    for (y, row) in pixels.chunks_exact_mut(3 * width).enumerate() {
        let Some(from_y) = source(y, down, height) else { continue };
        for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
            let x = if mirrored { width - 1 - x } else { x };
            if let Some(from_x) = source(x, right, width) {
                let at = 3 * (from_y * width + from_x);
                pixel.copy_from_slice(&image.pixels()[at..at + 3]);
            }
        }
    }
    Image::new(height, width, pixels).unwrap_or_else(|| image.clone()) // of the same size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_moved_and_then_mirrored() {
        let image = Image::new(2, 3, [1, 2, 3, 4, 5, 6].iter().flat_map(|x| [*x; 3]).collect()).unwrap();
        let grey = |image: &Image| -> Vec<u8> { image.pixels().chunks(3).map(|pixel| pixel[0]).collect() };
        assert_eq!(grey(&moved(&image, [0, 0], false)), [1, 2, 3, 4, 5, 6]);
        assert_eq!(grey(&moved(&image, [1, -1], false)), [0, 0, 0, 2, 3, 0]);
        assert_eq!(grey(&moved(&image, [0, 1], true)), [2, 1, 0, 5, 4, 0]);
    }
}
