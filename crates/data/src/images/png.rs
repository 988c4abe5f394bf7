//! PNG: every colour type and depth, by the `png` crate, reduced to 8 bits as Pillow does.

use std::io::Cursor;

use png::{BitDepth, ColorType, Decoder, Info, Transformations};

use super::image::{Decoded, Fault, Notes, check, rgb};

/// The most text that is unpacked to look for EXIF data in it.
const TEXT_LIMIT: usize = 1 << 20;

pub(super) fn decode(bytes: &[u8]) -> Result<Decoded, Fault> {
    let mut decoder = Decoder::new(Cursor::new(bytes));
    decoder.set_transformations(Transformations::EXPAND); // palettes to colours, less than 8 bits to 8
    let header = decoder.read_header_info()?;
    let (height, width) = (header.height as usize, header.width as usize);
    check(height, width)?;
    let mut reader = decoder.read_info()?;
    let clear = clear(reader.info());
    let saturate = reader.info().color_type == ColorType::Grayscale;
    let (color, depth) = reader.output_color_type();
    let size = reader.output_buffer_size().ok_or("too large for this machine's memory")?;
    let mut samples = vec![0; size];
    let frame = reader.next_frame(&mut samples)?;
    samples.truncate(frame.buffer_size());
    if depth == BitDepth::Sixteen {
        let narrow = |pair: &[u8]| if saturate && pair[0] > 0 { 255 } else { pair[usize::from(saturate)] };
        samples = samples.chunks_exact(2).map(narrow).collect();
    }
    // what stands behind the pixels may turn the image; damage there is none of the pixels', and Pillow takes such files
    let notes = if reader.finish().is_ok() { notes(reader.info())? } else { Notes::default() };
    let image = rgb(height, width, color.samples(), samples)?.with_clear(clear);
    Ok(Decoded { image, notes })
}

/// The colour that is transparent, where Pillow knows it as one: of a palette if no other is translucent, of grey as stored.
fn clear(info: &Info<'_>) -> Option<[u8; 3]> {
    let values = info.trns.as_ref()?;
    match info.color_type {
        ColorType::Indexed => {
            let place = values.iter().position(|alpha| *alpha == 0)?;
            let alone = values.iter().enumerate().all(|(other, alpha)| other == place || *alpha == 255);
            let color = alone.then(|| info.palette.as_ref()?.as_chunks().0.get(place).copied());
            color.flatten()
        }
        // the decoder keeps one byte a channel, but for 16 bits
        ColorType::Grayscale if info.bit_depth != BitDepth::One => match values[..] {
            [grey] => Some([grey; 3]),
            _ => None,
        },
        ColorType::Rgb => match values[..] {
            [red, green, blue] | [0, red, 0, green, 0, blue] => Some([red, green, blue]),
            _ => None,
        },
        _ => None,
    }
}

/// EXIF data (in its own chunk, or in hexadecimal as ImageMagick writes it) and XMP.
fn notes(info: &Info<'_>) -> Result<Notes, Fault> {
    let mut exif = info.exif_metadata.as_ref().map(|data| data.to_vec());
    for chunk in &info.compressed_latin1_text {
        if exif.is_none() && chunk.keyword == "Raw profile type exif" {
            let mut chunk = chunk.clone();
            chunk.decompress_text_with_limit(TEXT_LIMIT)?;
            exif = from_hex(&chunk.get_text()?);
        }
    }
    for chunk in &info.uncompressed_latin1_text {
        if exif.is_none() && chunk.keyword == "Raw profile type exif" {
            exif = from_hex(&chunk.text);
        }
    }
    let mut xmp = None;
    for chunk in info.utf8_text.iter().filter(|chunk| chunk.keyword == "XML:com.adobe.xmp") {
        let mut chunk = chunk.clone();
        chunk.decompress_text_with_limit(TEXT_LIMIT)?;
        xmp = Some(chunk.get_text()?.into_bytes());
    }
    Ok(Notes { exif, xmp })
}

/// The bytes behind three lines of heading.
fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> = text.split('\n').skip(3).flat_map(str::chars).filter_map(|c| c.to_digit(16)).collect();
    let byte = |pair: &[u32]| u8::try_from(16 * pair[0] + pair[1]).ok();
    digits.chunks_exact(2).map(byte).collect()
}
