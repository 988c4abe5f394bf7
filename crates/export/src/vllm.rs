//! How vLLM is told of a cut model, and SGLang, which has the same class.
//!
//! Blocks all alike: the family's own class, so the layout is that of transformers. Blocks that differ in KV groups, channels or
//! whole halves: `DeciLMForCausalLM` with `block_configs`, which vLLM reads as objects, hence a small configuration class loaded as
//! remote code. Blocks that differ in query heads, or with q/k-norms: vLLM's Transformers backend runs the layout of transformers,
//! but needs an attention in every block. Source: vLLM 0.33.0, `model_executor/models/nemotron_nas.py`.

use serde_json::{Map, Value, json};
use taper_arch::{BlockSpec, Family, ModelSpec};

/// The configuration class written beside `config.json`.
pub const CLASS: (&str, &str) = ("configuration_decilm.py", include_str!("configuration_decilm.py"));

/// What vLLM loads.
#[derive(Debug, Clone, PartialEq)]
pub enum Layout {
    /// The layout of transformers, by vLLM's own class for the family.
    Native,
    /// The layout of transformers, by `--model-impl transformers --trust-remote-code`.
    Backend,
    /// `DeciLMForCausalLM`, `--trust-remote-code`: the content of `config.json`.
    Deci(Value),
}

/// The layout of `spec`, made from a model whose `config.json` was `source`.
///
/// # Errors
/// The rule that forbids it.
pub fn layout(spec: &ModelSpec, source: &Value) -> Result<Layout, String> {
    if spec.image.is_some() {
        return Err("it runs no classifiers of images".to_owned());
    }
    let first = spec.blocks.first().copied().unwrap_or(BlockSpec { attention: None, mlp: None });
    let alike = first.attention.is_some() && first.mlp.is_some() && spec.blocks.iter().all(|block| *block == first);
    let divides = first.attention.is_some_and(|a| spec.d_model.is_multiple_of(a.n_heads));
    if alike && (divides || spec.family != Family::Llama || !(spec.qkv_bias || spec.o_bias || spec.mlp_bias)) {
        return Ok(Layout::Native);
    }
    match deci(spec, source) {
        Ok(config) => Ok(Layout::Deci(config)),
        Err(rule) => match spec.blocks.iter().position(|block| block.attention.is_none()) {
            None => Ok(Layout::Backend),
            Some(index) => Err(format!(
                "{rule}; and its Transformers backend has an attention in every block, block {index} has none"
            )),
        },
    }
}

/// The configuration of `DeciLMForCausalLM`.
fn deci(spec: &ModelSpec, source: &Value) -> Result<Value, String> {
    let refuse = |rule: String| Err(format!("its DeciLM class {rule}"));
    let attentions: Vec<_> = spec.blocks.iter().filter_map(|block| block.attention).collect();
    let Some(first) = spec.blocks.first().and_then(|block| block.attention) else {
        return refuse("has an attention in block 0, which has none".to_owned());
    };
    let heads = first.n_heads;
    if let Some(other) = attentions.iter().find(|a| a.n_heads != heads) {
        return refuse(format!("has as many query heads in every block, these are {heads} and {}", other.n_heads));
    }
    if spec.qk_norm {
        return refuse("has no q/k-norms".to_owned());
    }
    if !spec.d_model.is_multiple_of(heads) {
        return refuse(format!("has a number of heads that divides the width: {heads} of {}", spec.d_model));
    }
    if attentions.iter().any(|a| a.window.is_some_and(|window| window < spec.max_tokens)) {
        return refuse("has no windows".to_owned());
    }
    let mut config = source.as_object().cloned().unwrap_or_default();
    const STALE: [&str; 8] = [
        "allow_global_per_layer_attribute_access",
        "auto_map",
        "per_layer_config",
        "quantization_config",
        "serialize_explicit_per_layer_config",
        "layer_types",
        "sliding_window",
        "use_sliding_window",
    ];
    config.retain(|key, _| !STALE.contains(&key.as_str()));
    let most = |size: fn(&BlockSpec) -> Option<usize>| spec.blocks.iter().filter_map(size).max().unwrap_or(1);
    let own: Map<String, Value> = [
        ("architectures", json!(["DeciLMForCausalLM"])),
        ("auto_map", json!({"AutoConfig": "configuration_decilm.DeciLMConfig"})),
        ("model_type", json!("nemotron-nas")),
        ("attention_bias", json!(spec.o_bias)),
        ("qkv_bias", json!(spec.qkv_bias)),
        ("mlp_bias", json!(spec.mlp_bias)),
        ("hidden_act", json!("silu")),
        ("hidden_size", json!(spec.d_model)),
        ("head_dim", json!(spec.d_head)),
        ("num_hidden_layers", json!(spec.blocks.len())),
        ("num_attention_heads", json!(heads)),
        ("num_key_value_heads", json!(most(|block| block.attention.map(|a| a.n_kv_heads)))),
        ("intermediate_size", json!(most(|block| block.mlp.map(|m| m.d_ff)))),
        ("tie_word_embeddings", json!(spec.tied_head)),
        ("vocab_size", json!(spec.vocab)),
        ("rms_norm_eps", json!(spec.norm_eps)),
        ("max_position_embeddings", json!(spec.max_tokens)),
        ("block_configs", spec.blocks.iter().map(block).collect()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect();
    config.extend(own);
    if !config.contains_key("rope_theta") && !config.contains_key("rope_parameters") {
        config.insert("rope_theta".to_owned(), json!(spec.rope_theta));
    }
    Ok(Value::Object(config))
}

/// One block as the class reads it; `intermediate_size` and not `ffn_mult`, which rounds.
fn block(block: &BlockSpec) -> Value {
    let attention = match block.attention {
        Some(a) => json!({"no_op": false, "n_heads_in_group": a.heads_per_group()}),
        None => json!({"no_op": true}),
    };
    let ffn = match block.mlp {
        Some(m) => json!({"no_op": false, "intermediate_size": m.d_ff}),
        None => json!({"no_op": true}),
    };
    json!({"attention": attention, "ffn": ffn})
}

#[cfg(test)]
mod tests {
    use super::*;
    use taper_arch::spec::example;
    use taper_arch::{AttentionSpec, MlpSpec};

    fn spec(family: Family, blocks: &[(Option<[usize; 2]>, Option<usize>)]) -> ModelSpec {
        let block = |(attention, mlp): &(Option<[usize; 2]>, Option<usize>)| BlockSpec {
            attention: attention.map(|[n_heads, n_kv_heads]| AttentionSpec { n_heads, n_kv_heads, window: None }),
            mlp: mlp.map(|d_ff| MlpSpec { d_ff }),
        };
        let blocks = blocks.iter().map(block).collect();
        ModelSpec { family, blocks, qk_norm: family == Family::Qwen3, ..example() }
    }

    #[test]
    fn blocks_are_objects_with_one_size_each() {
        let spec = spec(Family::Llama, &[(Some([4, 2]), Some(40)), (None, Some(64)), (Some([4, 1]), None)]);
        let source = json!({"rope_theta": 5e5, "model_type": "llama", "auto_map": {}, "per_layer_config": {}, "eos_token_id": 2});
        let Layout::Deci(config) = layout(&spec, &source).unwrap() else { panic!("not DeciLM's") };
        let blocks = json!([
            {"attention": {"no_op": false, "n_heads_in_group": 2}, "ffn": {"no_op": false, "intermediate_size": 40}},
            {"attention": {"no_op": true}, "ffn": {"no_op": false, "intermediate_size": 64}},
            {"attention": {"no_op": false, "n_heads_in_group": 4}, "ffn": {"no_op": true}},
        ]);
        assert_eq!(config["block_configs"], blocks);
        assert_eq!((&config["num_attention_heads"], &config["num_key_value_heads"]), (&json!(4), &json!(2)));
        assert_eq!(
            (&config["model_type"], &config["rope_theta"], &config["eos_token_id"]),
            (&json!("nemotron-nas"), &json!(5e5), &json!(2))
        );
        assert_eq!(config.get("per_layer_config"), None);
    }

    #[test]
    fn what_no_class_holds_is_refused_with_the_rule() {
        let (whole, less) = ((Some([4, 2]), Some(64)), (Some([2, 2]), Some(64)));
        let of = |family, blocks: &[_]| layout(&spec(family, blocks), &json!({}));
        assert_eq!(of(Family::Llama, &[whole, whole]), Ok(Layout::Native));
        assert_eq!(of(Family::Llama, &[whole, less]), Ok(Layout::Backend));
        assert_eq!(of(Family::Qwen3, &[whole, (Some([4, 2]), Some(8))]), Ok(Layout::Backend));
        let refusal = of(Family::Llama, &[(None, Some(64)), whole]).unwrap_err();
        assert!(refusal.starts_with("its DeciLM class has an attention in block 0"), "{refusal}");
        let refusal = of(Family::Qwen3, &[whole, (None, Some(64))]).unwrap_err();
        assert!(refusal.ends_with("attention in every block, block 1 has none"), "{refusal}");
    }
}
