//! Real images in each form that they are stored in, and processors against the reference implementation's pixels.

#![expect(clippy::unwrap_used, reason = "a failing test panics")]

use std::path::Path;

use serde_json::Value;
use taper_data::images::{Image, ImageSource, Images, Processor};
use taper_data::{Shares, Split};

testkit::real_data_tests!(
    a_tensor_file_and_a_list_of_files_hold_the_same_images,
    a_folder_of_images_has_no_labels,
    photos_are_resized_as_the_reference_does,
    splits_are_disjoint_and_complete,
);

const CLASSES: [&str; 10] = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

fn images(path: &Path) -> Images {
    Images::read(&ImageSource::new(path)).unwrap()
}

fn a_tensor_file_and_a_list_of_files_hold_the_same_images(data: &Path) {
    let all = images(&data.join("images/cifar10_test/images.safetensors"));
    let listed = images(&data.join("images/cifar10_test"));
    assert_eq!((all.len(), listed.len()), (2000, 120));
    assert_eq!(all.classes(), CLASSES);
    assert_eq!(listed.classes(), CLASSES);
    for place in 0..listed.len() {
        assert_eq!(all.label(place), listed.label(place), "{place}");
        assert_eq!(all.decode(place).unwrap(), listed.decode(place).unwrap(), "{}", listed.name(place));
    }
    let calibration = images(&data.join("images/cifar10_calib/images.safetensors"));
    assert_eq!((calibration.len(), calibration.label(1)), (512, Some(7)));
    let error = Images::read(&ImageSource::new(data.join("images/cifar10_calib"))).unwrap_err();
    assert!(error.to_string().ends_with("labels.csv: no row names a file"), "{error}");
}

fn a_folder_of_images_has_no_labels(data: &Path) {
    let images = images(&data.join("images/cifar10_test/png"));
    assert_eq!((images.len(), images.label(0), images.classes().len()), (120, None, 0));
    assert!(images.name(0).ends_with("png/0000_ship.png"), "{}", images.name(0));
}

/// The reference resized by torchvision, whose weights are rounded to fewer bits than Pillow's.
const TORCHVISION: f64 = 1.0 / 255.0 + 1e-6;

fn photos_are_resized_as_the_reference_does(data: &Path) {
    let model = data.join("models/vit-cifar10-64d");
    let processor = Processor::read(&model.join("preprocessor_config.json"), None).unwrap();
    let reference: Value = serde_json::from_slice(&std::fs::read(model.join("reference.json")).unwrap()).unwrap();
    for (name, wanted) in reference["resize_check"].as_object().unwrap() {
        let image = Image::read(&data.join("images/resize_check").join(name)).unwrap();
        assert_eq!(wanted["size_wh"], serde_json::json!([image.width(), image.height()]), "{name}");
        let found = processor.pixels(&image).unwrap();
        assert_eq!(found.len(), 3 * 32 * 32);
        let numbers = |key: &str| -> Vec<f64> {
            wanted[key].as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
        };
        let row = 32 * 32 + 16 * 32; // row 16 of channel 1
        assert!(testkit::max_abs_diff(&found[..8], &numbers("pixel_values_first8")) <= TORCHVISION, "{name}");
        assert!(
            testkit::max_abs_diff(&found[row..row + 32], &numbers("pixel_values_row16_ch1")) <= TORCHVISION,
            "{name}"
        );
        let mean = found.iter().map(|number| f64::from(*number)).sum::<f64>() / found.len() as f64;
        assert!((mean - wanted["mean"].as_f64().unwrap()).abs() < 1e-4, "{name}: {mean}");
    }
}

fn splits_are_disjoint_and_complete(data: &Path) {
    let images = images(&data.join("images/cifar10_test/images.safetensors"));
    let shares = Shares::default();
    let parts = Split::ALL.map(|split| images.of_split(&shares, split).unwrap());
    let mut all = parts.concat();
    all.sort_unstable();
    assert_eq!(all, (0..images.len()).collect::<Vec<_>>());
    assert!((1550..1650).contains(&parts[0].len()), "{}", parts[0].len());
}
