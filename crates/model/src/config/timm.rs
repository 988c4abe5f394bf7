//! `config.json` of timm's plain vision transformers, in the form of transformers.
//!
//! timm names an architecture and says in `model_args` what differs from it; sizes are those of timm 1.0's registry. Variants that
//! compute something else (registers, other pooling, parallel blocks, norms before the blocks or of queries) are refused by name.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::{ModelError, Result};

/// Width, blocks and heads of the sizes, and the MLP's width relative to the model's.
const SIZES: [(&str, [usize; 3], f64); 7] = [
    ("tiny", [192, 12, 3], 4.0),
    ("small", [384, 12, 6], 4.0),
    ("base", [768, 12, 12], 4.0),
    ("large", [1024, 24, 16], 4.0),
    ("huge", [1280, 32, 16], 4.0),
    ("giant", [1408, 40, 16], 48.0 / 11.0),
    ("gigantic", [1664, 48, 16], 64.0 / 13.0),
];

/// Parts of names of what is no plain vision transformer.
const OTHERS: [&str; 12] =
    ["dinov2", "plus", "clip", "gap", "reg", "siglip", "deit3", "flexi", "xp", "18x2", "36x1", "rope"];

/// Keys of `model_args` that are understood; others change what is computed.
const ARGUMENTS: [&str; 10] = [
    "in_chans",
    "num_classes",
    "global_pool",
    "img_size",
    "patch_size",
    "embed_dim",
    "depth",
    "num_heads",
    "mlp_ratio",
    "qkv_bias",
];

/// The configuration in the form of transformers, if it is such a one.
pub(crate) fn translated(path: &Path, config: &Value) -> Result<Option<Value>> {
    let Some(keys) = config.as_object().filter(|keys| !keys.contains_key("model_type")) else { return Ok(None) };
    let Some(name) = keys.get("architecture").and_then(Value::as_str) else { return Ok(None) };
    let timm = Timm { path, name, keys };
    timm.translated().map(Some)
}

struct Timm<'a> {
    path: &'a Path,
    name: &'a str,
    keys: &'a Map<String, Value>,
}

impl Timm<'_> {
    fn wrong(&self, reason: &str) -> ModelError {
        ModelError::Config { path: self.path.to_owned(), reason: format!("timm's `{}`: {reason}", self.name) }
    }

    /// A value of `model_args`, else of the file, else of its `pretrained_cfg`.
    fn get(&self, key: &str) -> Option<&Value> {
        let inner = |part: &str| self.keys.get(part).and_then(|part| part.get(key));
        let found = [inner("model_args"), self.keys.get(key), inner("pretrained_cfg")];
        found.into_iter().flatten().find(|value| !value.is_null())
    }

    fn count(&self, key: &str, default: usize) -> Result<usize> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
        count.ok_or_else(|| self.wrong(&format!("`{key}` is {value}, wanted a whole number")))
    }

    fn translated(&self) -> Result<Value> {
        let parts: Vec<&str> = self.name.split('_').collect();
        let family = match parts[0] {
            "deit" => "deit",
            "vit" => "vit",
            _ => return Err(self.wrong("wanted a plain vision transformer, `vit_…` or `deit_…`")),
        };
        if let Some(other) = OTHERS.iter().find(|other| parts.iter().any(|part| part.starts_with(**other))) {
            return Err(self.wrong(&format!("`{other}` computes something else than a plain vision transformer")));
        }
        let unknown = self.keys.get("model_args").and_then(Value::as_object).into_iter().flat_map(Map::keys);
        if let Some(key) = unknown.into_iter().find(|key| !ARGUMENTS.contains(&key.as_str())) {
            return Err(self.wrong(&format!("`model_args.{key}` is not supported")));
        }
        match self.get("global_pool").and_then(Value::as_str) {
            None | Some("token") => {}
            Some(other) => return Err(self.wrong(&format!("`global_pool` is {other}, wanted token"))),
        }
        let size = SIZES.iter().find(|(size, _, _)| parts.get(1) == Some(size));
        let (_, [width, depth, heads], ratio) = size.ok_or_else(|| self.wrong("its size is not known"))?;
        let named = parts.iter().find_map(|part| part.strip_prefix("patch")?.parse().ok());
        let width = self.count("embed_dim", *width)?;
        let ratio = self.get("mlp_ratio").and_then(Value::as_f64).unwrap_or(*ratio);
        let classes = self.count("num_classes", 1000)?;
        if classes == 0 {
            return Err(self.wrong("`num_classes` is 0: it has no classifier"));
        }
        let distilled = parts.contains(&"distilled");
        let class = match (family, distilled) {
            ("deit", true) => "DeiTForImageClassificationWithTeacher",
            (_, true) => return Err(self.wrong("wanted `deit_…` of a distilled one")),
            _ => "ViTForImageClassification", // no second token: DeiT, trained without a teacher, is a ViT
        };
        let labels: Map<String, Value> = (0..classes).map(|id| (id.to_string(), self.label(id))).collect();
        Ok(json!({
            "model_type": if distilled { "deit" } else { "vit" },
            "architectures": [class],
            "hidden_size": width,
            "num_hidden_layers": self.count("depth", *depth)?,
            "num_attention_heads": self.count("num_heads", *heads)?,
            "intermediate_size": (width as f64 * ratio) as usize,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-6,
            "image_size": self.image_size(),
            "patch_size": self.count("patch_size", named.unwrap_or(16))?,
            "num_channels": self.channels()?,
            "qkv_bias": self.get("qkv_bias").and_then(Value::as_bool).unwrap_or(!parts.contains(&"miil")),
            "id2label": labels,
            "torch_dtype": "float32",
            "pretrained_cfg": self.keys.get("pretrained_cfg"), // what is done to images, to the pixel
        }))
    }

    fn label(&self, id: usize) -> Value {
        let named = self.keys.get("label_names").and_then(|names| names.get(id)).cloned();
        named.unwrap_or_else(|| json!(format!("LABEL_{id}")))
    }

    fn image_size(&self) -> Value {
        let input = self.get("input_size").and_then(Value::as_array).map(|sides| json!(sides[1.min(sides.len())..]));
        self.get("img_size").cloned().or(input).unwrap_or(json!(224))
    }

    fn channels(&self) -> Result<usize> {
        let input = self.get("input_size").and_then(|sides| sides.get(0)).and_then(Value::as_u64);
        self.count("in_chans", input.unwrap_or(3) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translate(config: &Value) -> std::result::Result<Value, String> {
        let found = translated(Path::new("c.json"), config).map_err(|error| error.to_string())?;
        Ok(found.unwrap_or_default())
    }

    #[test]
    fn sizes_follow_from_the_name_and_arguments_override_them() {
        let cfg = json!({"input_size": [3, 384, 384]});
        let large =
            translate(&json!({"architecture": "vit_large_patch32_384", "num_classes": 7, "pretrained_cfg": cfg}))
                .unwrap();
        assert_eq!(
            (&large["hidden_size"], &large["num_hidden_layers"], &large["patch_size"]),
            (&json!(1024), &json!(24), &json!(32))
        );
        assert_eq!((&large["image_size"], &large["intermediate_size"]), (&json!([384, 384]), &json!(4096)));
        assert_eq!((large["id2label"].as_object().unwrap().len(), &large["model_type"]), (7, &json!("vit")));
        let own = json!({"architecture": "deit_tiny_distilled_patch16_224", "model_args": {"depth": 2}});
        let own = translate(&own).unwrap();
        assert_eq!((&own["num_hidden_layers"], &own["model_type"]), (&json!(2), &json!("deit")));
        assert_eq!(translate(&json!({"model_type": "vit", "architecture": "x"})).unwrap(), Value::Null);
    }

    #[test]
    fn what_computes_something_else_is_refused_by_name() {
        let refusal = |config| translate(&config).unwrap_err();
        let other = refusal(json!({"architecture": "vit_small_patch14_dinov2"}));
        assert_eq!(
            other,
            "c.json: timm's `vit_small_patch14_dinov2`: `dinov2` computes something else than a plain vision transformer"
        );
        assert!(refusal(json!({"architecture": "resnet50"})).contains("wanted a plain vision transformer"));
        assert!(refusal(json!({"architecture": "vit_base_patch16_reg4_224"})).contains("`reg`"));
        let argument = json!({"architecture": "vit_base_patch16_224", "model_args": {"init_values": 1e-5}});
        assert!(refusal(argument).ends_with("`model_args.init_values` is not supported"));
        let pool = json!({"architecture": "vit_base_patch16_224", "global_pool": "avg"});
        assert!(refusal(pool).ends_with("`global_pool` is avg, wanted token"));
    }
}
