//! WebP, lossy and lossless, by `image-webp`; measured against Pillow 13 (libwebp 1.6) on 63 files: no difference.

use std::io::Cursor;

use image_webp::WebPDecoder;

use super::image::{Decoded, Fault, Notes, check, rgb};

/// The largest piece of a file, such as its EXIF data, that is read into memory.
const CHUNK_LIMIT: usize = 1 << 28;

pub(super) fn decode(bytes: &[u8]) -> Result<Decoded, Fault> {
    let mut decoder = WebPDecoder::new(Cursor::new(bytes))?;
    decoder.set_memory_limit(CHUNK_LIMIT);
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    check(height, width)?;
    let notes = Notes { exif: decoder.exif_metadata()?, xmp: decoder.xmp_metadata()? };
    let channels = if decoder.has_alpha() { 4 } else { 3 };
    let size = decoder.output_buffer_size().ok_or("too large for this machine's memory")?;
    let mut samples = vec![0; size];
    if decoder.is_animated() {
        decoder.read_frame(&mut samples)?;
    } else {
        decoder.read_image(&mut samples)?;
    }
    Ok(Decoded { image: rgb(height, width, channels, samples)?, notes })
}
