//! What lies in the folder: files missing, empty, of another kind, and the index that names them.

use serde_json::{Value, json};
use taper_base::rng::{RngExt, stream};

use crate::{Folder, Trials, Want};

const INDEX: &str = "model.safetensors.index.json";

/// The index with `tensor` said to be in `file`.
fn redirected(folder: &Folder, tensor: &str, file: Value) -> Folder {
    let mut index: Value = serde_json::from_slice(&folder.0[INDEX]).unwrap();
    index["weight_map"][tensor] = file;
    folder.with(INDEX, index.to_string())
}

#[test]
fn every_file_is_missed_and_not_taken_when_empty_or_a_folder() {
    let mut trials = Trials::start();
    for folder in [Folder::single(), Folder::sharded()] {
        for name in folder.0.keys() {
            let missing = folder.without(name);
            trials.run(&format!("{name} deleted"), &missing, Want::Refusal(&[name]));
            trials.run(&format!("{name} empty"), &folder.with(name, []), Want::Refusal(&[name]));
            let place = tempfile::tempdir().unwrap();
            missing.write(place.path());
            std::fs::create_dir(place.path().join(name)).unwrap();
            trials.run_in(&format!("{name} is a folder"), place.path(), 0, Want::Refusal(&[name]));
        }
    }
    let place = tempfile::tempdir().unwrap();
    trials.run_in("nothing", place.path(), 0, Want::Refusal(&["config.json"]));
    trials.run_in("no folder", &place.path().join("none"), 0, Want::Refusal(&["config.json"]));
    trials.finish("missing files", 20);
}

#[test]
fn pickles_are_named_and_not_read() {
    let (mut trials, folder) = (Trials::start(), Folder::single().without("model.safetensors"));
    for name in ["pytorch_model.bin", "model.pt", "a.pth", "last.ckpt", "pytorch_model-00001-of-00002.bin"] {
        let wanted = [name, "is a pickle"];
        trials.run(name, &folder.with(name, b"PK\x03\x04".as_slice()), Want::Refusal(&wanted));
    }
    trials.finish("pickles", 5);
}

#[test]
fn shards_are_checked_like_a_single_file() {
    let (mut trials, folder) = (Trials::start(), Folder::sharded());
    let shards = folder.shards();
    for seed in 0..20 {
        let mut rng = stream(30, "shards", seed, 0);
        let name = &shards[rng.random_range(0..shards.len())];
        let mut bytes = folder.0[name].clone();
        let kept = rng.random_range(0..bytes.len());
        trials.run(&format!("{kept} bytes of {name}"), &folder.with(name, &bytes[..kept]), Want::Refusal(&[name]));
        bytes[kept] ^= 1 << rng.random_range(0..8);
        trials.run(&format!("byte {kept} of {name} flipped"), &folder.with(name, bytes), Want::RefusalOrModel(&[]));
    }
    let twice =
        redirected(&folder, "copy", json!("copy.safetensors")).with("copy.safetensors", folder.0[&shards[1]].clone());
    trials.run("the same shard twice", &twice, Want::Refusal(&["copy.safetensors", &shards[1], "tensor `"]));
    let swapped = folder.with(&shards[0], folder.0[&shards[1]].clone());
    trials.run("one shard instead of another", &swapped, Want::Refusal(&[&shards[0], &shards[1], "tensor `"]));
    trials.finish("shards", 42);
}

#[test]
fn an_index_stays_within_its_folder() {
    let (mut trials, folder) = (Trials::start(), Folder::sharded());
    let (tensor, shard) = ("model.norm.weight", &folder.shards()[0]);
    let outside = [
        "../model.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "..",
        ".",
        "",
        "/",
        "./x",
        "x/",
        "../../../../dev/zero",
    ];
    let inside = [format!("./{shard}"), format!("{shard}/"), format!("../{shard}"), format!("//{shard}")];
    let odd = [json!(5), json!(null), json!([shard]), json!({"file": shard}), json!(true)];
    let all = outside.iter().map(|name| json!(name)).chain(inside.iter().map(|name| json!(name))).chain(odd);
    for file in all {
        let about = format!("{tensor} in {file}");
        trials.run(&about, &redirected(&folder, tensor, file), Want::Refusal(&[INDEX, &format!("`{tensor}`")]));
    }
    for file in ["none.safetensors", "a\0b", "config.json", INDEX, "..\\x", "\u{1F980}"] {
        let about = format!("{tensor} in {file}");
        trials.run(&about, &redirected(&folder, tensor, json!(file)), Want::Refusal(&[file]));
    }
    trials.finish("paths in the index", 25);
}

#[test]
fn a_damaged_index_is_refused_or_harmless() {
    let (mut trials, folder) = (Trials::start(), Folder::sharded());
    let bytes = &folder.0[INDEX];
    for seed in 0..12 {
        let kept = stream(31, "truncate", seed, 0).random_range(0..bytes.len() - 2);
        trials.run(&format!("{kept} bytes"), &folder.with(INDEX, &bytes[..kept]), Want::Refusal(&[INDEX]));
    }
    for seed in 0..40 {
        let mut rng = stream(32, "flip", seed, 0);
        let mut bytes = bytes.clone();
        let at = rng.random_range(0..bytes.len());
        bytes[at] ^= 1 << rng.random_range(0..8);
        trials.run(&format!("byte {at} flipped"), &folder.with(INDEX, bytes), Want::RefusalOrModel(&[]));
    }
    let deep = "{\"weight_map\":".repeat(100_000);
    for text in
        ["", "{}", "[]", "null", r#"{"weight_map": []}"#, r#"{"weight_map": {}}"#, r#"{"weight_map": null}"#, &deep]
    {
        let about = format!("index {}", text.chars().take(30).collect::<String>());
        trials.run(&about, &folder.with(INDEX, text), Want::Refusal(&[INDEX]));
    }
    trials.finish("indices", 60);
}
