//! Configurations as they are found, and broken ones.

use super::*;
use serde_json::json;

fn llama() -> Value {
    json!({"model_type": "llama", "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 100, "rms_norm_eps": 1e-5})
}

fn with(mut config: Value, keys: Value) -> Value {
    for (key, value) in keys.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

fn spec(config: &Value) -> ModelSpec {
    read(Path::new("config.json"), config).unwrap()
}

fn refusal(keys: Value) -> String {
    let error = read(Path::new("c.json"), &with(llama(), keys)).unwrap_err();
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}

#[test]
fn defaults_are_those_of_transformers() {
    let spec = spec(&llama());
    assert_eq!((spec.d_head, spec.rope_theta, spec.tied_head, spec.qkv_bias), (8, 10_000.0, false, false));
    assert_eq!(spec.blocks[1].attention.unwrap(), AttentionSpec { n_heads: 4, n_kv_heads: 2, window: None });
    let mut no_kv = llama();
    no_kv.as_object_mut().unwrap().remove("num_key_value_heads");
    assert_eq!(super::read(Path::new(""), &no_kv).unwrap().blocks[0].attention.unwrap().n_kv_heads, 4);
}

#[test]
fn families_differ_by_their_row() {
    let biased = spec(&with(llama(), json!({"attention_bias": true, "mlp_bias": true})));
    assert!(biased.qkv_bias && biased.o_bias && biased.mlp_bias);
    let qwen2 = spec(&with(llama(), json!({"model_type": "qwen2"})));
    assert!(qwen2.qkv_bias && !qwen2.o_bias && !qwen2.qk_norm);
    let qwen3 = spec(&with(llama(), json!({"model_type": "qwen3"})));
    assert!(qwen3.qk_norm && !qwen3.qkv_bias && qwen3.d_head == 128);
    let window =
        |keys| spec(&with(llama(), keys)).blocks.iter().map(|b| b.attention.unwrap().window).collect::<Vec<_>>();
    assert_eq!(window(json!({"model_type": "mistral"})), [Some(4096); 2]);
    assert_eq!(window(json!({"model_type": "mistral", "sliding_window": null})), [None; 2]);
    let qwen = json!({"model_type": "qwen2", "use_sliding_window": true, "sliding_window": 16, "max_window_layers": 1});
    assert_eq!(window(qwen.clone()), [None, Some(16)]);
    let mut unsized_ = with(llama(), qwen.clone());
    unsized_.as_object_mut().unwrap().remove("sliding_window");
    assert_eq!(spec(&unsized_).blocks[1].attention.unwrap().window, Some(4096));
    let short = refusal(with(qwen.clone(), json!({"layer_types": ["sliding_attention"]})));
    assert!(short.contains("wanted \"full_attention\" or \"sliding_attention\" for each layer"), "{short}");
    let types = with(qwen, json!({"layer_types": ["sliding_attention", "full_attention"]}));
    assert_eq!(window(types), [Some(16), None]);
}

#[test]
fn rope_is_read_in_its_old_and_new_spelling() {
    let old = json!({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}});
    let new = json!({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}});
    for keys in [old, new] {
        let spec = spec(&with(llama(), keys));
        assert_eq!((spec.rope_theta, spec.rope_scaling), (5e5, Some(RopeScaling::Linear { factor: 2.0 })));
    }
    let yarn = refusal(json!({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}));
    assert_eq!(yarn, "c.json: rope scaling `yarn` is not supported, wanted default, linear or llama3");
    assert_eq!(refusal(json!({"rope_scaling": {"rope_type": "linear"}})), "c.json: `factor` is missing");
    let wild = "c.json: `rope_theta` and the rope scaling give frequencies that are not finite";
    assert_eq!(refusal(json!({"rope_theta": 1e-300})), wild);
    assert_eq!(refusal(json!({"rope_scaling": {"rope_type": "linear", "factor": 1e-40}})), wild);
}

#[test]
fn layers_may_differ_and_skips_win() {
    let own = json!({"0": {"skip": ["attention"], "num_key_value_heads": 1}, "1": {"intermediate_size": 32}});
    let spec = spec(&with(llama(), json!({"per_layer_config": own})));
    assert_eq!(spec.blocks[0], BlockSpec { attention: None, mlp: Some(MlpSpec { d_ff: 64 }) });
    assert_eq!(spec.blocks[1].mlp, Some(MlpSpec { d_ff: 32 }));
    let stray = refusal(json!({"per_layer_config": {"2": {}}}));
    assert_eq!(stray, "c.json: `per_layer_config` names layer `2`, wanted 0 to 1");
    let skip = refusal(json!({"per_layer_config": {"1": {"skip": ["head"]}}}));
    assert_eq!(skip, r#"c.json: `per_layer_config.1.skip` is ["head"], wanted a list of "attention" and "mlp""#);
}

#[test]
fn every_fault_is_named() {
    let known = "which taper cannot read; it reads deit, dinov2, llama, mistral, qwen2, qwen3, vit";
    for (keys, want) in [
        (json!({"model_type": "gpt2"}), format!("c.json: `model_type` is gpt2, {known}")),
        (json!({"model_type": null}), "c.json: `model_type` is missing".to_owned()),
        (json!({"model_type": 3}), "c.json: `model_type` is 3, wanted text".to_owned()),
        (json!({"hidden_size": -1}), "c.json: `hidden_size` is -1, wanted a whole number".to_owned()),
        (json!({"hidden_size": 0}), "c.json: hidden_size is 0, wanted 1 to 1048576".to_owned()),
        (
            json!({"num_attention_heads": 0, "head_dim": 8}),
            "c.json: num_attention_heads of block 0 is 0, wanted 1 to 131072".to_owned(),
        ),
        (json!({"hidden_act": "gelu"}), "c.json: `hidden_act` is gelu, wanted silu".to_owned()),
        (json!({"tie_word_embeddings": 1}), "c.json: `tie_word_embeddings` is 1, wanted true or false".to_owned()),
        (
            json!({"num_hidden_layers": 1_000_000}),
            "c.json: `num_hidden_layers` is 1000000, wanted 1 to 4096".to_owned(),
        ),
        (json!({"rms_norm_eps": "x"}), "c.json: `rms_norm_eps` is \"x\", wanted a number".to_owned()),
    ] {
        assert_eq!(refusal(keys), want);
    }
    assert!(refusal(json!({"quantization_config": {}})).contains("quantized weights cannot be pruned"));
    assert!(read(Path::new("c.json"), &json!([])).is_err());
}
