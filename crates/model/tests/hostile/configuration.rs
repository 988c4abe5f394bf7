//! `config.json`: cut short, flipped, of wrong types, absurd.

use serde_json::{Value, json};
use taper_base::rng::{RngExt, stream};

use crate::{Folder, Trials, Want};

const FILE: &str = "config.json";
/// A number in any of these decides about shapes.
const SIZES: [&str; 6] = [
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "vocab_size",
];

fn changed(folder: &Folder, key: &str, value: Value) -> Folder {
    let mut config: Value = serde_json::from_slice(&folder.0[FILE]).unwrap();
    config[key] = value;
    folder.with(FILE, config.to_string())
}

#[test]
fn a_configuration_cut_short_or_flipped_is_refused_or_harmless() {
    let (mut trials, folder) = (Trials::start(), Folder::single());
    let bytes = &folder.0[FILE];
    for seed in 0..15 {
        let kept = stream(20, "truncate", seed, 0).random_range(0..bytes.len() - 2); // the last two are a brace and a newline
        trials.run(&format!("{kept} bytes"), &folder.with(FILE, &bytes[..kept]), Want::Refusal(&[FILE]));
    }
    for seed in 0..60 {
        let mut rng = stream(21, "flip", seed, 0);
        let mut bytes = bytes.clone();
        let at = rng.random_range(0..bytes.len());
        bytes[at] ^= 1 << rng.random_range(0..8);
        let about = format!("byte {at} flipped: {}", String::from_utf8_lossy(&bytes));
        trials.run(&about, &folder.with(FILE, bytes), Want::RefusalOrModel(&[])); // sizes are noticed at the weights
    }
    trials.finish("configurations cut short or flipped", 75);
}

#[test]
fn absurd_numbers_are_refused_at_once() {
    let (mut trials, folder) = (Trials::start(), Folder::single());
    let absurd =
        [json!(0), json!(-1), json!(0.5), json!(1_000_000), json!(1_u64 << 32), json!(i64::MAX), json!(u64::MAX)];
    for key in SIZES {
        for value in absurd.iter().chain(&[json!(1e308), json!(3)]) {
            trials.run(&format!("{key} is {value}"), &changed(&folder, key, value.clone()), Want::Refusal(&[]));
        }
        for value in ["1e400", "-0", "99999999999999999999999999999999", "NaN", "0x10", "1e6"] {
            let text = changed(&folder, key, json!("HERE")).0[FILE].clone();
            let text = String::from_utf8(text).unwrap().replace("\"HERE\"", value);
            trials.run(&format!("{key} is {value}"), &folder.with(FILE, text), Want::Refusal(&[FILE]));
        }
    }
    for value in &absurd {
        trials.run(&format!("head_dim is {value}"), &changed(&folder, "head_dim", value.clone()), Want::Refusal(&[]));
        for key in ["max_position_embeddings", "rms_norm_eps", "rope_theta"] {
            let about = format!("{key} is {value}");
            trials.run(&about, &changed(&folder, key, value.clone()), Want::RefusalOrModel(&[FILE, key]));
        }
        for key in ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"] {
            let mut scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 64});
            scaling[key] = value.clone();
            let about = format!("rope scaling {scaling}");
            trials.run(&about, &changed(&folder, "rope_scaling", scaling), Want::RefusalOrModel(&[FILE]));
        }
    }
    trials.finish("absurd numbers", 130);
}

#[test]
fn values_of_wrong_types_are_named() {
    let (mut trials, folder) = (Trials::start(), Folder::single());
    let wrong = [json!("8"), json!([]), json!({}), json!(true), json!([1, 2])];
    let others = ["max_position_embeddings", "rms_norm_eps", "rope_theta", "model_type", "hidden_act", "head_dim"];
    for key in SIZES.into_iter().chain(others) {
        for value in &wrong {
            let about = format!("{key} is {value}");
            trials.run(&about, &changed(&folder, key, value.clone()), Want::Refusal(&[FILE, &format!("`{key}`")]));
        }
    }
    for key in ["tie_word_embeddings", "attention_bias", "mlp_bias", "per_layer_config", "rope_scaling"] {
        for value in [json!("yes"), json!(1), json!([])] {
            let about = format!("{key} is {value}");
            trials.run(&about, &changed(&folder, key, value), Want::Refusal(&[FILE, &format!("`{key}`")]));
        }
    }
    for own in [json!({"9": {}}), json!({"x": {}}), json!({"0": 3}), json!({"0": {"skip": "mlp"}}), json!({"-1": {}})] {
        let about = format!("per_layer_config is {own}");
        trials.run(&about, &changed(&folder, "per_layer_config", own), Want::Refusal(&[FILE, "per_layer_config"]));
    }
    trials.finish("wrong types", 80);
}

#[test]
fn text_that_is_no_configuration_is_refused() {
    let (mut trials, folder) = (Trials::start(), Folder::single());
    let deep = ["[".repeat(500_000), r#"{"a":"#.repeat(200_000), format!("{{\"rope_scaling\":{}", "[".repeat(100_000))];
    let odd = ["", " ", "[]", "3", "null", "\"text\"", "{", "{}", "{\"model_type\":", "\u{feff}{}"];
    for text in deep.iter().map(String::as_str).chain(odd) {
        let about = format!("configuration {}", text.chars().take(30).collect::<String>());
        trials.run(&about, &folder.with(FILE, text), Want::Refusal(&[FILE]));
    }
    for at in [0, 5, 100] {
        let mut bytes = folder.0[FILE].clone();
        bytes.insert(at, 0xff);
        trials.run("not UTF-8", &folder.with(FILE, bytes), Want::Refusal(&[FILE]));
    }
    let lengthy = [b"{\"a\": \"".as_slice(), &vec![b'x'; 65 << 20], b"\"}"].concat();
    trials.run("65 MiB", &folder.with(FILE, lengthy), Want::Refusal(&[FILE, "larger than"]));
    trials.finish("texts", 17);
}

#[test]
fn another_family_or_another_model_does_not_fit_the_weights() {
    let (mut trials, folder) = (Trials::start(), Folder::single());
    for (key, value) in [
        ("model_type", json!("mistral")),
        ("model_type", json!("qwen3")),
        ("model_type", json!("gpt2")),
        ("attention_bias", json!(false)),
        ("mlp_bias", json!(false)),
        ("num_hidden_layers", json!(1)),
        ("num_hidden_layers", json!(4096)),
        ("quantization_config", json!({"bits": 4})),
        ("per_layer_config", json!({"0": {"skip": ["attention"]}})),
        ("per_layer_config", json!({"1": {"intermediate_size": 8}})),
    ] {
        let about = format!("{key} is {value}");
        trials.run(&about, &changed(&folder, key, value), Want::Refusal(&[]));
    }
    trials.finish("other models", 10);
}
