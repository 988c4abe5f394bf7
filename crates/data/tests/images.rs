//! Images and processors against what Pillow, transformers and timm make of the same files.

#![expect(clippy::unwrap_used, reason = "a failing test panics")]

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::SafeTensors;
use serde_json::Value;
use taper_data::images::{Image, Processor};

fn golden() -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/images/cases.safetensors")).unwrap()
}

/// The processors that the golden file names.
fn processors(bytes: &[u8]) -> BTreeMap<String, Processor> {
    let (_, metadata) = SafeTensors::read_metadata(bytes).unwrap();
    let configs: Value = serde_json::from_str(&metadata.metadata().as_ref().unwrap()["processors"]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let one = |(name, config): (&String, &Value)| {
        let processor = if let Some(timm) = config.get("pretrained_cfg") {
            Processor::from_timm("config.json", timm)
        } else {
            let path = dir.path().join("preprocessor_config.json");
            taper_base::files::write(&path, config.to_string().as_bytes()).unwrap();
            Processor::read(&path, None)
        };
        (name.clone(), processor.unwrap())
    };
    configs.as_object().unwrap().iter().map(one).collect()
}

#[test]
fn every_file_and_processor_gives_the_reference_bytes_and_numbers() {
    let bytes = golden();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let processors = processors(&bytes);
    let numbers = |name: &str| -> Vec<f32> {
        let data = tensors.tensor(&format!("table/{name}")).unwrap().data().to_vec();
        data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    let tables: BTreeMap<&String, Vec<f32>> = processors.keys().map(|name| (name, numbers(name))).collect();
    let (mut files, mut cases) = (0, 0);
    for name in tensors.names() {
        let Some(file) = name.strip_suffix(".file") else { continue };
        let image = Image::decode(tensors.tensor(name).unwrap().data(), file).unwrap();
        files += 1;
        for (processor_name, processor) in &processors {
            let Ok(wanted) = tensors.tensor(&format!("{file}/{processor_name}")) else { continue };
            let fitted = processor.fitted(&image).unwrap();
            assert_eq!([fitted.height(), fitted.width(), 3], wanted.shape(), "{file} {processor_name}");
            assert_eq!(testkit::max_abs_diff(fitted.pixels(), wanted.data()), 0.0, "{file} {processor_name}");
            let table = &tables[processor_name];
            let plane = |channel: usize| {
                let bytes = wanted.data().iter().skip(channel).step_by(3);
                bytes.map(move |byte| table[256 * channel + usize::from(*byte)])
            };
            let wanted: Vec<f32> = (0..3).flat_map(plane).collect();
            assert_eq!(processor.pixels(&image).unwrap(), wanted, "{file} {processor_name}");
            cases += 1;
        }
    }
    assert_eq!((files, cases, processors.len()), (72, 262, 15));
}

#[test]
fn the_size_is_known_where_it_does_not_depend_on_the_image() {
    let bytes = golden();
    let sizes: BTreeMap<_, _> = processors(&bytes).iter().map(|(name, one)| (name.clone(), one.size())).collect();
    assert_eq!(sizes["vit-wide"], Some([20, 44]));
    assert_eq!(sizes["vit-crop"], Some([25, 34]));
    assert_eq!(sizes["deit"], Some([32, 32]));
    assert_eq!(sizes["timm-squash"], Some([28, 33]));
}

/// Flips, cuts and overwrites bytes of `file`, one way a seed.
fn damaged(file: &[u8], seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    let mut bytes = file.to_vec();
    for _ in 0..=next(8) {
        let at = next(bytes.len());
        bytes[at] ^= 1 << next(8);
    }
    match next(4) {
        0 => bytes.truncate(next(file.len())),
        1 => {
            let (at, length) = (next(bytes.len()), next(16));
            let end = (at + length).min(bytes.len());
            bytes.drain(at..end);
        }
        2 => {
            let at = next(bytes.len());
            bytes.iter_mut().skip(at).take(8).for_each(|byte| *byte = 0xff);
        }
        _ => {}
    }
    bytes
}

#[test]
fn damaged_files_are_images_or_errors_that_name_them() {
    let bytes = golden();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    for format in ["jpeg-", "png-", "webp-"] {
        let mut names: Vec<_> = tensors.names().into_iter().filter(|name| name.starts_with(format)).collect();
        names.retain(|name| name.ends_with(".file"));
        names.sort();
        let (mut read, mut refused) = (0, 0);
        for seed in 0..900 {
            let name = names[usize::try_from(seed).unwrap() % names.len()];
            match Image::decode(&damaged(tensors.tensor(name).unwrap().data(), seed), name) {
                Ok(image) => {
                    assert_eq!(image.pixels().len(), 3 * image.height() * image.width());
                    read += 1;
                }
                Err(error) => {
                    assert!(error.to_string().starts_with(name), "{error}");
                    refused += 1;
                }
            }
        }
        assert_eq!(read + refused, 900);
        assert!(refused >= 200, "{format} {refused}");
    }
}

#[test]
fn a_file_that_ends_too_early_is_refused_in_every_format() {
    let bytes = golden();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    for name in ["jpeg-50-422", "jpeg-75-444-progressive", "png-rgb", "webp-80", "webp-lossless"] {
        let file = tensors.tensor(&format!("{name}.file")).unwrap().data().to_vec();
        for length in [13, file.len() / 3, file.len() * 9 / 10] {
            let error = Image::decode(&file[..length], name).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{name}: not a readable ")), "{error}");
        }
    }
}
