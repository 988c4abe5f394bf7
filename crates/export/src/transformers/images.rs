//! The configuration by which stock transformers loads a cut classifier of images: ViT, DeiT, DINOv2.
//!
//! As for language models: the family's own class and a plain configuration where blocks are alike, with `head_dim` where heads
//! were cut, else `per_layer_config` and a small model file. Source: transformers 5.23.0.

use serde_json::{Map, Value, json};
use taper_arch::{BlockSpec, Family, ModelSpec, Pool};

use super::Layout;
use super::layout::STALE;

/// The model file written beside `config.json` when blocks differ.
const SHIM: (&str, &str) = ("modeling_taper.py", include_str!("modeling_taper_images.py"));

/// Keys of DINOv2 as a backbone, which name layers: there may be fewer now.
const STAGES: [&str; 3] = ["out_features", "out_indices", "stage_names"];

/// Name of the family's classes in transformers.
pub(super) fn class(family: Family) -> &'static str {
    match family {
        Family::Deit => "DeiT",
        Family::Dinov2 => "Dinov2",
        _ => "ViT",
    }
}

/// As [`super::layout()`], of a classifier of images.
pub(super) fn layout(spec: &ModelSpec, source: &Value) -> Layout {
    let mut config = source.as_object().cloned().unwrap_or_default();
    config.retain(|key, _| !STALE.contains(&key.as_str()) && !STAGES.contains(&key.as_str()));
    let teacher = spec.image.is_some_and(|image| image.pool == Pool::EachPrefix);
    let class = format!("{}ForImageClassification{}", class(spec.family), if teacher { "WithTeacher" } else { "" });
    for (key, value) in [
        ("model_type", json!(spec.family.name())),
        ("hidden_size", json!(spec.d_model)),
        ("num_hidden_layers", json!(spec.blocks.len())),
        ("layer_norm_eps", json!(spec.norm_eps)),
        ("qkv_bias", json!(spec.qkv_bias)),
    ] {
        config.insert(key.to_owned(), value);
    }
    let first = whole(spec.blocks.first());
    let alike = first.is_some() && spec.blocks.iter().all(|block| whole(Some(block)) == first);
    // DINOv2 has no other word for its MLP's width than a whole number of times the model's
    let alike = alike && (spec.family != Family::Dinov2 || first.is_some_and(|[_, ff]| ff % spec.d_model == 0));
    if let Some([heads, channels]) = first.filter(|_| alike) {
        sizes(spec, &mut config, [heads, channels]);
        config.insert("architectures".to_owned(), json!([class]));
        return Layout { config: Value::Object(config), files: Vec::new(), remote_code: false };
    }
    let most = |size: fn(&BlockSpec) -> Option<usize>| spec.blocks.iter().filter_map(size).max().unwrap_or(1);
    let global = [most(|block| block.attention.map(|a| a.n_heads)), most(|block| block.mlp.map(|m| m.d_ff))];
    sizes(spec, &mut config, global);
    config.insert("head_dim".to_owned(), json!(spec.d_head)); // each layer's default follows its own heads
    let own =
        spec.blocks.iter().enumerate().map(|(index, block)| (index.to_string(), Value::Object(layer(block, global))));
    let own: Map<String, Value> = own.filter(|(_, own)| own.as_object().is_some_and(|own| !own.is_empty())).collect();
    let class = format!("Taper{class}");
    config.insert("architectures".to_owned(), json!([class]));
    let map = json!({"AutoModelForImageClassification": format!("modeling_taper.{class}")});
    config.insert("auto_map".to_owned(), map);
    config.insert("per_layer_config".to_owned(), Value::Object(own));
    // the stock class reads global sizes when it is made, before its layers are made anew
    config.insert("allow_global_per_layer_attribute_access".to_owned(), json!(true));
    Layout { config: Value::Object(config), files: vec![SHIM], remote_code: true }
}

/// Heads and channels of a block that has both.
fn whole(block: Option<&BlockSpec>) -> Option<[usize; 2]> {
    let block = block?;
    Some([block.attention?.n_heads, block.mlp?.d_ff])
}

fn sizes(spec: &ModelSpec, config: &mut Map<String, Value>, [heads, channels]: [usize; 2]) {
    config.insert("num_attention_heads".to_owned(), json!(heads));
    if heads * spec.d_head == spec.d_model {
        config.remove("head_dim");
    } else {
        config.insert("head_dim".to_owned(), json!(spec.d_head));
    }
    config.insert("intermediate_size".to_owned(), json!(channels));
    if spec.family == Family::Dinov2 {
        // a whole number; where it is not the width, layers say theirs by `intermediate_size` and the model file makes them so
        config.insert("mlp_ratio".to_owned(), json!((channels / spec.d_model).max(1)));
    }
}

/// What one layer has of its own: all sizes, so that nothing depends on the `global` ones. A skipped half also gets a size, other than
/// the global one: a stock class that is loaded untrusted would else build it with random weights.
fn layer(block: &BlockSpec, [heads, channels]: [usize; 2]) -> Map<String, Value> {
    let other = |size: usize| if size == 1 { 2 } else { 1 };
    let (mut own, mut skip) = (Map::new(), Vec::new());
    let heads = block.attention.map_or_else(
        || {
            skip.push("attention");
            other(heads)
        },
        |attention| attention.n_heads,
    );
    let channels = block.mlp.map_or_else(
        || {
            skip.push("mlp");
            other(channels)
        },
        |mlp| mlp.d_ff,
    );
    own.insert("num_attention_heads".to_owned(), json!(heads));
    own.insert("intermediate_size".to_owned(), json!(channels));
    if !skip.is_empty() {
        own.insert("skip".to_owned(), json!(skip));
    }
    own
}

/// What timm's `pretrained_cfg` in `config` says of images, as transformers has it: `None` if there is none. Where what is cropped off is
/// an odd number of pixels, the crop may lie one pixel away.
pub(super) fn processor(config: &Value) -> Option<Value> {
    let timm = config.get("pretrained_cfg")?.as_object()?;
    let side = |axis: usize| timm.get("input_size")?.get(axis)?.as_u64();
    let (height, width) = (side(1)?, side(2)?);
    let share = timm.get("crop_pct").and_then(Value::as_f64).unwrap_or(0.875);
    let filters = ["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"];
    let filter = timm.get("interpolation").and_then(Value::as_str).unwrap_or("bicubic");
    Some(json!({
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": true,
        "do_resize": true,
        "size": {"shortest_edge": (height.min(width) as f64 / share).floor() as u64},
        "resample": filters.iter().position(|name| *name == filter)?,
        "do_center_crop": true,
        "crop_size": {"height": height, "width": width},
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "image_mean": timm.get("mean")?,
        "image_std": timm.get("std")?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use taper_arch::{Activation, AttentionSpec, ImageSpec, MlpSpec, NormKind};

    fn spec(family: Family, pool: Pool, blocks: &[(Option<usize>, Option<usize>)]) -> ModelSpec {
        let attention = |n: usize| AttentionSpec { n_heads: n, n_kv_heads: n, window: None };
        let block = |(heads, channels): &(Option<usize>, Option<usize>)| BlockSpec {
            attention: heads.map(attention),
            mlp: channels.map(|d_ff| MlpSpec { d_ff }),
        };
        ModelSpec {
            family,
            image: Some(ImageSpec { size: [16, 16], channels: 3, patch: 4, prefix: 1, pool }),
            norm: NormKind::Layer,
            activation: Activation::Gelu,
            blocks: blocks.iter().map(block).collect(),
            ..taper_arch::spec::example()
        }
    }

    #[test]
    fn blocks_alike_are_the_stock_class_and_others_say_each_layers_sizes() {
        let alike =
            layout(&spec(Family::Vit, Pool::First, &[(Some(3), Some(40)); 2]), &json!({"auto_map": {}, "x": 1}));
        assert_eq!((alike.remote_code, alike.config.get("auto_map"), &alike.config["x"]), (false, None, &json!(1)));
        assert_eq!((&alike.config["head_dim"], &alike.config["num_attention_heads"]), (&json!(8), &json!(3)));
        assert_eq!(alike.config["architectures"], json!(["ViTForImageClassification"]));
        let whole = layout(&spec(Family::Deit, Pool::EachPrefix, &[(Some(4), Some(40)); 2]), &json!({"head_dim": 8}));
        assert_eq!(whole.config.get("head_dim"), None); // 4 heads of 8 are the width
        assert_eq!(whole.config["architectures"], json!(["DeiTForImageClassificationWithTeacher"]));

        let mixed = layout(&spec(Family::Dinov2, Pool::FirstAndMean, &[(None, Some(40)), (Some(2), None)]), &json!({}));
        assert!(mixed.remote_code);
        let own = &mixed.config["per_layer_config"];
        let first = json!({"num_attention_heads": 1, "intermediate_size": 40, "skip": ["attention"]});
        let second = json!({"num_attention_heads": 2, "intermediate_size": 1, "skip": ["mlp"]});
        assert_eq!((&own["0"], &own["1"]), (&first, &second));
        assert_eq!(mixed.config["architectures"], json!(["TaperDinov2ForImageClassification"]));
        let source = json!({"stage_names": ["stem", "stage1"], "out_features": ["stage1"]});
        let of = |ff| layout(&spec(Family::Dinov2, Pool::FirstAndMean, &[(Some(4), Some(ff)); 2]), &source);
        assert_eq!((of(64).config.get("stage_names"), of(64).config.get("out_features")), (None, None));
        assert_eq!((of(64).remote_code, &of(64).config["mlp_ratio"], of(40).remote_code), (false, &json!(2), true));
    }

    #[test]
    fn the_shim_has_the_classes_that_configurations_name() {
        let pools = [Pool::First, Pool::EachPrefix];
        for (family, pool) in
            [Family::Vit, Family::Deit, Family::Dinov2].into_iter().flat_map(|f| pools.map(|p| (f, p)))
        {
            if pool == Pool::EachPrefix && family != Family::Deit {
                continue;
            }
            let found = layout(&spec(family, pool, &[(Some(1), Some(40)), (Some(2), None)]), &json!({}));
            let class = found.config["architectures"][0].as_str().unwrap();
            let (name, content) = found.files[0];
            assert!(content.contains(&format!("class {class}(")), "{class}");
            let map = &found.config["auto_map"]["AutoModelForImageClassification"];
            assert_eq!(map, &json!(format!("{}.{class}", name.trim_end_matches(".py"))));
        }
    }

    #[test]
    fn timms_transform_is_told_as_transformers_has_it() {
        let timm = json!({"pretrained_cfg": {"input_size": [3, 224, 224], "crop_pct": 0.9, "interpolation": "bicubic",
            "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}});
        let found = processor(&timm).unwrap();
        assert_eq!((&found["size"], &found["resample"]), (&json!({"shortest_edge": 248}), &json!(3)));
        assert_eq!(processor(&json!({})), None);
    }
}
