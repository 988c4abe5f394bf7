//! One image in memory, and how a file becomes one.

use std::error::Error;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::{exif, jpeg, png, webp};
use crate::DataError;

/// The most pixels an image may have, in its file or resized: where Pillow itself refuses (twice its `MAX_IMAGE_PIXELS`).
pub const PIXEL_LIMIT: usize = 178_956_970;

/// The longest side an image may have; no format but PNG could say more.
const SIDE_LIMIT: usize = 1 << 20;

/// An RGB image, 8 bits a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    height: usize,
    width: usize,
    pixels: Vec<u8>,
    /// The colour that its file says is transparent, if it says it of a single one.
    clear: Option<[u8; 3]>,
}

impl Image {
    /// An image of `pixels`, `[height, width, 3]`; `None` if they are not so many, or none.
    #[must_use]
    pub fn new(height: usize, width: usize, pixels: Vec<u8>) -> Option<Self> {
        let wanted = height.checked_mul(width)?.checked_mul(3)?;
        (wanted > 0 && wanted == pixels.len()).then_some(Self { height, width, pixels, clear: None })
    }

    /// The image in the file at `path`.
    ///
    /// # Errors
    /// [`DataError`] naming the file: unreadable, or as [`Image::decode`].
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let bytes = fs::read(path).map_err(DataError::read(path))?;
        Self::decode(&bytes, &path.display().to_string())
    }

    /// The image in `bytes`, the content of a JPEG, PNG or WebP file, upright; errors call it `name`.
    ///
    /// Of an animation the first frame. As Pillow does: 16 bits a channel lose the lower 8, but 16 bits of grey saturate at
    /// 255.
    ///
    /// # Errors
    /// [`DataError::ImageFormat`] by the first bytes, [`DataError::ImageSize`] before anything is allocated, and
    /// [`DataError::DamagedImage`].
    pub fn decode(bytes: &[u8], name: &str) -> Result<Self, DataError> {
        let (format, decode): (_, Decode) = match bytes {
            [0xff, 0xd8, 0xff, ..] => ("JPEG", jpeg::decode),
            [0x89, b'P', b'N', b'G', ..] => ("PNG", png::decode),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => ("WebP", webp::decode),
            _ => return Err(DataError::ImageFormat { image: name.to_owned(), found: beginning(bytes) }),
        };
        let decoded = guarded(bytes, decode).map_err(|fault| match fault {
            Fault::Size { height, width } => {
                DataError::ImageSize { image: name.to_owned(), height, width, limit: PIXEL_LIMIT }
            }
            Fault::Damaged(cause) => DataError::DamagedImage { image: name.to_owned(), format, cause },
        })?;
        Ok(decoded.image.turned(exif::orientation(&decoded.notes)))
    }

    /// Rows.
    #[must_use]
    pub fn height(&self) -> usize {
        self.height
    }

    /// Columns.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// The pixels, `[height, width, 3]`.
    #[must_use]
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The image whose file says that `color` is transparent.
    pub(super) fn with_clear(self, color: Option<[u8; 3]>) -> Self {
        Self { clear: color, ..self }
    }

    /// The image with its transparent colour white; `None` if it has none.
    pub(super) fn whitened(&self) -> Option<Self> {
        let clear = self.clear?;
        let mut white = self.clone();
        for pixel in white.pixels.as_chunks_mut().0.iter_mut().filter(|pixel| **pixel == clear) {
            *pixel = [255; 3];
        }
        Some(white)
    }

    /// The image that `orientation` (EXIF, 1 to 8) says is upright; other numbers mean nothing.
    fn turned(self, orientation: u32) -> Self {
        if !(2..=8).contains(&orientation) {
            return self;
        }
        let Self { height: h, width: w, pixels, clear } = self;
        let (height, width) = if orientation >= 5 { (w, h) } else { (h, w) };
        let mut turned = Vec::with_capacity(pixels.len());
        for y in 0..height {
            for x in 0..width {
                let (row, column) = match orientation {
                    2 => (y, w - 1 - x),
                    3 => (h - 1 - y, w - 1 - x),
                    4 => (h - 1 - y, x),
                    5 => (x, y),
                    6 => (h - 1 - x, y),
                    7 => (h - 1 - x, w - 1 - y),
                    _ => (x, w - 1 - y),
                };
                let at = 3 * (row * w + column);
                turned.extend_from_slice(&pixels[at..at + 3]);
            }
        }
        Self { height, width, pixels: turned, clear }
    }
}

/// What a decoder makes of a file: the image as stored, and what may say how to turn it.
pub(super) struct Decoded {
    pub(super) image: Image,
    pub(super) notes: Notes,
}

/// What a file says about its image.
#[derive(Default)]
pub(super) struct Notes {
    pub(super) exif: Option<Vec<u8>>,
    pub(super) xmp: Option<Vec<u8>>,
}

/// A decoder of one format.
type Decode = fn(&[u8]) -> Result<Decoded, Fault>;

/// Why a decoder gave up.
pub(super) enum Fault {
    Size { height: usize, width: usize },
    Damaged(Box<dyn Error + Send + Sync>),
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for Fault {
    fn from(cause: E) -> Self {
        Self::Damaged(cause.into())
    }
}

/// Runs a decoder. libjpeg's only way to stop at an error is to unwind; the others are meant to return errors, yet a damaged
/// file can break what they assert.
fn guarded(bytes: &[u8], decode: Decode) -> Result<Decoded, Fault> {
    catch_unwind(AssertUnwindSafe(|| decode(bytes))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(text.unwrap_or_else(|| "the decoder gave up".to_owned()).into())
    })
}

/// Whether `height` by `width` pixels are some, and not too many.
pub(super) fn bounded(height: usize, width: usize) -> bool {
    let sides = 1..=SIDE_LIMIT;
    sides.contains(&height) && sides.contains(&width) && height * width <= PIXEL_LIMIT
}

/// Refuses an image before its pixels are allocated.
pub(super) fn check(height: usize, width: usize) -> Result<(), Fault> {
    if bounded(height, width) { Ok(()) } else { Err(Fault::Size { height, width }) }
}

/// The image of decoded `samples`, `[height, width, channels]`, whose first three channels (or one of grey) are wanted.
pub(super) fn rgb(height: usize, width: usize, channels: usize, samples: Vec<u8>) -> Result<Image, Fault> {
    let wanted = height * width * channels;
    let found = samples.len();
    let pixels: Vec<u8> = match channels {
        3 => samples,
        1 | 2 => samples.chunks_exact(channels).flat_map(|pixel| [pixel[0]; 3]).collect(),
        _ => samples.chunks_exact(channels).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect(),
    };
    let image = if found == wanted { Image::new(height, width, pixels) } else { None };
    image.ok_or_else(|| format!("{found} samples decoded, wanted {wanted}").into())
}

fn beginning(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "no byte at all".to_owned();
    }
    let shown: Vec<String> = bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    shown.join(" ")
}
