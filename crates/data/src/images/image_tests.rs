use super::*;
use crate::DataError;

/// A PNG file of this width and height, whose pixels are `data`, not compressed.
fn png(width: u32, height: u32, data: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = ::png::Encoder::new(&mut file, width, height);
    encoder.set_color(::png::ColorType::Rgb);
    let mut writer = encoder.write_header().unwrap();
    if data.is_empty() {
        writer.write_chunk(::png::chunk::IDAT, &[]).unwrap();
        drop(writer);
    } else {
        writer.write_image_data(data).unwrap();
        writer.finish().unwrap();
    }
    file
}

#[test]
fn an_image_is_as_many_bytes_as_its_sides_say() {
    assert!(Image::new(1, 2, vec![0; 6]).is_some());
    assert_eq!(Image::new(1, 2, vec![0; 5]), None);
    assert_eq!(Image::new(0, 2, Vec::new()), None);
    assert_eq!(Image::new(usize::MAX, 2, Vec::new()), None);
}

#[test]
fn content_decides_the_format_and_other_content_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jpg");
    taper_base::files::write(&path, &png(2, 1, &[1, 2, 3, 4, 5, 6])).unwrap();
    let image = Image::read(&path).unwrap();
    assert_eq!((image.height(), image.width(), image.pixels()), (1, 2, [1, 2, 3, 4, 5, 6].as_slice()));
    let refuse = |bytes: &[u8]| Image::decode(bytes, "x").unwrap_err().to_string();
    assert_eq!(
        refuse(b"GIF89a\x01\x00\x01"),
        "x: not an image; JPEG, PNG and WebP are read, and this begins with 47 49 46 38 39 61 01 00"
    );
    assert!(refuse(b"").ends_with("this begins with no byte at all"));
    let error = Image::read(&dir.path().join("none.png")).unwrap_err().to_string();
    assert!(error.ends_with("none.png: cannot be read"), "{error}");
}

#[test]
fn too_many_pixels_are_refused_before_they_are_decoded() {
    for (width, height) in [(20_000, 20_000), (1 << 21, 1), (u32::MAX >> 1, u32::MAX >> 1)] {
        let error = Image::decode(&png(width, height, &[]), "big.png").unwrap_err();
        assert!(matches!(error, DataError::ImageSize { .. }), "{error}");
        let wanted = format!("big.png: {height} x {width} pixels, wanted at least one and at most 178956970");
        assert_eq!(error.to_string(), wanted);
    }
    // a JPEG that says it has 65500 x 65500 pixels
    let mut jpeg = b"\xff\xd8\xff\xc0\0\x0b\x08\xff\xdc\xff\xdc\x01\x01\x11\0".to_vec();
    jpeg.extend(b"\xff\xda\0\x08\x01\x01\0\0\x3f\0\0\0\0\xff\xd9");
    let error = Image::decode(&jpeg, "big.jpg").unwrap_err();
    assert!(matches!(error, DataError::ImageSize { height: 65_500, width: 65_500, .. }), "{error}");
}

#[test]
fn what_the_decoder_says_is_the_cause() {
    let cause = |bytes: &[u8]| {
        let error = Image::decode(bytes, "a").unwrap_err();
        assert!(error.to_string().starts_with("a: not a readable "), "{error}");
        std::error::Error::source(&error).unwrap().to_string()
    };
    assert_eq!(cause(b"\xff\xd8\xff\xd9"), "no image in the JPEG file");
    assert!(
        cause(b"\xff\xd8\xff\xc0\0\x0b").starts_with("libjpeg fatal error: "),
        "{}",
        cause(b"\xff\xd8\xff\xc0\0\x0b")
    );
    assert!(!cause(b"\x89PNG\r\n\x1a\n").is_empty());
    assert!(!cause(b"RIFF\x04\0\0\0WEBP").is_empty());
}
