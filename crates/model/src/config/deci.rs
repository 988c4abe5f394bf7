//! `nemotron-nas`: Llama or Qwen2 whose blocks differ, as NVIDIA's Puzzle models and taper's folders for vLLM tell it.
//!
//! `block_configs[i]` has `attention` (`no_op`, `n_heads_in_group`) and `ffn` (`no_op`, and `intermediate_size` or `ffn_mult`, of
//! which vLLM makes `2 · ffn_mult · hidden_size / 3`, rounded up to 256). It is turned into the same model's configuration with
//! `per_layer_config`. Source: vLLM 0.33.0, `model_executor/models/nemotron_nas.py`.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::{ModelError, Result};

/// What such a model is called.
const NAME: &str = "nemotron-nas";

/// Keys that say it, and have no meaning in the other form.
const OWN: [&str; 4] = ["architectures", "auto_map", "block_configs", "qkv_bias"];

/// The configuration in the form of transformers, if it is such a one.
pub(crate) fn translated(path: &Path, config: &Value) -> Result<Option<Value>> {
    let Some(keys) = config.as_object().filter(|keys| keys.get("model_type").is_some_and(|name| name == NAME)) else {
        return Ok(None);
    };
    let wrong = |reason: String| ModelError::Config { path: path.to_owned(), reason };
    let count = |key: &str| {
        let found = keys.get(key).and_then(Value::as_u64).filter(|count| *count > 0);
        found.ok_or_else(|| wrong(format!("`{key}` is missing or no whole number above 0")))
    };
    let (heads, d_model) = (count("num_attention_heads")?, count("hidden_size")?);
    let blocks = keys.get("block_configs").and_then(Value::as_array);
    let blocks = blocks.ok_or_else(|| wrong("`block_configs` is missing or no list".to_owned()))?;
    if blocks.len() as u64 != count("num_hidden_layers")? {
        return Err(wrong(format!("`block_configs` has {} entries, wanted one a layer", blocks.len())));
    }
    let mut own = Map::new();
    for (index, block) in blocks.iter().enumerate() {
        let layer = layer(block, heads, d_model);
        own.insert(index.to_string(), layer.map_err(|reason| wrong(format!("`block_configs.{index}.{reason}")))?);
    }
    let mut config = keys.clone();
    config.retain(|key, _| !OWN.contains(&key.as_str()));
    // every layer says its own; these are only there because they must be
    config.insert("num_key_value_heads".to_owned(), json!(heads));
    config.insert("intermediate_size".to_owned(), json!(1));
    config.insert("per_layer_config".to_owned(), Value::Object(own));
    let flag = |key: &str| keys.get(key).and_then(Value::as_bool).unwrap_or(false);
    let qwen2 = flag("qkv_bias") && !flag("attention_bias"); // biases of q, k and v and none of the output
    config.insert("model_type".to_owned(), json!(if qwen2 { "qwen2" } else { "llama" }));
    Ok(Some(Value::Object(config)))
}

/// One layer's own keys, or the key of `block` that is wrong and why.
fn layer(block: &Value, heads: u64, d_model: u64) -> std::result::Result<Value, String> {
    let mut own = Map::new();
    let mut skip = Vec::new();
    let flag = |half: &str, key: &str| block[half].get(key).and_then(Value::as_bool).unwrap_or(false);
    for half in ["attention", "ffn"] {
        if !block[half].is_object() {
            return Err(format!("{half}` is missing or no object"));
        }
        if flag(half, "replace_with_linear") {
            return Err(format!("{half}.replace_with_linear` is true, which taper cannot read"));
        }
    }
    if flag("attention", "no_op") {
        skip.push("attention");
    } else {
        let group = block["attention"]["n_heads_in_group"].as_u64().filter(|n| *n > 0 && heads.is_multiple_of(*n));
        let group = group.ok_or_else(|| format!("attention.n_heads_in_group` is no divisor of {heads} heads"))?;
        own.insert("num_key_value_heads".to_owned(), json!(heads / group));
    }
    if flag("ffn", "no_op") {
        skip.push("mlp");
    } else {
        let ffn = &block["ffn"];
        let rounded = |mult: f64| ((2.0 * mult * d_model as f64 / 3.0) as u64).next_multiple_of(256);
        let from_mult = ffn["ffn_mult"].as_f64().filter(|mult| (1e-3..1e3).contains(mult)).map(rounded);
        let size = ffn["intermediate_size"].as_u64().or(from_mult).filter(|size| *size > 0);
        let size = size.ok_or("ffn` has no sound `intermediate_size` or `ffn_mult`")?;
        own.insert("intermediate_size".to_owned(), json!(size));
    }
    own.insert("skip".to_owned(), json!(skip));
    Ok(Value::Object(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Value {
        let block = |attention: Value, ffn: Value| json!({"attention": attention, "ffn": ffn});
        json!({"model_type": NAME, "hidden_size": 768, "num_attention_heads": 8, "num_hidden_layers": 2, "rope_theta": 5e5,
        "block_configs": [
            block(json!({"no_op": false, "n_heads_in_group": 4}), json!({"no_op": true})),
            block(json!({"no_op": true, "n_heads_in_group": null}), json!({"ffn_mult": 1.3})),
        ]})
    }

    #[test]
    fn blocks_become_layers_of_their_own() {
        let found = translated(Path::new("c"), &config()).unwrap().unwrap();
        // 2 · 1.3 · 768 / 3 = 665.6, rounded up to 768
        let own = json!({
            "0": {"num_key_value_heads": 2, "skip": ["mlp"]},
            "1": {"intermediate_size": 768, "skip": ["attention"]},
        });
        assert_eq!((&found["per_layer_config"], &found["model_type"]), (&own, &json!("llama")));
        assert_eq!((&found["rope_theta"], found.get("block_configs")), (&json!(5e5), None));
        let mut biased = config();
        biased["qkv_bias"] = json!(true);
        assert_eq!(translated(Path::new("c"), &biased).unwrap().unwrap()["model_type"], "qwen2");
        assert_eq!(translated(Path::new("c"), &json!({"model_type": "llama"})).unwrap(), None);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_layer() {
        let refusal = |change: &dyn Fn(&mut Value)| {
            let mut config = config();
            change(&mut config);
            translated(Path::new("c"), &config).unwrap_err().to_string()
        };
        let heads = refusal(&|c| c["block_configs"][0]["attention"]["n_heads_in_group"] = json!(3));
        assert_eq!(heads, "c: `block_configs.0.attention.n_heads_in_group` is no divisor of 8 heads");
        let linear = refusal(&|c| c["block_configs"][1]["ffn"]["replace_with_linear"] = json!(true));
        assert_eq!(linear, "c: `block_configs.1.ffn.replace_with_linear` is true, which taper cannot read");
        let few = refusal(&|c| c["num_hidden_layers"] = json!(3));
        assert_eq!(few, "c: `block_configs` has 2 entries, wanted one a layer");
        let none = refusal(&|c| c["block_configs"][1] = json!({"attention": {"no_op": true}}));
        assert_eq!(none, "c: `block_configs.1.ffn` is missing or no object");
    }
}
