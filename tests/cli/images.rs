//! Classifiers of images through the binary: the same stages as for text, on a tiny ViT and images of noise.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Place, Results, text};

const RECIPE: &str = "\
version: 1
model: ./vit
data: { images: ./train.safetensors, sequences: 8, shares: { calibration: 0.7, validation: 0.2, test: 0.1 } }
budget: { params: 80%, counted: non-embedding, tolerance: 10% }
space: { channels_multiple: 4 }
search:
  strategy: { evolution: { population: 6, elites: 2, generations: 2 } }
  proxy: { gradient-trace: { sketch_rank: 8 } }
heal: { steps: 6, sequences: 4, validation: { every: 3, sequences: 8 }, augment: { shift: 2, mirror: true, mixup: 0.3 } }
eval: { images: ./test.safetensors, random: 1 }
export: { targets: [transformers, onnx] }
";

/// `images` `[n, 16, 16, 3]` of noise and their labels below 5.
fn noise(n: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let pixels: Vec<u8> = (0..n * 16 * 16 * 3).map(|_| next() as u8).collect();
    let labels: Vec<u8> = (0..n as i64).flat_map(|i| (i % 5).to_le_bytes()).collect();
    let header = json!({
        "images": {"dtype": "U8", "shape": [n, 16, 16, 3], "data_offsets": [0, pixels.len()]},
        "labels": {"dtype": "I64", "shape": [n], "data_offsets": [pixels.len(), pixels.len() + labels.len()]},
    });
    let mut header = header.to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    [&(header.len() as u64).to_le_bytes()[..], &header, &pixels, &labels].concat()
}

/// A folder with the golden `model` as `vit`, images and a recipe.
fn place(model: &str) -> Place {
    let place = Place::new();
    let golden = testkit::workspace_root().join("crates/model/golden-vit").join(model);
    fs::create_dir(place.path("vit")).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(golden.join(name), place.path("vit").join(name)).unwrap();
    }
    let processor = json!({"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}});
    if !model.contains("timm") {
        place.write("vit/preprocessor_config.json", processor.to_string().as_bytes());
    }
    place.write("train.safetensors", &noise(80, 3));
    place.write("test.safetensors", &noise(20, 5));
    place.write("vit.yaml", RECIPE.as_bytes());
    place
}

fn json_of(place: &Place, args: &[&str]) -> Value {
    serde_json::from_slice(&place.done(&[args, &["--json"]].concat()).stdout).unwrap()
}

#[test]
fn a_recipe_takes_a_classifier_through_every_stage() {
    for model in ["vit-plain", "deit-distilled", "vit-timm", "deit-timm-distilled"] {
        let place = place(model);
        let checked = text(&place.done(&["check", "vit.yaml"]).stdout);
        assert!(checked.contains("sound"), "{checked}");
        let report = json_of(&place, &["run", "vit.yaml"]);
        let rows = report["eval"]["rows"].as_array().unwrap();
        let names: Vec<&str> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["original", "pruned", "healed", "uniform", "random"], "{model}");
        for row in rows {
            let [top1, top5] = ["top1", "top5"].map(|key| row["classified"][key].as_f64().unwrap());
            assert!((0.0..=1.0).contains(&top1) && top5 == 1.0, "{model}: {row}"); // five classes
            assert_eq!((row["classified"]["images"].as_u64(), row["costs"]["kv_bytes"].as_u64()), (Some(20), Some(0)));
        }
        let of = |name: &str| json_of(&place, &["eval", name, "--images", "test.safetensors"]);
        for (row, folder) in [(0, "vit"), (1, "runs/vit/materialise"), (2, "runs/vit/heal")] {
            let found = of(folder);
            let losses = [&found["loss"], &rows[row]["classified"]["loss"]].map(|loss| loss.as_f64().unwrap());
            // the original is measured with its units sorted: sums in another order
            assert!((losses[0] - losses[1]).abs() < 1e-6, "{model} {folder}: {losses:?}");
            assert_eq!(found["confusion"], rows[row]["classified"]["confusion"], "{model} {folder}");
        }
        let blocks = |folder: &str| json_of(&place, &["inspect", folder])["blocks"].clone();
        assert_eq!(blocks("runs/vit/export/vit-transformers"), blocks("runs/vit/heal"), "{model}");
        assert!(place.path("runs/vit/export/vit-onnx/model.onnx").is_file());
        let again = json_of(&place, &["export", "runs/vit", "--to", "onnx", "--out", "again"]);
        assert_eq!(again["exported"][0]["architecture"], "a graph of opset 17");
        let graph = |folder: &str| fs::read(place.path(folder).join("vit-onnx/model.onnx")).unwrap();
        assert_eq!(graph("again"), graph("runs/vit/export"), "{model}");
        let again = json_of(&place, &["run", "vit.yaml"]);
        assert_eq!(again["worked"], json!([]), "{model}");
    }
}

#[test]
fn a_classifier_is_healed_without_a_recipe_and_its_card_is_that_of_a_classifier() {
    let place = place("deit-distilled");
    place.done(&["prune", "vit.yaml"]);
    let with = |more: &[&str]| {
        let args =
            ["heal", "runs/vit/materialise", "--teacher", "vit", "--images", "train.safetensors", "--steps", "4"];
        json_of(
            &place,
            &[&args[..], &["--sequences", "4", "--set", "validation={every: 2, sequences: 6}"], more].concat(),
        )
    };
    let healed = with(&["--out", "one"]);
    assert_eq!((healed["summary"]["steps"].as_u64(), healed["summary"]["teacher"].is_number()), (Some(4), true));
    let weights = |folder: &str| fs::read(place.path(folder).join("heal/model.safetensors")).unwrap();
    let first = weights("one");
    with(&["--out", "one"]);
    with(&["--out", "two", "--threads", "1"]);
    assert!(first == weights("one") && first == weights("two"), "again, and on one thread");
    let looked = with(&["--out", "three", "--validation", "test.safetensors"]);
    assert_ne!(looked["summary"]["before"], healed["summary"]["before"], "other images are looked at");
    assert!(place.done(&["eval", "one/heal", "--images", "test.safetensors"]).status.success());

    let card = text(&place.done(&["publish", "one/heal", "--repo", "me/vit", "--dry-run"]).stdout);
    for wanted in ["pipeline_tag: \"image-classification\"", "AutoImageProcessor", "`taper export --to onnx`"] {
        assert!(card.contains(wanted), "{wanted}: {card}");
    }
    assert!(!card.contains("CausalLM") && !card.contains("perplexity"), "{card}");
}

/// As DINOv2 is published: positions of other images than the processor makes.
#[test]
fn a_classifier_is_run_at_the_resolution_that_its_processor_makes() {
    let place = place("dinov2");
    let size = json!({"image_processor_type": "BitImageProcessor", "do_resize": true, "size": {"shortest_edge": 28},
        "crop_size": {"height": 24, "width": 28}});
    place.write("vit/preprocessor_config.json", size.to_string().as_bytes());
    let with = |args: &[&str]| {
        let output = place.taper(&[args, &["--json"]].concat()).env("XDG_CACHE_HOME", "cache").output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let found = with(&["eval", "vit", "--images", "test.safetensors"]);
    assert_eq!(found["images"].as_u64(), Some(20));
    let report = with(&["run", "vit.yaml"]);
    let original = &report["eval"]["rows"][0]["classified"];
    let [one, other] = [&found["loss"], &original["loss"]].map(|loss| loss.as_f64().unwrap());
    assert!((one - other).abs() < 1e-6, "{one} {other}");
    let config: Value = serde_json::from_slice(&fs::read(place.path("runs/vit/heal/config.json")).unwrap()).unwrap();
    assert_eq!(config["image_size"], json!([24, 28]));
    assert_eq!(with(&["run", "vit.yaml"])["worked"], json!([]));
    let healed = with(&["eval", "runs/vit/heal", "--images", "test.safetensors"]);
    assert_eq!(healed["confusion"], report["eval"]["rows"][2]["classified"]["confusion"]);
}

#[test]
fn no_byte_of_a_classifier_depends_on_the_number_of_threads() {
    let place = place("dinov2");
    let size = json!({"image_processor_type": "BitImageProcessor", "do_resize": true, "size": {"shortest_edge": 20},
        "crop_size": {"height": 20, "width": 20}});
    place.write("vit/preprocessor_config.json", size.to_string().as_bytes());
    let run = |threads: &str, more: &[&str]| {
        place.done(&[&["run", "vit.yaml", "--runs", threads, "--threads", threads], more].concat());
        Results::of(&place.path(threads).join("vit"))
    };
    let (one, three) = (run("1", &[]), run("3", &[]));
    for (name, bytes) in &one.files {
        // times and paces
        if !name.contains("metrics") && !name.contains("events") {
            assert!(three.files[name] == *bytes, "{name}");
        }
    }
    assert!(one.files.keys().any(|name| name.starts_with("heal/model")));
}

#[test]
fn two_classifiers_are_compared_image_by_image() {
    let place = place("vit-plain");
    let found = json_of(&place, &["eval", "vit", "--images", "test.safetensors", "--against", "vit", "--first", "7"]);
    assert_eq!((found["images"].as_u64(), found["against"]["gained"].as_u64()), (Some(7), Some(0)));
    assert_eq!((found["against"]["difference"].as_f64(), found["against"]["lost"].as_u64()), (Some(0.0), Some(0)));
    let said = text(&place.done(&["eval", "vit", "--images", "test.safetensors"]).stdout);
    assert!(said.starts_with("top-1 ") && said.contains("20 images of test.safetensors"), "{said}");
    let said = text(&place.done(&["inspect", "vit"]).stdout);
    assert!(said.contains("16 x 16 pixels in patches of 4, 5 classes"), "{said}");
}

#[test]
fn what_does_not_fit_is_refused_before_it_costs_anything() {
    let place = place("vit-plain");
    let refusal = |args: &[&str]| {
        let output = place.output(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        text(&output.stderr)
    };
    let recipe = |from: &str, to: &str| {
        assert!(RECIPE.contains(from), "{from}");
        place.write("odd.yaml", RECIPE.replacen(from, to, 1).as_bytes());
        refusal(&["run", "odd.yaml"])
    };
    for (said, wanted) in [
        (recipe("images: ./train.safetensors, ", ""), "missing field `text` or `images`"),
        (recipe("{ images: ./train", "{ text: a.txt, images: ./train"), "`text` and `images`; wanted one of them"),
        (recipe("images: ./train.safetensors", "text: ./text.txt"), "images, but `data` is of text"),
        (recipe("model: ./vit", "model: ./vit\ndevice: cuda"), "classifiers of images are computed on the CPU"),
        (recipe("model: ./vit", "model: ./model"), "the model reads text, and is given `data.images`"),
        (recipe("sequences: 8,", "sequences: 70,"), "are in the calibration split, wanted 70"),
        (recipe("augment: { shift", "length: 9, augment: { shift"), "a length of text, but `data` is of images"),
        (recipe("mixup: 0.3", "mixup: 2"), "mixup is 2, wanted a number from 0 to 1"),
        (recipe("./train.safetensors", "./none.safetensors"), "none.safetensors"),
        (refusal(&["eval", "vit", "--text", "text.txt"]), "tokenizer"),
        (refusal(&["eval", "model", "--images", "test.safetensors"]), "the model reads text"),
        (refusal(&["heal", "vit", "--data", "text.txt"]), "the model reads images, and is given `--data`"),
        (refusal(&["heal", "model", "--images", "train.safetensors"]), "the model reads text, and is given `--images`"),
        (
            refusal(&["heal", "vit", "--images", "train.safetensors", "--length", "9"]),
            "a length of text, but the model reads images",
        ),
        (refusal(&["export", "model", "--to", "onnx"]), "only classifiers of images become graphs"),
        (refusal(&["export", "vit", "--to", "gguf"]), "it holds no classifiers of images"),
        (refusal(&["export", "vit", "--to", "vllm"]), "it runs no classifiers of images"),
    ] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    fs::remove_file(place.path("vit/preprocessor_config.json")).unwrap();
    let said = refusal(&["run", "vit.yaml"]);
    assert!(said.contains("preprocessor_config.json: is missing"), "{said}");
    assert!(!Path::new(&place.path("runs/vit/search")).exists());
}
