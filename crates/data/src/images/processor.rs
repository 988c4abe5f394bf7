//! What is done to an image before a model sees it: resize, crop to the centre, scale and shift.

use std::path::Path;

use super::image::PIXEL_LIMIT;
use super::resample::{Filter, resize};
use super::{Image, config, timm};
use crate::DataError;

/// Makes the numbers that a model was trained on of an image. Read from a model's files: [`Processor::read`] for those of
/// transformers, [`Processor::from_timm`] for those of timm.
#[derive(Debug, Clone, PartialEq)]
pub struct Processor {
    /// Whether a transparent colour becomes white first.
    pub(super) whiten: bool,
    pub(super) resize: Option<(Target, Filter)>,
    pub(super) crop: Option<Crop>,
    /// The number of each byte, a channel.
    pub(super) table: Box<[[f32; 256]; 3]>,
}

/// The size that an image is resized to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// `[height, width]`, whatever shape it was.
    Exact([usize; 2]),
    /// Its shorter side has this many pixels, and it keeps its shape.
    Shortest(usize),
}

/// `[height, width]` about the centre; what the image lacks is black.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Crop {
    pub(super) size: [usize; 2],
    pub(super) rounding: Rounding,
}

/// Where a crop begins if what is cut off is an odd number of pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rounding {
    /// transformers: `floor(rest / 2)`.
    Down,
    /// torchvision, whom timm asks: to the even one of two; an image too small lies down.
    Even,
}

impl Crop {
    /// The image's row (or column) that becomes row 0; below 0: as many black ones come first.
    fn start(self, axis: usize, from: usize) -> isize {
        let [from, to] = [from, self.size[axis]].map(usize::cast_signed);
        let rest = from - to;
        match self.rounding {
            Rounding::Down => rest.div_euclid(2),
            Rounding::Even if rest < 0 => -(-rest / 2),
            Rounding::Even => rest / 2 + rest % 2 * (rest / 2 % 2),
        }
    }
}

impl Processor {
    /// What the `preprocessor_config.json` at `path` says; `class` is whose defaults hold if the file does not name a class, as
    /// transformers takes it from the model's type.
    ///
    /// # Errors
    /// [`DataError`] naming file and key: unreadable, no JSON, another class, or a value that makes no sense.
    pub fn read(path: &Path, class: Option<config::ProcessorClass>) -> Result<Self, DataError> {
        config::read(path, class)
    }

    /// What timm's `pretrained_cfg` says, part of its `config.json`, for evaluation; errors call it `at`.
    ///
    /// # Errors
    /// [`DataError`] naming the key of a value that makes no sense, or asks for what is not implemented.
    pub fn from_timm(at: &str, pretrained_cfg: &serde_json::Value) -> Result<Self, DataError> {
        timm::processor(at, pretrained_cfg)
    }

    /// `[height, width]` of what is made of an image; `None` if it depends on the image.
    #[must_use]
    pub fn size(&self) -> Option<[usize; 2]> {
        match (self.crop, self.resize) {
            (Some(crop), _) => Some(crop.size),
            (None, Some((Target::Exact(size), _))) => Some(size),
            _ => None,
        }
    }

    /// `image` resized and cropped, its bytes not yet scaled.
    ///
    /// # Errors
    /// [`DataError::ResizedImage`] if a long and narrow image would become too large.
    pub fn fitted(&self, image: &Image) -> Result<Image, DataError> {
        let white = if self.whiten { image.whitened() } else { None };
        let image = white.as_ref().unwrap_or(image);
        let resized = self.resize.map(|(target, filter)| {
            let from = [image.height(), image.width()];
            let to = target.of(from);
            resize(image, to, filter).ok_or(DataError::ResizedImage { from, to, limit: PIXEL_LIMIT })
        });
        let resized = resized.transpose()?;
        let image = resized.as_ref().unwrap_or(image);
        Ok(self.crop.and_then(|crop| cropped(image, crop)).unwrap_or_else(|| image.clone()))
    }

    /// The numbers of `image`, `[3, height, width]`.
    ///
    /// # Errors
    /// As [`Processor::fitted`].
    pub fn pixels(&self, image: &Image) -> Result<Vec<f32>, DataError> {
        Ok(self.scaled(&self.fitted(image)?))
    }

    /// The numbers of an image that is resized and cropped.
    pub(super) fn scaled(&self, image: &Image) -> Vec<f32> {
        let plane = image.height() * image.width();
        let mut numbers = vec![0.0; 3 * plane];
        for (channel, (into, table)) in numbers.chunks_exact_mut(plane).zip(self.table.iter()).enumerate() {
            for (number, pixel) in into.iter_mut().zip(image.pixels().chunks_exact(3)) {
                *number = table[usize::from(pixel[channel])];
            }
        }
        numbers
    }
}

impl Target {
    fn of(self, [height, width]: [usize; 2]) -> [usize; 2] {
        // Python: int(size * long / short); both factors are far below 2^53
        let long = |short: usize, long: usize, size: usize| (size as f64 * long as f64 / short as f64) as usize;
        match self {
            Self::Exact(size) => size,
            Self::Shortest(size) if width <= height => [long(width, height, size), size],
            Self::Shortest(size) => [size, long(height, width, size)],
        }
    }
}

fn cropped(image: &Image, crop: Crop) -> Option<Image> {
    let [height, width] = crop.size;
    let [top, left] = [crop.start(0, image.height()), crop.start(1, image.width())];
    let mut pixels = vec![0; 3 * height * width];
    // the part of a row that is in the image: where it begins in the crop, and how long it is
    let skip = left.min(0).unsigned_abs();
    let from = left.max(0).unsigned_abs();
    let length = image.width().saturating_sub(from).min(width.saturating_sub(skip));
    for (y, into) in pixels.chunks_exact_mut(3 * width).enumerate() {
        let row = usize::try_from(top + y.cast_signed()).ok().filter(|row| *row < image.height());
        if let Some(row) = row {
            let start = 3 * (row * image.width() + from);
            into[3 * skip..3 * (skip + length)].copy_from_slice(&image.pixels()[start..start + 3 * length]);
        }
    }
    Image::new(height, width, pixels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(rounding: Rounding) -> Vec<isize> {
        let crop = Crop { size: [4, 4], rounding };
        (1..=11).map(|from| crop.start(0, from)).collect()
    }

    #[test]
    fn crops_begin_where_each_library_lets_them() {
        assert_eq!(starts(Rounding::Down), [-2, -1, -1, 0, 0, 1, 1, 2, 2, 3, 3]);
        assert_eq!(starts(Rounding::Even), [-1, -1, 0, 0, 0, 1, 2, 2, 2, 3, 4]);
    }

    #[test]
    fn a_crop_larger_than_the_image_is_black_around_it() {
        let image = Image::new(1, 2, vec![1, 1, 1, 2, 2, 2]).unwrap();
        let crop = Crop { size: [2, 4], rounding: Rounding::Down };
        let grey: Vec<u8> = cropped(&image, crop).unwrap().pixels().chunks(3).map(|pixel| pixel[0]).collect();
        assert_eq!(grey, [0, 0, 0, 0, 0, 1, 2, 0]);
    }

    #[test]
    fn the_longer_side_is_cut_to_whole_pixels() {
        assert_eq!(Target::Shortest(224).of([333, 500]), [224, 336]);
        assert_eq!(Target::Shortest(224).of([501, 333]), [337, 224]);
        assert_eq!(Target::Shortest(32).of([1, 300]), [32, 9600]);
        assert_eq!(Target::Exact([7, 9]).of([333, 500]), [7, 9]);
    }
}
