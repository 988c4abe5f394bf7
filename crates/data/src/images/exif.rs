//! Which way is up: the orientation tag of EXIF data, else that of XMP, as Pillow's `getexif` finds them.

use super::image::Notes;

/// The tag in the first directory.
const ORIENTATION: u16 = 0x0112;

/// The EXIF orientation, 1 if nothing says otherwise. Data that cannot be read says nothing.
pub(super) fn orientation(notes: &Notes) -> u32 {
    let exif = notes.exif.as_deref().and_then(from_exif);
    exif.or_else(|| notes.xmp.as_deref().and_then(from_xmp)).unwrap_or(1)
}

/// The last orientation of the first directory of a TIFF structure; `Some(0)` where it is no single number.
fn from_exif(data: &[u8]) -> Option<u32> {
    let strip = |data| <[u8]>::strip_prefix(data, b"Exif\0\0");
    let data = strip(data).map_or(data, |data| strip(data).unwrap_or(data));
    let tiff = Tiff { data, little: matches!(data, [b'I', b'I', ..]) };
    if !tiff.little && !data.starts_with(b"MM") || tiff.short(2)? != 42 {
        return None;
    }
    let directory = tiff.long(4)? as usize;
    let mut found = None;
    for entry in 0..usize::from(tiff.short(directory)?) {
        let at = directory.checked_add(2 + 12 * entry)?;
        if data.get(at..at.checked_add(12)?).is_none() {
            break;
        }
        if tiff.short(at) == Some(ORIENTATION) {
            found = Some(match (tiff.short(at + 2), tiff.long(at + 4)) {
                (Some(3 | 8), Some(1)) => u32::from(tiff.short(at + 8)?), // (signed) short
                (Some(4 | 9), Some(1)) => tiff.long(at + 8)?,             // (signed) long
                _ => 0,
            });
        }
    }
    found
}

struct Tiff<'a> {
    data: &'a [u8],
    little: bool,
}

impl Tiff<'_> {
    fn short(&self, at: usize) -> Option<u16> {
        let bytes = *self.data.get(at..)?.first_chunk()?;
        Some(if self.little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    }

    fn long(&self, at: usize) -> Option<u32> {
        let bytes = *self.data.get(at..)?.first_chunk()?;
        Some(if self.little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    }
}

/// `tiff:Orientation="6"` or `tiff:Orientation>6`, the first that a digit follows.
fn from_xmp(text: &[u8]) -> Option<u32> {
    let name = b"tiff:Orientation";
    text.windows(name.len()).enumerate().filter(|(_, window)| window == name).find_map(|(at, _)| {
        let rest = &text[at + name.len()..];
        let rest = rest.strip_prefix(b"=\"").or_else(|| rest.strip_prefix(b">"))?;
        rest.first().filter(|digit| digit.is_ascii_digit()).map(|digit| u32::from(digit - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orientation(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> u32 {
        super::orientation(&Notes { exif: exif.map(<[u8]>::to_vec), xmp: xmp.map(<[u8]>::to_vec) })
    }

    /// A directory with one entry, after a width, little endian.
    fn data(kind: u16, count: u32, value: u16) -> Vec<u8> {
        let mut data = b"Exif\0\0II*\0\x08\0\0\0\x02\0".to_vec();
        data.extend([0, 1, 3, 0, 1, 0, 0, 0, 9, 0, 0, 0]);
        data.extend(ORIENTATION.to_le_bytes());
        data.extend(kind.to_le_bytes());
        data.extend(count.to_le_bytes());
        data.extend(value.to_le_bytes());
        data.extend([0, 0]);
        data
    }

    #[test]
    fn the_tag_is_found_in_either_byte_order() {
        assert_eq!(orientation(Some(&data(3, 1, 6)), None), 6);
        assert_eq!(orientation(Some(&data(4, 1, 8)), None), 8);
        let big = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x05\0\0";
        assert_eq!(orientation(Some(big), None), 5);
    }

    #[test]
    fn what_cannot_be_read_says_nothing() {
        let whole = data(3, 1, 6);
        assert_eq!(orientation(None, None), 1);
        for length in 0..whole.len() {
            assert_eq!(orientation(Some(&whole[..length]), None), 1, "{length} bytes");
        }
        assert_eq!(orientation(Some(b"II*\0\xff\xff\xff\xff\x08\0"), None), 1);
    }

    #[test]
    fn xmp_is_asked_where_exif_has_no_such_tag() {
        let xmp = b"<a tiff:Orientation=\"x\" tiff:Orientation=\"3\"/>".as_slice();
        assert_eq!(orientation(None, Some(xmp)), 3);
        assert_eq!(orientation(None, Some(b"<tiff:Orientation>7</tiff:Orientation>")), 7);
        assert_eq!(orientation(Some(&data(3, 1, 6)), Some(xmp)), 6);
        assert_eq!(orientation(Some(&data(1, 1, 6)), Some(xmp)), 0, "bytes are no number, yet the tag is there");
    }
}
