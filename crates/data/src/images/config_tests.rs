use serde_json::{Value, json};

use super::*;

fn read(config: &Value, class: Option<ProcessorClass>) -> Result<Processor, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("preprocessor_config.json");
    taper_base::files::write(&path, config.to_string().as_bytes()).unwrap();
    let folder = format!("{}/", dir.path().display());
    Processor::read(&path, class).map_err(|error| error.to_string().replace(&folder, ""))
}

fn vit(more: Value) -> Result<Processor, String> {
    let mut config = json!({"image_processor_type": "ViTImageProcessor"});
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    read(&config, None)
}

fn timm(config: Value) -> Result<Processor, String> {
    Processor::from_timm("config.json", &config).map_err(|error| error.to_string())
}

/// A processor's class, or the class whose defaults hold.
#[test]
fn every_name_of_a_class_means_its_defaults() {
    let plain = |class| read(&json!({}), Some(class)).unwrap();
    for (class, names) in [
        (ProcessorClass::Vit, ["ViTFeatureExtractor", "ViTImageProcessorFast"]),
        (ProcessorClass::Deit, ["DeiTImageProcessor", "DeiTImageProcessorPil"]),
        (ProcessorClass::Bit, ["BitImageProcessor", "BitImageProcessorFast"]),
    ] {
        for name in names {
            assert_eq!(read(&json!({"image_processor_type": name}), None).unwrap(), plain(class), "{name}");
            assert_eq!(read(&json!({"feature_extractor_type": name}), None).unwrap(), plain(class), "{name}");
        }
        assert_eq!(plain(class).size(), Some([224, 224]));
    }
    assert_ne!(plain(ProcessorClass::Vit), plain(ProcessorClass::Deit));
}

#[test]
fn sizes_are_numbers_or_objects_and_null_is_the_default() {
    assert_eq!(vit(json!({"size": 7})), vit(json!({"size": {"width": 7, "height": 7}})));
    assert_eq!(vit(json!({"size": [7, 9]})).unwrap().size(), Some([7, 9]));
    assert_eq!(vit(json!({"size": {"shortest_edge": 7}})).unwrap().size(), None);
    assert_eq!(vit(json!({"size": 7, "default_to_square": false})), vit(json!({"size": {"shortest_edge": 7}})));
    assert_eq!(vit(json!({"size": null, "resample": null, "do_rescale": null})), vit(json!({})));
    assert_eq!(vit(json!({"do_center_crop": true, "crop_size": 5})).unwrap().size(), Some([5, 5]));
    assert_eq!(vit(json!({"do_resize": false})).unwrap().size(), None);
}

#[test]
fn a_value_that_makes_no_sense_is_named_by_file_and_key() {
    let cases = [
        (
            json!({"size": 0}),
            "`size` is 0, wanted a whole number from 1 to 16384, {height, width} or {shortest_edge} of such",
        ),
        (json!({"size": {"shortest_edge": 5, "longest_edge": 9}}), "`size` is {\""),
        (json!({"size": {"height": 5}}), "`size` is {\"height\":5}, wanted"),
        (json!({"size": [1, 2, 3]}), "`size` is [1,2,3], wanted"),
        (json!({"size": 1e9}), "`size` is 1000000000.0, wanted"),
        (json!({"resample": 6}), "`resample` is 6, wanted Pillow's number of a filter, 0 to 5"),
        (json!({"resample": "bilinear"}), "`resample` is \"bilinear\", wanted"),
        (json!({"do_resize": 1}), "`do_resize` is 1, wanted true or false"),
        (json!({"do_pad": true}), "`do_pad` is true, wanted false: images are not padded here"),
        (json!({"do_center_crop": true}), "`crop_size` is null, wanted the size, as do_center_crop is true"),
        (
            json!({"do_center_crop": true, "crop_size": {"shortest_edge": 4}}),
            "`crop_size` is {\"shortest_edge\":4}, wanted",
        ),
        (json!({"rescale_factor": "1/255"}), "`rescale_factor` is \"1/255\", wanted a number"),
        (json!({"image_mean": [0.5, 0.5]}), "`image_mean` is [0.5,0.5], wanted three numbers, or one"),
        (json!({"image_std": [0.5, 0.0, 0.5]}), "`image_std` is [0.5,0.0,0.5], wanted numbers above 0"),
        (json!({"image_std": "x".repeat(99)}), "wanted three numbers, or one"),
        (
            json!({"image_processor_type": "CLIPImageProcessor"}),
            "`image_processor_type` is \"CLIPImageProcessor\", wanted a ViT",
        ),
    ];
    for (config, message) in cases {
        let error = vit(config).unwrap_err();
        assert!(error.starts_with("preprocessor_config.json: `") && error.contains(message), "{error}");
    }
    let error = read(&json!({}), None).unwrap_err();
    assert!(error.starts_with("preprocessor_config.json: `image_processor_type` is null, wanted"), "{error}");
    assert_eq!(read(&json!([]), None).unwrap_err(), "preprocessor_config.json: wanted an object");
}

#[test]
fn timm_defaults_are_those_of_imagenet_and_nonsense_is_named() {
    let defaults = json!({"input_size": [3, 224, 224], "crop_pct": 0.875, "crop_mode": "center", "interpolation": "bicubic",
        "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "num_classes": 1000});
    assert_eq!(timm(json!({})), timm(defaults));
    let cases = [
        (
            json!({"input_size": [1, 28, 28]}),
            "`input_size` is [1,28,28], wanted [3, height, width], with sides from 1 to 16384",
        ),
        (json!({"crop_pct": 0.0}), "`crop_pct` is 0.0, wanted a share above 0, about 0.9"),
        (json!({"crop_pct": 1e-9}), "`crop_pct` is 1e-9, wanted a share above 0, about 0.9"),
        (
            json!({"crop_mode": "border"}),
            "`crop_mode` is \"border\", wanted squash, or center with as many rows as columns",
        ),
        (
            json!({"input_size": [3, 28, 32]}),
            "`crop_mode` is null, wanted squash, or center with as many rows as columns",
        ),
        (json!({"interpolation": "random"}), "`interpolation` is \"random\", wanted nearest, bilinear"),
        (json!({"std": [0, 1, 1]}), "`std` is [0,1,1], wanted numbers above 0"),
    ];
    for (config, message) in cases {
        let error = timm(config).unwrap_err();
        assert!(error.starts_with(&format!("config.json: {message}")), "{error}");
    }
    assert_eq!(timm(json!(3)).unwrap_err(), "config.json: pretrained_cfg: wanted an object");
}
