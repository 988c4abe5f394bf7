//! The configuration by which stock transformers (and through it vLLM) loads a cut model.
//!
//! Blocks all alike: the family's own class and a plain configuration. Blocks that differ: the same configuration with
//! `per_layer_config`, transformers' own field for it, and a small model file loaded as remote code, because the stock
//! classes do not read that field. Source: transformers 5.23.0, `integrations/heterogeneity` and the four families.

use serde_json::{Map, Value, json};
use taper_arch::{BlockSpec, Family, ModelSpec};

use super::images;

/// The model file written beside `config.json` when blocks differ.
const SHIM: (&str, &str) = ("modeling_taper.py", include_str!("modeling_taper.py"));

/// Keys of the source that speak of weights or code that the cut model does not have. The exported weights are plain.
pub(super) const STALE: [&str; 7] = [
    "_name_or_path", // a folder of somebody's machine
    "allow_global_per_layer_attribute_access",
    "auto_map",
    "compression_config",
    "per_layer_config",
    "quantization_config",
    "serialize_explicit_per_layer_config",
];

/// The configuration (and files) by which stock transformers loads a cut model.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    /// The content of `config.json`.
    pub config: Value,
    /// Further files, as name and content.
    pub files: Vec<(&'static str, &'static str)>,
    /// Whether loading needs `trust_remote_code=True`.
    pub remote_code: bool,
}

/// The layout of the cut model `spec`, made from a model whose `config.json` was `source`.
///
/// Blocks without both halves must already be dropped from `spec`, so block `i` is layer `i` of the checkpoint. Keys of
/// `source` that do not concern the cut are kept, known or not. What it lacks comes from `spec`.
pub fn layout(spec: &ModelSpec, source: &Value) -> Layout {
    if spec.image.is_some() {
        return images::layout(spec, source);
    }
    let mut config = carried_over(spec, source);
    windows(spec, &mut config);
    match (Sizes::shared(spec), stock_family(spec)) {
        (Some(sizes), Some(family)) => {
            if family != spec.family {
                config.retain(|key, _| !matches!(key.as_str(), "attention_bias" | "mlp_bias" | "pretraining_tp"));
                config.insert("sliding_window".to_owned(), Value::Null); // its default is a window of 4096
            }
            sizes.write(&mut config);
            config.insert("model_type".to_owned(), json!(family.name()));
            config.insert("architectures".to_owned(), json!([format!("{}ForCausalLM", class(family))]));
            Layout { config: Value::Object(config), files: Vec::new(), remote_code: false }
        }
        _ => {
            remote(spec, source, &mut config);
            Layout { config: Value::Object(config), files: vec![SHIM], remote_code: true }
        }
    }
}

/// Name of the family's classes in transformers.
fn class(family: Family) -> &'static str {
    match family {
        Family::Llama => "Llama",
        Family::Mistral => "Mistral",
        Family::Qwen2 => "Qwen2",
        Family::Qwen3 => "Qwen3",
        Family::Vit | Family::Deit | Family::Dinov2 => images::class(family),
    }
}

/// Sizes that transformers keeps per layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sizes {
    heads: usize,
    kv: usize,
    d_ff: usize,
}

impl Sizes {
    /// The sizes of every block, if they are all alike and whole. Windows may differ: `layer_types` says which.
    fn shared(spec: &ModelSpec) -> Option<Self> {
        let of = |block: &BlockSpec| {
            let attention = block.attention?;
            Some(Self { heads: attention.n_heads, kv: attention.n_kv_heads, d_ff: block.mlp?.d_ff })
        };
        let first = of(spec.blocks.first()?)?;
        spec.blocks.iter().all(|block| of(block) == Some(first)).then_some(first)
    }

    /// The values that layers of a non-uniform model differ from: the source's, so that the sparse list stays short.
    fn global(spec: &ModelSpec, source: &Value) -> Self {
        let given = |key: &str| source.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        let most = |size: fn(&BlockSpec) -> Option<usize>| spec.blocks.iter().filter_map(size).max();
        // LlamaConfig refuses a global head count that does not divide the width, whatever the layers say
        let divides = |heads: &usize| spec.family != Family::Llama || spec.d_model.is_multiple_of(*heads);
        let heads = [given("num_attention_heads"), most(|block| block.attention.map(|a| a.n_heads))];
        let heads = heads.into_iter().flatten().filter(|heads| *heads > 0).find(divides).unwrap_or(1);
        let kv = given("num_key_value_heads").or_else(|| most(|block| block.attention.map(|a| a.n_kv_heads)));
        let d_ff = given("intermediate_size").or_else(|| most(|block| block.mlp.map(|m| m.d_ff)));
        Self { heads, kv: kv.unwrap_or(1), d_ff: d_ff.unwrap_or(1) }
    }

    fn write(self, config: &mut Map<String, Value>) {
        config.insert("num_attention_heads".to_owned(), json!(self.heads));
        config.insert("num_key_value_heads".to_owned(), json!(self.kv));
        config.insert("intermediate_size".to_owned(), json!(self.d_ff));
    }
}

/// The stock class that can hold equal blocks of `spec`.
///
/// LlamaConfig demands that the heads divide the width, even with `head_dim` set; Mistral's is the same model without
/// that demand and without biases.
fn stock_family(spec: &ModelSpec) -> Option<Family> {
    let heads = Sizes::shared(spec)?.heads;
    let biased = spec.qkv_bias || spec.o_bias || spec.mlp_bias;
    match spec.family {
        Family::Llama if spec.d_model.is_multiple_of(heads) => Some(Family::Llama),
        Family::Llama if biased => None,
        Family::Llama => Some(Family::Mistral),
        family => Some(family),
    }
}

/// The source's keys, without the stale ones, and the sizes that all layers share.
fn carried_over(spec: &ModelSpec, source: &Value) -> Map<String, Value> {
    let mut config = source.as_object().cloned().unwrap_or_default();
    config.retain(|key, _| !STALE.contains(&key.as_str()));
    for (key, value) in [
        ("hidden_size", json!(spec.d_model)),
        ("head_dim", json!(spec.d_head)), // its default follows the head count, which was cut
        ("num_hidden_layers", json!(spec.blocks.len())),
        ("tie_word_embeddings", json!(spec.tied_head)),
        ("vocab_size", json!(spec.vocab)),
    ] {
        config.insert(key.to_owned(), value);
    }
    // defaults differ between families and versions, so what the source left out is said
    config.entry("max_position_embeddings").or_insert(json!(spec.max_tokens));
    config.entry("rms_norm_eps").or_insert(json!(spec.norm_eps));
    if !config.contains_key("rope_theta") && !config.contains_key("rope_parameters") {
        config.insert("rope_theta".to_owned(), json!(spec.rope_theta));
    }
    config
}

/// Which layers see a window. Layers moved up when blocks were dropped, so no rule by layer number holds any more.
fn windows(spec: &ModelSpec, config: &mut Map<String, Value>) {
    let window = |block: &BlockSpec| block.attention.and_then(|attention| attention.window);
    let width = spec.blocks.iter().find_map(window);
    let by_layer = matches!(spec.family, Family::Qwen2 | Family::Qwen3);
    if spec.family == Family::Mistral || width.is_some() {
        config.insert("sliding_window".to_owned(), json!(width));
    }
    if by_layer && (width.is_some() || config.contains_key("use_sliding_window")) {
        config.insert("use_sliding_window".to_owned(), json!(width.is_some()));
    }
    if config.contains_key("layer_types") || (by_layer && width.is_some()) {
        let kind = |block| if window(block).is_some() { "sliding_attention" } else { "full_attention" };
        config.insert("layer_types".to_owned(), spec.blocks.iter().map(kind).collect());
    }
    if let Some(first) = spec.blocks.iter().position(|block| window(block).is_some()).filter(|_| by_layer) {
        config.insert("max_window_layers".to_owned(), json!(first)); // for engines that do not read layer_types
    }
}

/// The keys of a model whose layers differ.
fn remote(spec: &ModelSpec, source: &Value, config: &mut Map<String, Value>) {
    let global = Sizes::global(spec, source);
    let own = spec.blocks.iter().enumerate().filter_map(|(index, block)| {
        let own = layer(block, global);
        (!own.is_empty()).then(|| (index.to_string(), Value::Object(own)))
    });
    let own: Map<String, Value> = own.collect();
    // LlamaConfig reads the global head count when it is saved, which is an error unless allowed
    let allow = own.values().any(|layer| layer.get("num_attention_heads").is_some());
    global.write(config);
    let name = class(spec.family);
    let class_name = format!("Taper{name}ForCausalLM");
    let map = json!({
        "AutoModel": format!("modeling_taper.Taper{name}Model"),
        "AutoModelForCausalLM": format!("modeling_taper.{class_name}"),
    });
    for (key, value) in [
        ("allow_global_per_layer_attribute_access", json!(allow)),
        ("architectures", json!([class_name])),
        ("auto_map", map),
        ("model_type", json!(spec.family.name())),
        ("per_layer_config", Value::Object(own)),
    ] {
        config.insert(key.to_owned(), value);
    }
}

/// What one layer has of its own.
///
/// A skipped half also gets a size that differs from the global one. It is never used, but without it a stock class
/// loaded without `trust_remote_code` would build the half with random weights; with it that load fails.
fn layer(block: &BlockSpec, global: Sizes) -> Map<String, Value> {
    let other = |size: usize| if size == 1 { 2 } else { 1 };
    let mut own = Map::new();
    let mut skip = Vec::new();
    let mut write = |key: &str, value: usize, global: usize| {
        if value != global {
            own.insert(key.to_owned(), json!(value));
        }
    };
    match block.attention {
        Some(attention) => {
            write("num_attention_heads", attention.n_heads, global.heads);
            write("num_key_value_heads", attention.n_kv_heads, global.kv);
        }
        None => {
            write("num_key_value_heads", other(global.kv), global.kv);
            skip.push("attention");
        }
    }
    match block.mlp {
        Some(mlp) => write("intermediate_size", mlp.d_ff, global.d_ff),
        None => {
            write("intermediate_size", other(global.d_ff), global.d_ff);
            skip.push("mlp");
        }
    }
    if !skip.is_empty() {
        own.insert("skip".to_owned(), json!(skip));
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;
    use taper_arch::spec::example;
    use taper_arch::{AttentionSpec, MlpSpec};

    /// 4 query heads in 2 KV groups, 64 channels, width 32: what `example()` is the spec of.
    fn source() -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "num_attention_heads": 4,
            "num_key_value_heads": 2, "intermediate_size": 64, "num_hidden_layers": 3, "vocab_size": 100,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "torch_dtype": "bfloat16", "eos_token_id": [2, 7],
            "pretraining_tp": 1, "mlp_bias": false, "somebody_elses_key": { "a": 1 },
            "quantization_config": { "bits": 4 }, "auto_map": { "AutoModel": "other.Model" },
        })
    }

    fn uniform(heads: usize, kv: usize, d_ff: usize, blocks: usize) -> ModelSpec {
        let block = BlockSpec {
            attention: Some(AttentionSpec { n_heads: heads, n_kv_heads: kv, window: None }),
            mlp: Some(MlpSpec { d_ff }),
        };
        ModelSpec { blocks: vec![block; blocks], ..example() }
    }

    fn windowed(family: Family, windows: &[Option<usize>]) -> ModelSpec {
        let mut spec = ModelSpec { family, ..uniform(4, 2, 64, windows.len()) };
        for (block, window) in spec.blocks.iter_mut().zip(windows) {
            block.attention = Some(AttentionSpec { n_heads: 4, n_kv_heads: 2, window: *window });
        }
        spec
    }

    #[test]
    fn equal_blocks_give_a_plain_configuration_that_keeps_the_other_keys() {
        let layout = super::layout(&uniform(2, 1, 40, 2), &source());
        assert!(!layout.remote_code && layout.files.is_empty());
        let wanted = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "num_attention_heads": 2,
            "num_key_value_heads": 1, "intermediate_size": 40, "num_hidden_layers": 2, "vocab_size": 100, "head_dim": 8,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "torch_dtype": "bfloat16", "eos_token_id": [2, 7],
            "pretraining_tp": 1, "mlp_bias": false, "somebody_elses_key": { "a": 1 }, "max_position_embeddings": 128,
            "tie_word_embeddings": false,
        });
        assert_eq!(layout.config, wanted);
    }

    #[test]
    fn llama_heads_that_do_not_divide_the_width_become_mistral_unless_there_are_biases() {
        let layout = super::layout(&uniform(3, 1, 64, 3), &source());
        assert!(!layout.remote_code);
        assert_eq!(layout.config["model_type"], "mistral");
        assert_eq!(layout.config["architectures"], json!(["MistralForCausalLM"]));
        assert_eq!(layout.config.get("sliding_window"), Some(&Value::Null));
        assert_eq!(layout.config.get("mlp_bias"), None);
        assert_eq!(layout.config["head_dim"], 8);

        let layout = super::layout(&ModelSpec { mlp_bias: true, ..uniform(3, 1, 64, 3) }, &source());
        assert!(layout.remote_code);
        assert_eq!(layout.config["num_attention_heads"], 4); // must divide 32
        let own = json!({ "num_attention_heads": 3, "num_key_value_heads": 1 });
        assert_eq!(layout.config["per_layer_config"], json!({ "0": own, "1": own, "2": own }));

        let qwen = ModelSpec { family: Family::Qwen3, ..uniform(3, 1, 64, 3) };
        assert_eq!(super::layout(&qwen, &source()).config["model_type"], "qwen3"); // has no such demand
    }

    #[test]
    fn blocks_that_differ_are_listed_where_they_differ() {
        let mut spec = uniform(4, 2, 64, 4);
        spec.blocks[0] = BlockSpec { attention: None, ..spec.blocks[0] };
        spec.blocks[1].mlp = Some(MlpSpec { d_ff: 5 });
        spec.blocks[3] =
            BlockSpec { mlp: None, attention: Some(AttentionSpec { n_heads: 2, n_kv_heads: 2, window: None }) };
        let layout = super::layout(&spec, &source());
        assert!(layout.remote_code);
        assert_eq!(layout.files.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["modeling_taper.py"]);
        let own = json!({
            "0": { "skip": ["attention"], "num_key_value_heads": 1 },
            "1": { "intermediate_size": 5 },
            "3": { "skip": ["mlp"], "intermediate_size": 1, "num_attention_heads": 2 },
        });
        assert_eq!(layout.config["per_layer_config"], own);
        assert_eq!(layout.config["allow_global_per_layer_attribute_access"], true);
        let map = json!({
            "AutoModel": "modeling_taper.TaperLlamaModel",
            "AutoModelForCausalLM": "modeling_taper.TaperLlamaForCausalLM",
        });
        assert_eq!(layout.config["auto_map"], map);
        assert_eq!(layout.config.get("quantization_config"), None);
        assert_eq!(layout.config["intermediate_size"], 64);
    }

    #[test]
    fn global_head_counts_may_be_ambiguous_where_no_layer_has_its_own() {
        let mut spec = uniform(4, 1, 64, 2);
        spec.blocks[0].attention = None;
        let mut source = source();
        source["num_key_value_heads"] = json!(1);
        let config = super::layout(&spec, &source).config;
        assert_eq!(config["allow_global_per_layer_attribute_access"], false);
        // 1 is the global count here, and transformers drops overrides that say the same
        assert_eq!(config["per_layer_config"], json!({ "0": { "skip": ["attention"], "num_key_value_heads": 2 } }));
    }

    #[test]
    fn a_source_without_sizes_is_completed_from_the_model() {
        let mut spec = uniform(3, 1, 40, 2);
        spec.blocks[1].mlp = Some(MlpSpec { d_ff: 24 });
        let config = super::layout(&spec, &Value::Null).config;
        assert_eq!(config["num_attention_heads"], 1); // 3 does not divide 32
        assert_eq!(config["num_key_value_heads"], 1);
        assert_eq!(config["intermediate_size"], 40);
        let own = json!({
            "0": { "num_attention_heads": 3 },
            "1": { "num_attention_heads": 3, "intermediate_size": 24 },
        });
        assert_eq!(config["per_layer_config"], own);
        assert_eq!((&config["rope_theta"], &config["rms_norm_eps"]), (&json!(10_000.0), &json!(1e-5)));
    }

    #[test]
    fn version_5_rope_keys_are_not_doubled() {
        let rope = json!({ "rope_parameters": { "rope_theta": 5.0, "rope_type": "default" } });
        assert_eq!(super::layout(&uniform(4, 2, 64, 1), &rope).config.get("rope_theta"), None);
    }

    #[test]
    fn windows_follow_their_blocks() {
        let mistral = super::layout(&windowed(Family::Mistral, &[Some(8), Some(8)]), &source());
        assert_eq!(mistral.config["sliding_window"], 8);
        assert_eq!(mistral.config.get("layer_types"), None);
        let plain = super::layout(&windowed(Family::Mistral, &[None]), &source());
        assert_eq!(plain.config.get("sliding_window"), Some(&Value::Null));

        let mut source = source();
        source["layer_types"] = json!(vec!["full_attention"; 9]);
        source["use_sliding_window"] = json!(true);
        let qwen = super::layout(&windowed(Family::Qwen2, &[None, Some(16), Some(16)]), &source);
        assert!(!qwen.remote_code);
        let types = json!(["full_attention", "sliding_attention", "sliding_attention"]);
        assert_eq!(qwen.config["layer_types"], types);
        assert_eq!(qwen.config["max_window_layers"], 1);
        let full = super::layout(&windowed(Family::Qwen2, &[None, None]), &source);
        assert_eq!(full.config["layer_types"], json!(["full_attention", "full_attention"]));
        assert_eq!(full.config["use_sliding_window"], false);
    }

    #[test]
    fn the_shim_has_the_classes_that_configurations_name() {
        let (_, code) = SHIM;
        for family in Family::ALL.into_iter().filter(|family| !family.reads_images()) {
            for suffix in ["Model", "ForCausalLM"] {
                assert!(code.contains(&format!("class Taper{}{suffix}(", class(family))));
            }
        }
    }
}
