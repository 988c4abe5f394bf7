use std::path::Path;
use std::sync::Arc;

use ::parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use ::parquet::file::metadata::KeyValue;
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::parser::parse_message_type;
use safetensors::tensor::{Dtype, TensorView};
use tempfile::TempDir;

use super::*;
use crate::{Shares, Split};

/// A PNG file with one pixel.
fn pixel(color: [u8; 3]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = ::png::Encoder::new(&mut file, 1, 1);
    encoder.set_color(::png::ColorType::Rgb);
    encoder.write_header().unwrap().write_image_data(&color).unwrap();
    file
}

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        taper_base::files::write(&path, bytes).unwrap();
    }
    dir
}

fn read(path: &Path) -> Result<Images, String> {
    let folder = format!("{}/", path.display());
    Images::read(&ImageSource::new(path)).map_err(|error| error.to_string().replace(&folder, ""))
}

/// Labels, and the one colour of each image.
fn content(images: &Images) -> Vec<(Option<u32>, u8)> {
    (0..images.len()).map(|place| (images.label(place), images.decode(place).unwrap().pixels()[0])).collect()
}

#[test]
fn folders_are_classes_in_order_of_their_names() {
    let [one, two, three] = [1, 2, 3].map(|value| pixel([value; 3]));
    let dir = folder(&[
        ("dog/b.PNG", &two),
        ("dog/a.png", &one),
        ("cat/more/c.jpg", &three),
        (".hidden/x.png", &one),
        ("cat/.y.png", &one),
        ("README.md", b"about"),
    ]);
    let images = read(dir.path()).unwrap();
    assert_eq!(images.classes(), ["cat", "dog"]);
    assert_eq!(content(&images), [(Some(0), 3), (Some(1), 1), (Some(1), 2)]);
    assert!(images.name(0).ends_with("cat/more/c.jpg"));
    assert_eq!(images.source(), dir.path().display().to_string());
    std::fs::create_dir(dir.path().join("eel")).unwrap();
    let error = read(dir.path()).unwrap_err();
    assert_eq!(error, "eel: a class without an image");
}

#[test]
fn images_in_the_folder_itself_have_no_labels() {
    let dir = folder(&[("b.png", &pixel([2; 3])), ("a.webp", &pixel([1; 3])), ("notes.txt", b"x")]);
    let images = read(dir.path()).unwrap();
    assert_eq!(content(&images), [(None, 1), (None, 2)]);
    assert!(images.classes().is_empty());
    let mixed = folder(&[("b.png", &pixel([2; 3])), ("c/a.png", &pixel([1; 3]))]);
    assert!(read(mixed.path()).unwrap_err().contains("images in more than one way"));
    assert!(read(folder(&[("a.txt", b"")]).path()).unwrap_err().contains("no image, no parquet file"));
}

#[test]
fn a_list_gives_labels_by_number_or_by_name() {
    let [one, two] = [1, 2].map(|value| pixel([value; 3]));
    let list = |text: &str| {
        let dir = folder(&[("one.png", &one), ("sub/two.png", &two), ("labels.csv", text.as_bytes())]);
        read(dir.path()).map(|images| (content(&images), images.classes().join(" ")))
    };
    let numbers = list("index,file,label,class\n0,sub/two.png,2,\"c, d\"\n1,one.png,0,a\n2,,1,b\n").unwrap();
    assert_eq!(numbers, (vec![(Some(2), 2), (Some(0), 1)], "a 1 c, d".to_owned()));
    let plain = list("file,label\none.png,1\nsub/two.png,\n").unwrap();
    assert_eq!(plain, (vec![(Some(1), 1), (None, 2)], "0 1".to_owned()));
    assert_eq!(list("file,label\none.png,-1\nsub/two.png,0\n").unwrap().0, [(None, 1), (Some(0), 2)]);
    assert!(list("file,label\none.png,-2\n").unwrap_err().starts_with("labels.csv:2: label -2, wanted 0 or more"));
    let names = list("\u{feff}File,Label\r\none.png,zebra\r\nsub/two.png,ant\r\n").unwrap();
    assert_eq!(names, (vec![(Some(1), 1), (Some(0), 2)], "ant zebra".to_owned()));
    assert_eq!(list("file\none.png\n").unwrap().0, [(None, 1)]);
    assert!(list("fiel,label\n").unwrap_err().contains("labels.csv: no field `file`, did you mean `fiel`?"));
    assert_eq!(list("file,label\n,1\n").unwrap_err(), "labels.csv: no row names a file");
    assert!(list("file\n../x.png\n").unwrap_err().starts_with("labels.csv:2: `file` is ../x.png"));
    let twice = list("file,label,class\none.png,1,a\nsub/two.png,1,b\n").unwrap_err();
    assert_eq!(twice, "labels.csv:3: label 1 is b, but a above");
    assert!(
        list("file,label\none.png,4000000000\n").unwrap_err().contains("label 4000000000, wanted one below 1048576")
    );
    assert!(list("file,label\none.png,1,2\n").unwrap_err().starts_with("labels.csv: "));
}

/// A parquet file as the `datasets` library writes it, or with a plain column of bytes.
fn parquet(path: &Path, nested: bool, rows: &[(Option<&[u8]>, i64)], note: Option<&str>) {
    let schema = if nested {
        "message m { optional group image { optional byte_array bytes; optional byte_array path (UTF8); }
         required int64 label; }"
    } else {
        "message m { optional byte_array img; required int64 fine_label; }"
    };
    let note = note.map(|note| vec![KeyValue::new("huggingface".to_owned(), note.to_owned())]);
    let properties = Arc::new(WriterProperties::builder().set_key_value_metadata(note).build());
    let file = tempfile::NamedTempFile::new().unwrap();
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(file.reopen().unwrap(), schema, properties).unwrap();
    for rows in rows.chunks(2) {
        let mut group = writer.next_row_group().unwrap();
        let values: Vec<ByteArray> = rows.iter().filter_map(|row| row.0).map(|bytes| bytes.to_vec().into()).collect();
        let whole = if nested { 2 } else { 1 };
        let levels: Vec<i16> = rows.iter().map(|row| if row.0.is_some() { whole } else { whole - 1 }).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
        column.close().unwrap();
        if nested {
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&[], Some(&vec![1; rows.len()]), None).unwrap();
            column.close().unwrap();
        }
        let labels: Vec<i64> = rows.iter().map(|row| row.1).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&labels, None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
    std::fs::copy(file.path(), path).unwrap();
}

#[test]
fn parquet_files_hold_images_labels_and_names_of_classes() {
    let dir = tempfile::tempdir().unwrap();
    let [one, two, three] = [1, 2, 3].map(|value| pixel([value; 3]));
    let rows = [(Some(one.as_slice()), 1), (Some(two.as_slice()), 0), (Some(three.as_slice()), -1)];
    let note = r#"{"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}"#;
    let path = dir.path().join("a.parquet");
    parquet(&path, true, &rows, Some(note));
    let images = read(&path).unwrap();
    assert_eq!(content(&images), [(Some(1), 1), (Some(0), 2), (None, 3)]);
    assert_eq!(images.classes(), ["cat", "dog"]);
    assert!(images.name(2).ends_with("a.parquet: row 2 (counted from 0)"));
    parquet(&dir.path().join("b.parquet"), true, &rows[..1], Some(note));
    assert_eq!(read(dir.path()).unwrap().len(), 4, "a folder of shards");
    parquet(&path, false, &rows[..2], None);
    assert_eq!(read(&path).unwrap().classes(), ["0", "1"]);
    assert!(read(dir.path()).unwrap_err().contains("b.parquet: its classes are not those of the files before it"));
    let source = ImageSource { image: Some("imgs".to_owned()), ..ImageSource::new(&path) };
    let error = Images::read(&source).unwrap_err().to_string();
    assert!(error.contains("no field `imgs`, did you mean `img`?; there are: img, fine_label"), "{error}");
    parquet(&path, true, &[(Some(one.as_slice()), 0), (None, 1)], None);
    let error = read(&path).unwrap_err();
    assert!(error.ends_with("row 1 (counted from 0): no image, or one that is not in the file itself"), "{error}");
    parquet(&path, true, &[(Some(one.as_slice()), 5)], Some(note));
    assert!(read(&path).unwrap_err().contains("row 0 (counted from 0): label 5, wanted one below 2"));
    parquet(&path, true, &[(Some(b"GIF89a".as_slice()), 0)], None);
    let error = read(&path).unwrap().decode(0).unwrap_err().to_string();
    assert!(error.contains("a.parquet: row 0 (counted from 0): not an image"), "{error}");
}

#[test]
fn damaged_parquet_files_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    let image = pixel([1; 3]);
    parquet(&path, true, &[(Some(&image), 1), (Some(&image), 0)], None);
    let whole = std::fs::read(&path).unwrap();
    for place in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[place] ^= 0x41;
        taper_base::files::write(&path, &bytes).unwrap();
        if let Ok(images) = read(&path) {
            let _either = (0..images.len()).map(|place| images.decode(place)).collect::<Result<Vec<_>, _>>();
        }
    }
}

#[test]
fn tensor_files_hold_pixels() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    let write = |shape: Vec<usize>, labels: &[i64], classes: &str| {
        let pixels: Vec<u8> = (0..shape.iter().product::<usize>()).map(|value| value as u8).collect();
        let labels_bytes: Vec<u8> = labels.iter().flat_map(|label| label.to_le_bytes()).collect();
        let tensors = [
            ("images", TensorView::new(Dtype::U8, shape, &pixels).unwrap()),
            ("labels", TensorView::new(Dtype::I64, vec![labels.len()], &labels_bytes).unwrap()),
        ];
        let notes = [("classes".to_owned(), classes.to_owned())].into();
        taper_base::files::write(&path, &safetensors::serialize(tensors, Some(notes)).unwrap()).unwrap();
        read(&path)
    };
    let images = write(vec![2, 1, 2, 3], &[1, -1], "[\"a\", \"b\"]").unwrap();
    assert_eq!(content(&images), [(Some(1), 0), (None, 6)]);
    assert_eq!(images.decode(1).unwrap(), Image::new(1, 2, vec![6, 7, 8, 9, 10, 11]).unwrap());
    assert_eq!(images.classes(), ["a", "b"]);
    let grey = write(vec![2, 1, 1, 1], &[0, 1], "[\"a\", \"b\"]").unwrap();
    assert_eq!(grey.decode(1).unwrap().pixels(), [1, 1, 1]);
    let refuse = |shape: Vec<usize>, labels: &[i64], classes: &str| write(shape, labels, classes).unwrap_err();
    assert!(
        refuse(vec![2, 3, 1, 4], &[0, 0], "[]").contains("`images` is U8 [2, 3, 1, 4], wanted U8 [n, height, width")
    );
    assert!(refuse(vec![1, 1, 1, 3], &[0, 0], "[]").contains("`labels` is I64 [2], wanted I64 [1]"));
    assert!(refuse(vec![1, 1, 1, 3], &[-2], "[]").contains("image 0: label -2, wanted 0 or more, or -1 for none"));
    assert!(refuse(vec![1, 1, 1, 3], &[0], "{}").contains("`classes` is no list of names"));
    assert!(refuse(vec![0, 1, 1, 3], &[], "[]").contains("no image in it"));
    taper_base::files::write(&path, b"not really").unwrap();
    assert!(read(&path).is_err());
}

#[test]
fn copies_of_a_file_share_a_split_wherever_they_are() {
    let files: Vec<(String, Vec<u8>)> =
        (0..60).map(|n| (format!("{:02}.png", n), pixel([(n % 30) as u8, 7, 9]))).collect();
    let named: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    let dir = folder(&named);
    let images = read(dir.path()).unwrap();
    let shares = Shares::new(0.5, 0.25, 0.25).unwrap();
    let parts = Split::ALL.map(|split| images.of_split(&shares, split).unwrap());
    assert_eq!(parts.iter().map(Vec::len).sum::<usize>(), 60);
    for part in &parts {
        assert!(!part.is_empty() && part.iter().all(|place| part.contains(&((place + 30) % 60))), "{part:?}");
    }
    let again = read(dir.path()).unwrap();
    assert_eq!(images.fingerprint().unwrap(), again.fingerprint().unwrap());
    taper_base::files::write(&dir.path().join("00.png"), &pixel([99; 3])).unwrap();
    assert_ne!(images.fingerprint().unwrap(), {
        taper_base::files::write(&dir.path().join("01.png"), &pixel([98; 3])).unwrap();
        again.fingerprint().unwrap()
    });
}

#[test]
fn a_batch_is_one_image_after_the_other_and_of_one_size() {
    let dir = folder(&[("a.png", &pixel([255, 0, 0])), ("b.png", &pixel([0, 0, 255]))]);
    let images = read(dir.path()).unwrap();
    let config = dir.path().join("preprocessor_config.json");
    let write = |text: &str| {
        taper_base::files::write(&config, text.as_bytes()).unwrap();
        Processor::read(&config, Some(ProcessorClass::Vit)).unwrap()
    };
    let small = write(r#"{"size": {"height": 1, "width": 2}, "do_normalize": false}"#);
    let batch = images.batch(&[1, 0], &small).unwrap();
    assert_eq!(batch, [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
    assert!(images.batch(&[], &small).unwrap().is_empty());
    let mut file = Vec::new();
    ::png::Encoder::new(&mut file, 2, 1).write_header().unwrap().write_image_data(&[1, 2]).unwrap();
    taper_base::files::write(&dir.path().join("b.png"), &file).unwrap();
    let error = images.batch(&[0, 1], &write(r#"{"do_resize": false}"#)).unwrap_err().to_string();
    assert!(error.ends_with("b.png: 1 x 2 pixels, but 1 x 1 in the same batch"), "{error}");
}

/// Each image has one colour, its label: so the shares can be read off what a feed makes of them.
#[test]
fn a_feed_mixes_images_and_says_of_what_and_how_much() {
    let files: Vec<(String, Vec<u8>)> = (0..5).map(|at| (format!("{at}/x.png"), pixel([51 * at; 3]))).collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
    let dir = folder(&files);
    let images = read(dir.path()).unwrap();
    let config = dir.path().join("preprocessor_config.json");
    let text = r#"{"size": {"height": 1, "width": 1}, "do_normalize": false}"#;
    taper_base::files::write(&config, text.as_bytes()).unwrap();
    let processor = Processor::read(&config, Some(ProcessorClass::Vit)).unwrap();
    let feed = |mixup| {
        let augment = Augment { mixup, mirror: true, ..Augment::default() };
        ImageFeed::new((&images, &processor), ((0..5).collect(), (0..5).collect()), augment, 3).unwrap()
    };
    let made = feed(0.4).examples(0, 40).unwrap();
    assert_eq!((made.pixels.len(), made.labels.len(), made.mixed.len()), (3 * 40, 40, 40));
    let shade = |label: u32| label as f32 * 0.2;
    for ((pixels, label), (other, share)) in made.pixels.chunks(3).zip(&made.labels).zip(&made.mixed) {
        let wanted = share * shade(*label) + (1.0 - share) * shade(*other);
        assert!((pixels[0] - wanted).abs() < 1e-6 && (0.0..=1.0).contains(share), "{pixels:?} {wanted}");
    }
    assert!(made.mixed.iter().any(|(_, share)| (0.1..0.9).contains(share)));
    let later = feed(0.4).examples(25, 15).unwrap();
    assert_eq!((&later.pixels[..], &later.mixed[..]), (&made.pixels[75..], &made.mixed[25..]));
    assert!(feed(0.0).examples(0, 5).unwrap().mixed.is_empty());
}
