//! Exports, and what `verify` says of engines: absent, broken, wrong.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use insta_cmd::assert_cmd_snapshot;
use serde_json::Value;

use crate::support::{Place, text};

/// A place with a Python of its own, which answers `says`, whatever it is asked.
fn place(says: &str) -> (Place, PathBuf) {
    let place = Place::new();
    place.write("python", format!("#!/bin/sh\ncat > asked.json\n{says}\n").as_bytes());
    let python = place.path("python");
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
    (place, python)
}

#[test]
fn files_are_whole_and_their_sizes_are_told() {
    let place = Place::new();
    place.done(&["prune", "tiny.yaml"]);
    let output = place.done(&["export", "runs/tiny", "--to", "gguf:f32,gguf:q4_k_m,gguf", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let exported = report["exported"].as_array().unwrap();
    let targets: Vec<_> = exported.iter().map(|one| one["target"].as_str().unwrap()).collect();
    assert_eq!(targets, ["gguf:f32", "gguf:q4_k_m", "gguf:f16"]);
    for one in exported {
        let path = place.path(one["path"].as_str().unwrap());
        let bytes = fs::read(&path).unwrap();
        assert_eq!((&bytes[..4], bytes.len() as u64), (&b"GGUF"[..], one["bytes"].as_u64().unwrap()));
        assert_eq!(one["architecture"], "deci");
    }
    let names: Vec<_> = fs::read_dir(place.path("runs/tiny/export")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    let again = place.done(&["export", "runs/tiny", "--to", "gguf:q4_k_m", "--out", "again", "--json"]);
    let again: Value = serde_json::from_slice(&again.stdout).unwrap();
    let read = |report: &Value, index: usize| {
        fs::read(place.path(report["exported"][index]["path"].as_str().unwrap())).unwrap()
    };
    assert!(read(&report, 1) == read(&again, 0), "the same bytes");
}

#[test]
fn folders_hold_the_same_weights_under_another_configuration() {
    let place = Place::new();
    place.done(&["prune", "tiny.yaml"]);
    let output = place.done(&["export", "runs/tiny", "--to", "vllm,transformers", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let read = |folder: &str, name: &str| fs::read(place.path(folder).join(name)).unwrap();
    let pruned = "runs/tiny/materialise";
    for one in report["exported"].as_array().unwrap() {
        let folder = one["path"].as_str().unwrap();
        assert!(read(folder, "model.safetensors") == read(pruned, "model.safetensors"));
        assert!(read(folder, "tokenizer.json") == read(pruned, "tokenizer.json"));
    }
    let plain = report["exported"][1]["path"].as_str().unwrap();
    let config = |folder: &str| serde_json::from_slice::<Value>(&read(folder, "config.json")).unwrap();
    assert_eq!(config(plain), config(pruned));
    let (vllm, told) =
        (config(report["exported"][0]["path"].as_str().unwrap()), &report["exported"][0]["architecture"]);
    if told == "DeciLMForCausalLM: --trust-remote-code" {
        let blocks = vllm["block_configs"].as_array().unwrap().len() as u64;
        assert_eq!((&vllm["model_type"], Some(blocks)), (&"nemotron-nas".into(), vllm["num_hidden_layers"].as_u64()));
    } else {
        assert_eq!((vllm, told.as_str()), (config(pruned), Some("--model-impl transformers --trust-remote-code")));
    }
}

#[test]
fn a_gguf_file_is_read_back_as_the_same_model() {
    let place = Place::new();
    place.done(&["prune", "tiny.yaml"]);
    let run = |args: &[&str]| {
        let output = place.taper(args).env("XDG_CACHE_HOME", "cache").output().unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    place.done(&["export", "runs/tiny", "--to", "gguf:f32,gguf:q8_0", "--out", "files"]);
    let eval = |model: &str| run(&["eval", model, "--text", "text.txt", "--tokens", "2000", "--json"]).1;
    let loss = |report: &str| serde_json::from_str::<Value>(report).unwrap()["loss"].as_f64().unwrap();
    let own = loss(&eval("runs/tiny/materialise"));
    assert_eq!(loss(&eval("files/tiny-f32.gguf")), own);
    let unpacked = walk(&place.path("cache/taper/gguf"));
    assert!(unpacked.iter().any(|path| path.ends_with("tiny-f32/model.safetensors")), "{unpacked:?}");
    assert_eq!(loss(&eval("files/tiny-f32.gguf")), own); // from the cache

    place.write("cut.gguf", &fs::read(place.path("files/tiny-f32.gguf")).unwrap()[..5000]);
    place.write("other.gguf", b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    place.write("none.gguf", b"GGML");
    for (file, reason) in [
        ("files/tiny-q8_0.gguf", "is Q8_0: taper reads F32, F16 and BF16"),
        ("cut.gguf", "bytes, and "),
        ("other.gguf", "has no key `taper.config`, so taper did not write it"),
        ("none.gguf", "no GGUF file: it does not begin with `GGUF`"),
    ] {
        let (code, _, said) = run(&["inspect", file]);
        assert!(code == Some(2) && said.contains(file) && said.contains(reason), "{file}: {said}");
    }
}

/// All files under a folder.
fn walk(dir: &std::path::Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn a_padded_model_is_plain_and_computes_the_same() {
    let place = Place::new();
    place.done(&["prune", "tiny.yaml"]);
    let export =
        ["export", "runs/tiny", "--uniform-pad", "--to", "transformers,vllm,gguf:f32", "--out", "files", "--json"];
    let report: Value = serde_json::from_slice(&place.done(&export).stdout).unwrap();
    let loaders: Vec<_> =
        report["exported"].as_array().unwrap().iter().map(|one| one["architecture"].as_str()).collect();
    assert_eq!(loaders, [Some("the family's own class"), Some("the family's own class"), Some("llama")]);
    let names: Vec<_> = fs::read_dir(place.path("files")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    let config = fs::read(place.path("files/tiny-padded-transformers/config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    assert_eq!((config.get("per_layer_config"), config.get("auto_map")), (None, None));
    let loss = |model: &str| {
        let output = place.done(&["eval", model, "--text", "text.txt", "--tokens", "2000", "--json"]);
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["loss"].as_f64().unwrap()
    };
    let (own, padded) = (loss("runs/tiny/materialise"), loss("files/tiny-padded-transformers"));
    assert!((own - padded).abs() < 1e-5, "{own} {padded}");
}

#[test]
fn a_folder_for_vllm_is_read_back_as_the_same_model() {
    let place = Place::new();
    place.change("space: {", "space: { heads: false, groups: false, ");
    place.done(&["prune", "tiny.yaml"]);
    let output = place.done(&["export", "runs/tiny", "--to", "vllm", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["exported"][0]["architecture"], "DeciLMForCausalLM: --trust-remote-code");
    let folder = report["exported"][0]["path"].as_str().unwrap();
    let numbers = |command: &str, model: &str, more: &[&str], key: &str| -> Value {
        let output = place.done(&[&[command, model, "--json"], more].concat());
        serde_json::from_slice::<Value>(&output.stdout).unwrap()[key].clone()
    };
    let inspect = |model| numbers("inspect", model, &[], "blocks");
    assert_eq!(inspect(folder), inspect("runs/tiny/materialise"));
    let eval = |model| numbers("eval", model, &["--text", "text.txt", "--tokens", "2000"], "loss");
    assert!(eval(folder).as_f64().is_some_and(f64::is_finite));
    assert_eq!(eval(folder), eval("runs/tiny/materialise"));
}

/// The recipe of all these tests, with engines that must load the result.
fn recipe(place: &Place, targets: &str) -> String {
    let tiny = fs::read_to_string(place.path("tiny.yaml")).unwrap();
    place.write("loads.yaml", format!("{tiny}\nexport: {{targets: [{targets}]}}\n").as_bytes());
    "loads.yaml".to_owned()
}

#[test]
fn a_recipe_demands_engines_and_gets_their_files() {
    let place = Place::new();
    let recipe = recipe(&place, "vllm, 'gguf:q8_0', transformers");
    let check = text(&place.done(&["check", &recipe]).stdout);
    for line in [
        "note: export.targets: vllm sets `drop_attention: false` in `space`: its Transformers backend",
        "sound. loads from",
    ] {
        assert!(check.contains(line), "{check}");
    }
    let first = text(&place.done(&["run", &recipe]).stdout);
    let lines: Vec<&str> = first.lines().filter(|line| line.contains("runs/loads/export/loads-")).collect();
    assert_eq!(lines.len(), 3, "{first}");
    assert!(lines[0].starts_with("vllm ") && lines[1].contains("/loads-q8_0.gguf "), "{first}");
    let architecture = fs::read_to_string(place.path("runs/loads/search/architecture.json")).unwrap();
    let blocks = serde_json::from_str::<Value>(&architecture).unwrap()["blocks"].clone();
    assert!(blocks.as_array().unwrap().iter().all(|block| !block["attention"].is_null()), "{blocks}");
    let lock = fs::read_to_string(place.path("runs/loads/materialise/taper.lock")).unwrap();
    assert!(lock.contains("\"drop_attention\": false"), "{lock}");

    let gguf = place.path("runs/loads/export/loads-q8_0.gguf");
    let bytes = fs::read(&gguf).unwrap();
    assert!(text(&place.done(&["run", &recipe]).stdout).contains("Nothing to do"));
    fs::remove_file(&gguf).unwrap();
    let again: Value = serde_json::from_slice(&place.done(&["run", &recipe, "--json"]).stdout).unwrap();
    assert_eq!(again["worked"], serde_json::json!(["export"]));
    assert!(fs::read(&gguf).unwrap() == bytes, "the same bytes");
}

#[test]
fn wrong_targets_of_a_recipe_are_told_with_their_line() {
    let place = Place::new();
    for (targets, wanted) in [
        ("trt", "unknown target `trt`; known: onnx, transformers, vllm, gguf:bf16"),
        ("'gguf:q4_k'", "unknown type `q4_k`"),
        ("", "no targets; leave `export` out, or name an engine"),
        ("vllm, 'llama.cpp', gguf", "`gguf:f16` is there twice"),
    ] {
        let recipe = recipe(&place, targets);
        let said = {
            let output = place.output(&["check", &recipe]);
            assert_eq!(output.status.code(), Some(2));
            text(&output.stderr)
        };
        assert!(said.contains(wanted) && said.contains("loads.yaml:"), "{targets}: {said}");
    }
}

#[test]
fn wrong_targets_and_models_are_told() {
    let place = Place::new();
    assert_cmd_snapshot!(place.taper(&["export", "model", "--to", "gguf:q4_k"]), @"
    success: false
    exit_code: 2
    ----- stdout -----

    ----- stderr -----
    error: invalid value 'gguf:q4_k' for '--to <TARGETS>': unknown type `q4_k`, did you mean `q4_0`?; known: bf16, f16, f32, q4_0, q4_k_m, q4_k_s, q5_k_m, q5_k_s, q6_k, q8_0

    For more information, try '--help'.
    ");
    assert_cmd_snapshot!(place.taper(&["export", "model", "--to", "trt"]), @"
    success: false
    exit_code: 2
    ----- stdout -----

    ----- stderr -----
    error: invalid value 'trt' for '--to <TARGETS>': unknown target `trt`; known: onnx, transformers, vllm, gguf:bf16, gguf:f16, gguf:f32, gguf:q4_0, gguf:q4_k_m, gguf:q4_k_s, gguf:q5_k_m, gguf:q5_k_s, gguf:q6_k, gguf:q8_0

    For more information, try '--help'.
    ");
    assert_cmd_snapshot!(place.taper(&["export", "./nothing", "--to", "gguf"]), @"
    success: false
    exit_code: 2
    ----- stdout -----

    ----- stderr -----
    error: ./nothing: no such folder; a model on the Hub is named `owner/name`, without ./ or / before it
    ");
}

#[test]
fn a_recipe_that_pads_keeps_its_freedom() {
    let place = Place::new();
    let tiny = fs::read_to_string(place.path("tiny.yaml")).unwrap();
    place.write("pads.yaml", format!("{tiny}\nexport: {{targets: [vllm, gguf:f16], uniform_pad: true}}\n").as_bytes());
    let checked = text(&place.done(&["check", "pads.yaml"]).stdout);
    assert!(!checked.contains("export.targets: vllm sets"), "{checked}");
    place.done(&["run", "pads.yaml"]);
    let folder = place.path("runs/pads/export");
    let mut names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["key.json", "pads-padded-f16.gguf", "pads-padded-vllm"]);
    let own = fs::read_to_string(place.path("runs/pads/materialise/config.json")).unwrap();
    let padded = fs::read_to_string(folder.join("pads-padded-vllm/config.json")).unwrap();
    assert!(own.contains("per_layer_config") && !padded.contains("per_layer_config"), "{padded}");
    let again = text(&place.done(&["run", "pads.yaml"]).stderr);
    assert!(!again.contains("transformers"), "{again}");
}

#[test]
fn every_export_is_verified_in_its_engine() {
    let (place, python) = place(r#"echo '{"absent": "No module"}'"#);
    for target in ["transformers", "vllm", "gguf:f16"] {
        place.done(&["export", "./model", "--to", target, "--out", "files"]);
    }
    place.write("files/notes.txt", b"not an export");
    let output =
        place.output(&["verify", "./model", "--exports", "files", "--python", python.to_str().unwrap(), "--json"]);
    let found: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let engines: Vec<_> = found.iter().map(|one| one["engine"].as_str().unwrap()).collect();
    assert_eq!(engines, ["transformers", "llama.cpp", "transformers", "vllm"]);
    assert_eq!(found[3]["help"], "pip install vllm, on a machine with a GPU");
    let asked: Value = serde_json::from_slice(&fs::read(place.path("asked.json")).unwrap()).unwrap();
    assert_eq!((asked["engine"].as_str(), asked["options"].to_string()), (Some("vllm"), "{}".to_owned()));
}

#[test]
fn an_absent_engine_is_said_and_how_to_install_it() {
    let (place, python) = place(r#"echo chatter; echo '{"absent": "No module named torch"}'"#);
    let output = place.output(&["verify", "./model", "--python", python.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    assert!(said.contains("absent   No module named torch; pip install torch transformers"), "{said}");
    let asked: Value = serde_json::from_slice(&fs::read(place.path("asked.json")).unwrap()).unwrap();
    assert_eq!((asked["engine"].as_str(), asked["generate"].as_u64()), (Some("transformers"), Some(64)));
}

#[test]
fn an_engine_that_breaks_or_gives_other_numbers_is_exit_code_1() {
    let (broken, python) = place("echo assertion failed >&2; exit 134");
    let output = broken.output(&["verify", "./model", "--python", python.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("FAILED   exit status: 134: assertion failed"), "{}", text(&output.stdout));
    // as many logits as wanted, all of them 0
    let zeros = "out=$(sed 's/.*\"output\":\"\\([^\"]*\\)\".*/\\1/' asked.json)\nhead -c 9999999 /dev/zero | head -c $((4 * 48 * 512 * 4)) > \"$out\"\necho '{\"version\": \"zeros 1\", \"text\": [1]}'";
    let (wrong, python) = place(zeros);
    let output = wrong.output(&["verify", "./model", "--python", python.to_str().unwrap(), "--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(found[0]["same"] == false && found[0]["agree"] == serde_json::json!([0, 64]), "{found}");
    assert!(found[0]["divergence"].as_f64().unwrap() > 0.1, "{found}");
}
