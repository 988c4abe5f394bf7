//! Images without end, for training: all of them in a new order time after time, perhaps shifted and mirrored.
//!
//! Example `i` is image `order_e[i mod n]` of time `e = i / n`, `order_e` shuffled by the stream `(seed, "image feed", e)`. It is
//! shifted by up to `shift` pixels each way, what comes in black (torchvision's `RandomCrop` with padding), and mirrored with
//! probability ½, by the stream `(seed, "augment", i)`. With `mixup` `α` it is then mixed with another image, any of them, moved by the
//! same stream: `λ x + (1 − λ) x'`, `λ ~ Beta(α, α)` (arXiv:1710.09412, where the others are the same batch's). So an example depends
//! on its number alone, and nothing has to be kept of where a training stood.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use taper_base::rng::{self, Rng, RngExt, seq::SliceRandom};

use super::{Image, Images, Processor};
use crate::DataError;

/// What is done to an image at random.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Augment {
    /// Pixels it is shifted by each way, at most.
    #[schemars(range(min = 0, max = 4096))]
    pub shift: usize,
    /// Whether every other one is mirrored.
    pub mirror: bool,
    /// How evenly two images are mixed, their labels too: `α` of a Beta distribution, 0 for not at all.
    #[schemars(range(min = 0, max = 1))]
    #[serde(skip_serializing_if = "is_zero")]
    pub mixup: f64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it so")]
fn is_zero(x: &f64) -> bool {
    *x == 0.0
}

/// Some examples of a feed.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageExamples {
    /// `[count, 3, height, width]`.
    pub pixels: Vec<f32>,
    /// Class of each.
    pub labels: Vec<u32>,
    /// Class of the image that each is mixed with, and how much of it the first one is, in [0, 1]; none if they are not mixed.
    pub mixed: Vec<(u32, f32)>,
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

    /// The examples `from..from + count`.
    ///
    /// # Errors
    /// If an image cannot be read, or they differ in size.
    pub fn examples(&self, from: u64, count: u64) -> Result<ImageExamples, DataError> {
        let n = self.places.len() as u64;
        let orders: Vec<Vec<usize>> = (from / n..=(from + count.max(1) - 1) / n).map(|time| self.order(time)).collect();
        let chosen: Vec<(u64, usize)> = (from..from + count)
            .map(|index| (index, orders[(index / n - from / n) as usize][(index % n) as usize]))
            .collect();
        let one = |&(index, at): &(u64, usize)| self.example(index, at);
        let made: Vec<One> = chosen.par_iter().map(one).collect::<Result<_, DataError>>()?;
        if let Some(odd) = made.iter().find(|one| one.size != made[0].size) {
            return Err(self.unequal(odd.at, odd.size, made[0].size));
        }
        Ok(ImageExamples {
            labels: made.iter().map(|one| self.labels[one.at]).collect(),
            mixed: made.iter().filter_map(|one| one.mixed).collect(),
            pixels: made.into_iter().flat_map(|one| one.numbers).collect(),
        })
    }

    fn unequal(&self, at: usize, found: [usize; 2], wanted: [usize; 2]) -> DataError {
        DataError::UnequalImages { image: self.images.name(self.places[at]).to_owned(), found, wanted }
    }

    /// Example `index`, of the image at `at`.
    fn example(&self, index: u64, at: usize) -> Result<One, DataError> {
        let mut rng = rng::stream(self.seed, "augment", index, 0);
        let (size, mut numbers) = self.changed(at, &mut rng)?;
        if self.augment.mixup == 0.0 {
            return Ok(One { at, size, numbers, mixed: None });
        }
        let share = beta(self.augment.mixup, &mut rng) as f32;
        let other = rng.random_range(0..self.places.len());
        let (other_size, other_numbers) = self.changed(other, &mut rng)?;
        if other_size != size {
            return Err(self.unequal(other, other_size, size));
        }
        numbers.iter_mut().zip(other_numbers).for_each(|(x, other)| *x = share * *x + (1.0 - share) * other);
        Ok(One { at, size, numbers, mixed: Some((self.labels[other], share)) })
    }

    fn order(&self, time: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.places.len()).collect();
        order.shuffle(&mut rng::stream(self.seed, "image feed", time, 0));
        order
    }

    /// The image at `at`, shifted and mirrored: its size, and what the model sees.
    fn changed(&self, at: usize, rng: &mut impl Rng) -> Result<([usize; 2], Vec<f32>), DataError> {
        let fitted = self.processor.fitted(&self.images.decode(self.places[at])?)?;
        let size = [fitted.height(), fitted.width()];
        let Augment { shift, mirror, .. } = self.augment;
        if shift == 0 && !mirror {
            return Ok((size, self.processor.scaled(&fitted)));
        }
        let mut by = || rng.random_range(0..=2 * shift) as isize - shift as isize;
        let (down, right) = (by(), by());
        let mirrored = mirror && rng.random::<bool>();
        Ok((size, self.processor.scaled(&moved(&fitted, [down, right], mirrored))))
    }
}

/// One example.
struct One {
    at: usize,
    size: [usize; 2],
    numbers: Vec<f32>,
    mixed: Option<(u32, f32)>,
}

/// A draw from Beta(α, α), `0 < α ≤ 1`, by Jöhnk's method (1964): `x / (x + y)` of `x = u^(1/α)`, `y = v^(1/α)` with `x + y ≤ 1`.
fn beta(alpha: f64, rng: &mut impl Rng) -> f64 {
    loop {
        let [log_x, log_y] = [0; 2].map(|_| (1.0 - rng.random::<f64>()).ln() / alpha); // of (0, 1]
        if log_x.exp() + log_y.exp() <= 1.0 {
            return 1.0 / (1.0 + (log_y - log_x).exp()); // small ones of both are no 0 / 0
        }
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

    /// Mean ½, variance `1 / (4 (2α + 1))`.
    #[test]
    fn shares_are_drawn_from_a_beta_distribution() {
        for alpha in [0.05, 0.2, 1.0] {
            let mut rng = rng::stream(0, "beta", 0, 0);
            let draws: Vec<f64> = (0..20_000).map(|_| beta(alpha, &mut rng)).collect();
            assert!(draws.iter().all(|share| (0.0..=1.0).contains(share)));
            let mean = draws.iter().sum::<f64>() / draws.len() as f64;
            let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / draws.len() as f64;
            let wanted = 1.0 / (4.0 * (2.0 * alpha + 1.0));
            assert!((mean - 0.5).abs() < 0.014 && (variance - wanted).abs() < 0.005, "{alpha}: {mean} {variance}");
        }
    }

    #[test]
    fn an_image_is_moved_and_then_mirrored() {
        let image = Image::new(2, 3, [1, 2, 3, 4, 5, 6].iter().flat_map(|x| [*x; 3]).collect()).unwrap();
        let grey = |image: &Image| -> Vec<u8> { image.pixels().chunks(3).map(|pixel| pixel[0]).collect() };
        assert_eq!(grey(&moved(&image, [0, 0], false)), [1, 2, 3, 4, 5, 6]);
        assert_eq!(grey(&moved(&image, [1, -1], false)), [0, 0, 0, 2, 3, 0]);
        assert_eq!(grey(&moved(&image, [0, 1], true)), [2, 1, 0, 5, 4, 0]);
    }
}
