//! `config.json` of classifiers of images: ViT, DeiT, DINOv2.

use std::path::Path;

use serde_json::{Map, Value, json};
use taper_arch::{Activation, Family, ImageSpec, ModelSpec, NormKind, Pool};

use super::{Config, Descriptor, Has, Windows};
use crate::{ModelError, Result};

/// What all of their blocks have.
fn descriptor(family: Family) -> Descriptor {
    Descriptor {
        family,
        qkv_bias: Has::Key("qkv_bias"),
        o_bias: Has::Always,
        mlp_bias: Has::Always,
        qk_norm: false,
        windows: Windows::Never,
        default_kv_heads: None,
        default_d_head: None,
        default_max_tokens: 0,
    }
}

/// What transformers 5.23 takes where a key is missing.
fn defaults(family: Family) -> Value {
    match family {
        Family::Dinov2 => json!({
            "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "mlp_ratio": 4, "hidden_act": "gelu",
            "layer_norm_eps": 1e-6, "image_size": 224, "patch_size": 14, "num_channels": 3, "qkv_bias": true,
        }),
        _ => json!({
            "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
            "hidden_act": "gelu", "layer_norm_eps": 1e-12, "image_size": 224, "patch_size": 16, "num_channels": 3,
            "qkv_bias": true,
        }),
    }
}

/// As [`super::read`], of a model of images.
pub(super) fn read(path: &Path, config: &Map<String, Value>, family: Family) -> Result<ModelSpec> {
    let mut keys = defaults(family).as_object().cloned().unwrap_or_default();
    keys.extend(config.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.clone(), value.clone())));
    let given = Config { path, keys: &keys };
    if family == Family::Dinov2 && !keys.contains_key("intermediate_size") {
        let channels = given.number("mlp_ratio", None)? * given.count("hidden_size", None)? as f64;
        keys.insert("intermediate_size".to_owned(), json!(channels as u64));
    }
    let config = Config { path, keys: &keys };
    if config.flag("use_swiglu_ffn")? {
        return Err(
            config.wrong("`use_swiglu_ffn` is set: MLPs whose gate and other half are one matrix are not supported")
        );
    }
    let (image, heads) = (config.image(family)?, config.count("num_attention_heads", None)?);
    let (descriptor, d_model) = (descriptor(family), config.count("hidden_size", None)?);
    let spec = ModelSpec {
        family,
        d_model,
        d_head: config.count("head_dim", d_model.checked_div(heads))?,
        vocab: config.classes()?,
        max_tokens: image.tokens(),
        norm_eps: config.number("layer_norm_eps", None)?,
        rope_theta: 1.0,
        rope_scaling: None,
        tied_head: false,
        qkv_bias: config.has(descriptor.qkv_bias)?,
        o_bias: true,
        mlp_bias: true,
        qk_norm: false,
        norm: NormKind::Layer,
        activation: config.activation()?,
        layer_scale: family == Family::Dinov2,
        image: Some(image),
        dtype_bytes: 4,
        blocks: config.blocks(&descriptor)?,
        latency: None,
    };
    spec.validate().map_err(|cause| ModelError::Dimensions { path: path.to_owned(), cause })?;
    Ok(spec)
}

impl Config<'_> {
    fn activation(&self) -> Result<Activation> {
        match self.text("hidden_act")? {
            Some("gelu") => Ok(Activation::Gelu),
            Some("gelu_new" | "gelu_pytorch_tanh") => Ok(Activation::GeluTanh),
            other => {
                let other = other.unwrap_or_default();
                Err(self.wrong(&format!("`hidden_act` is {other}, wanted gelu, gelu_new or gelu_pytorch_tanh")))
            }
        }
    }

    /// `num_labels`, or as many as have a name.
    fn classes(&self) -> Result<usize> {
        let named = self.get("id2label").and_then(Value::as_object).map(Map::len);
        self.count("num_labels", Some(named.unwrap_or(2)))
    }

    /// Height and width, or one number for both.
    fn sides(&self, key: &str) -> Result<[usize; 2]> {
        let whole = |value: &Value| value.as_u64().and_then(|side| usize::try_from(side).ok());
        match self.get(key) {
            Some(Value::Array(sides)) => match sides.iter().map(whole).collect::<Option<Vec<_>>>().as_deref() {
                Some([height, width]) => Ok([*height, *width]),
                _ => Err(self.wrong(&format!("`{key}` is a list, wanted two whole numbers"))),
            },
            _ => self.count(key, None).map(|side| [side; 2]),
        }
    }

    fn image(&self, family: Family) -> Result<ImageSpec> {
        let [patch, width] = self.sides("patch_size")?;
        if patch != width {
            return Err(self.wrong(&format!("`patch_size` is {patch} by {width}, wanted squares")));
        }
        let class = self.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str);
        let class = class.unwrap_or_default();
        if !class.is_empty() && !class.contains("ForImageClassification") {
            return Err(
                self.wrong(&format!("`architectures` is {class}, wanted a classifier (…ForImageClassification)"))
            );
        }
        let (prefix, pool) = match family {
            Family::Deit if class.ends_with("WithTeacher") => (2, Pool::EachPrefix),
            Family::Deit => (2, Pool::First),
            Family::Dinov2 => (1, Pool::FirstAndMean),
            _ => (1, Pool::First),
        };
        let size = self.sides("image_size")?;
        // a size that is no multiple: the last pixels are in no patch
        let size = size.map(|side| side.checked_div(patch).map_or(side, |patches| patches * patch));
        Ok(ImageSpec { size, channels: self.count("num_channels", None)?, patch, prefix, pool })
    }
}
