//! JPEG by libjpeg-turbo's code, which Pillow uses too: its inverse cosine transform and its smooth upsampling of colour decide
//! single bits of every pixel.
//!
//! `mozjpeg` is that code as a crate which a C compiler alone builds. Measured against Pillow 13 (libjpeg-turbo 3.2) on 370
//! files of 5 qualities, 7 samplings and all colour spaces, baseline and progressive: no difference. The pure Rust decoders
//! (`zune-jpeg` 0.5, `jpeg-decoder` 0.3) differ by up to 42 of 255, by more than 1 in a tenth of the bytes where colour is
//! sampled.

use std::io::{self, BufRead, Read};

use mozjpeg::{ColorSpace, Decompress, Marker};

use super::image::{Decoded, Fault, Image, Notes, check, rgb};

/// Unwinds at an error of libjpeg: the caller catches it.
pub(super) fn decode(bytes: &[u8]) -> Result<Decoded, Fault> {
    let markers = [Marker::APP(1)];
    let decoder = Decompress::builder().with_markers(&markers).from_reader(Whole(bytes))?;
    let (width, height) = decoder.size();
    check(height, width)?;
    let mut notes = Notes::default();
    for marker in decoder.markers() {
        if let Some(part) = marker.data.strip_prefix(b"Exif\0\0") {
            notes.exif.get_or_insert_default().extend_from_slice(part);
        } else if let Some(text) = marker.data.strip_prefix(b"http://ns.adobe.com/xap/1.0/\0") {
            notes.xmp = Some(text.to_vec());
        }
    }
    let (channels, space) = match decoder.components().len() {
        1 => (1, ColorSpace::JCS_GRAYSCALE),
        3 => (3, ColorSpace::JCS_RGB),
        4 => (4, ColorSpace::JCS_CMYK),
        other => return Err(format!("{other} components, wanted 1, 3 or 4").into()),
    };
    let mut started = decoder.to_colorspace(space)?;
    let samples: Vec<u8> = started.read_scanlines()?;
    // not finished: nothing behind the last row is needed, an end marker neither
    let image =
        if channels == 4 { from_cmyk(height, width, &samples)? } else { rgb(height, width, channels, samples)? };
    Ok(Decoded { image, notes })
}

/// RGB of inverted inks, as Adobe writes them and Pillow always takes them: `r = k - round(c * k / 255)` of what is no ink.
fn from_cmyk(height: usize, width: usize, samples: &[u8]) -> Result<Image, Fault> {
    let pixel = |inks: &[u8]| {
        let [c, m, y, k] = [0, 1, 2, 3].map(|ink| 255 - u32::from(inks[ink]));
        let light = 255 - k;
        [c, m, y].map(|ink| {
            let product = ink * light + 128;
            let shaded = (product + (product >> 8)) >> 8; // a division by 255, rounded
            (light - shaded) as u8
        })
    };
    rgb(height, width, 3, samples.chunks_exact(4).flat_map(pixel).collect())
}

/// The bytes of a file, whose end is an error: libjpeg would make up the rest.
struct Whole<'a>(&'a [u8]);

impl Read for Whole<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl BufRead for Whole<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.0.is_empty() { Err(io::Error::other("the file ends too early")) } else { Ok(self.0) }
    }

    fn consume(&mut self, amount: usize) {
        self.0 = self.0.get(amount..).unwrap_or_default();
    }
}
