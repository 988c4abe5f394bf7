//! Resizing as Pillow does it, to the bit.
//!
//! A weighted mean of the pixels under a filter that is as wide as the image shrinks: along rows and along columns, with
//! weights of 22 fractional bits, and 8-bit pixels in between, so that the order of the two shows. Source: Pillow 13,
//! `Resample.c` and (nearest) `Geometry.c`. Earlier releases always went along rows first.
//!
//! `fast_image_resize` 6.1 was measured first, on 960 images: it differs from Pillow by up to 58 of 255 (Lanczos), 30
//! (bicubic), 128 (box), 255 (nearest), and by 1 (bilinear, Hamming).

use std::borrow::Cow;
use std::f64::consts::PI;

use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::{ParallelSlice, ParallelSliceMut};

use super::Image;
use super::image::bounded;

/// Fractional bits of a weight: a byte times the weights of one pixel, and their overshoot, stay within 32 bits.
const BITS: u32 = 32 - 8 - 2;

/// A resampling filter of Pillow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// The pixel under the centre.
    Nearest,
    /// A windowed sinc over 3 pixels a side.
    Lanczos,
    /// A triangle over 1 pixel a side.
    Bilinear,
    /// Keys' cubic with `a = -0.5`, 2 pixels a side.
    Bicubic,
    /// The mean of half a pixel a side.
    Box,
    /// A windowed sinc over 1 pixel a side.
    Hamming,
}

impl Filter {
    /// All, in the order of Pillow's numbers.
    pub(super) const ALL: [Self; 6] =
        [Self::Nearest, Self::Lanczos, Self::Bilinear, Self::Bicubic, Self::Box, Self::Hamming];

    /// How far it reaches from its centre.
    fn support(self) -> f64 {
        match self {
            Self::Nearest => 0.0,
            Self::Box => 0.5,
            Self::Bilinear | Self::Hamming => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        let sinc = |x: f64| if x == 0.0 { 1.0 } else { libm::sin(x * PI) / (x * PI) };
        let distance = x.abs();
        match self {
            Self::Box if x > -0.5 && x <= 0.5 => 1.0,
            Self::Bilinear if distance < 1.0 => 1.0 - distance,
            Self::Hamming if distance == 0.0 => 1.0,
            Self::Hamming if distance < 1.0 => {
                let angle = distance * PI;
                libm::sin(angle) / angle * (0.54 + 0.46 * libm::cos(angle))
            }
            Self::Bicubic if distance < 1.0 => (1.5 * distance - 2.5) * distance * distance + 1.0,
            Self::Bicubic if distance < 2.0 => (((distance - 5.0) * distance + 8.0) * distance - 4.0) * -0.5,
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            _ => 0.0,
        }
    }
}

/// `image` at `[height, width]`; `None` where it, or what lies between the two passes, would be too large.
pub(super) fn resize(image: &Image, [height, width]: [usize; 2], filter: Filter) -> Option<Image> {
    if [image.height(), image.width()] == [height, width] {
        return Some(image.clone());
    }
    let columns_first = columns_first([image.height(), image.width()], [height, width]);
    let between = if columns_first { bounded(height, image.width()) } else { bounded(image.height(), width) };
    if !bounded(height, width) || !between {
        return None;
    }
    let pixels = Pixels { height: image.height(), width: image.width(), bytes: Cow::Borrowed(image.pixels()) };
    let pixels = if filter == Filter::Nearest {
        Cow::Owned(nearest(image, height, width))
    } else if columns_first {
        pixels.along_columns(height, filter).along_rows(width, filter).bytes
    } else {
        pixels.along_rows(width, filter).along_columns(height, filter).bytes
    };
    Image::new(height, width, pixels.into_owned())
}

/// Pillow's guess at which order is faster: columns first if the height shrinks by more than twice what the width does.
fn columns_first(from: [usize; 2], to: [usize; 2]) -> bool {
    let [height, width] = [0, 1].map(|axis| from[axis].cast_signed() - to[axis].cast_signed());
    height > 0 && height > 2 * width
}

/// The inputs that one output is made of, and the weight of each.
struct Weights {
    first: usize,
    of: Vec<i32>,
}

fn weights(inputs: usize, outputs: usize, filter: Filter) -> Vec<Weights> {
    let scale = inputs as f64 / outputs as f64;
    let stretch = scale.max(1.0);
    let (reach, inverse) = (filter.support() * stretch, 1.0 / stretch);
    let one = |output: usize| {
        let center = (output as f64 + 0.5) * scale;
        let first = (center - reach + 0.5).max(0.0) as usize; // towards zero, as in C
        let end = ((center + reach + 0.5) as usize).min(inputs);
        let of: Vec<f64> = (first..end).map(|input| filter.at((input as f64 - center + 0.5) * inverse)).collect();
        let sum: f64 = of.iter().sum();
        let fixed = |weight: &f64| {
            let share = if sum == 0.0 { *weight } else { weight / sum };
            let scaled = share * f64::from(1 << BITS);
            (if share < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
        };
        Weights { first, of: of.iter().map(fixed).collect() }
    };
    (0..outputs).map(one).collect()
}

/// The sum of weighted bytes, rounded to a byte.
fn byte(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

/// An image between the passes.
struct Pixels<'a> {
    height: usize,
    width: usize,
    bytes: Cow<'a, [u8]>,
}

impl Pixels<'_> {
    fn along_rows(self, width: usize, filter: Filter) -> Self {
        if self.width == width {
            return self;
        }
        let weights = weights(self.width, width, filter);
        let mut bytes = vec![0; 3 * width * self.height];
        let rows = self.bytes.par_chunks_exact(3 * self.width);
        bytes.par_chunks_exact_mut(3 * width).zip(rows).for_each(|(into, row)| {
            for (pixel, weights) in into.chunks_exact_mut(3).zip(&weights) {
                let mut sums = [1 << (BITS - 1); 3];
                for (from, weight) in row[3 * weights.first..].chunks_exact(3).zip(&weights.of) {
                    add(&mut sums, from, *weight);
                }
                pixel.copy_from_slice(&sums.map(byte));
            }
        });
        Self { height: self.height, width, bytes: bytes.into() }
    }

    fn along_columns(self, height: usize, filter: Filter) -> Self {
        if self.height == height {
            return self;
        }
        let weights = weights(self.height, height, filter);
        let length = 3 * self.width;
        let mut bytes = vec![0; length * height];
        bytes.par_chunks_exact_mut(length).zip(&weights).for_each(|(into, weights)| {
            let mut sums = vec![1 << (BITS - 1); length];
            for (row, weight) in self.bytes[length * weights.first..].chunks_exact(length).zip(&weights.of) {
                add(&mut sums, row, *weight);
            }
            for (value, sum) in into.iter_mut().zip(sums) {
                *value = byte(sum);
            }
        });
        Self { height, width: self.width, bytes: bytes.into() }
    }
}

fn add(sums: &mut [i32], values: &[u8], weight: i32) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum = weight.wrapping_mul(i32::from(*value)).wrapping_add(*sum);
    }
}

fn nearest(image: &Image, height: usize, width: usize) -> Vec<u8> {
    let (rows, columns) = (places(image.height(), height), places(image.width(), width));
    let mut resized = vec![0; 3 * width * height];
    resized.par_chunks_exact_mut(3 * width).zip(&rows).for_each(|(into, &row)| {
        let row = &image.pixels()[3 * image.width() * row..];
        for (pixel, &column) in into.chunks_exact_mut(3).zip(&columns) {
            pixel.copy_from_slice(&row[3 * column..3 * column + 3]);
        }
    });
    resized
}

/// The input under each output's centre. The centres are summed up, not multiplied: so are Pillow's roundings.
fn places(inputs: usize, outputs: usize) -> Vec<usize> {
    let step = inputs as f64 / outputs as f64;
    let mut center = step * 0.5;
    let mut next = |_| {
        let place = center as usize;
        center += step;
        place.min(inputs - 1)
    };
    (0..outputs).map(&mut next).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_means_and_the_same_size_is_a_copy() {
        let grey = |values: &[u8]| values.iter().flat_map(|&value| [value; 3]).collect::<Vec<u8>>();
        let image = Image::new(1, 4, grey(&[0, 10, 20, 31])).unwrap();
        assert_eq!(resize(&image, [1, 2], Filter::Box).unwrap().pixels(), grey(&[5, 26]));
        assert_eq!(resize(&image, [1, 2], Filter::Nearest).unwrap().pixels(), grey(&[10, 31]));
        assert_eq!(resize(&image, [1, 4], Filter::Lanczos).unwrap(), image);
    }

    #[test]
    fn a_flat_image_stays_flat_under_every_filter() {
        let image = Image::new(5, 7, vec![200; 105]).unwrap();
        for filter in Filter::ALL {
            for size in [[1, 1], [3, 29], [64, 2]] {
                let resized = resize(&image, size, filter).unwrap();
                assert!(resized.pixels().iter().all(|value| *value == 200), "{filter:?} {size:?}");
            }
        }
    }

    #[test]
    fn what_would_be_too_large_is_refused() {
        let image = Image::new(1, 1, vec![1; 3]).unwrap();
        assert_eq!(resize(&image, [1 << 14, 1 << 14], Filter::Box), None);
        let wide = Image::new(1, 1 << 18, vec![1; 3 << 18]).unwrap();
        assert_eq!(resize(&wide, [1 << 12, 1 << 18], Filter::Box), None);
        let tall = Image::new(1 << 18, 1, vec![1; 3 << 18]).unwrap();
        assert_eq!(resize(&tall, [1 << 18, 1 << 12], Filter::Box), None);
        assert!(resize(&tall, [1, 1 << 12], Filter::Box).is_some(), "columns first: little between the passes");
    }

    #[test]
    fn the_order_is_pillows() {
        assert!(columns_first([211, 37], [32, 32]));
        assert!(columns_first([32, 32], [20, 44]));
        assert!(!columns_first([300, 300], [32, 32]));
        assert!(!columns_first([64, 64], [32, 48]), "exactly twice");
        assert!(!columns_first([32, 64], [32, 100]));
    }
}
