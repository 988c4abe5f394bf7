//! `config.json` to [`ModelSpec`]. What families differ in is one row of a table, not a class of its own.

mod deci;
mod image;
mod timm;

use std::path::Path;

use serde_json::{Map, Value};
use taper_arch::{Activation, AttentionSpec, BlockSpec, Family, MlpSpec, ModelSpec, NormKind, RopeScaling};

use crate::{ModelError, Result, rope_frequencies};

/// The configuration in the form of transformers, if it is of another form that is known.
pub(crate) fn translated(path: &Path, config: &Value) -> Result<Option<Value>> {
    match deci::translated(path, config)? {
        Some(found) => Ok(Some(found)),
        None => timm::translated(path, config),
    }
}

/// Whether a part exists.
#[derive(Debug, Clone, Copy)]
enum Has {
    Never,
    Always,
    /// As this key says; no if it is not there.
    Key(&'static str),
}

/// Which blocks see a window.
#[derive(Debug, Clone, Copy)]
enum Windows {
    Never,
    /// All, as `sliding_window` says; of this size if the key is not there.
    All(usize),
    /// With `use_sliding_window`: those that `layer_types` names, else those from `max_window_layers` on; of this size if
    /// `sliding_window` is not there.
    ByLayer(usize),
}

/// What one family's configuration leaves open. Defaults are those of transformers 5.23.
#[derive(Debug)]
struct Descriptor {
    family: Family,
    qkv_bias: Has,
    o_bias: Has,
    mlp_bias: Has,
    qk_norm: bool,
    windows: Windows,
    /// KV heads if the key is missing; `None`: as many as query heads.
    default_kv_heads: Option<usize>,
    /// Width of a head if the key is missing; `None`: `hidden_size / num_attention_heads`.
    default_d_head: Option<usize>,
    /// Context if the key is missing.
    default_max_tokens: usize,
}

const DESCRIPTORS: [Descriptor; 4] = [
    Descriptor {
        family: Family::Llama,
        qkv_bias: Has::Key("attention_bias"),
        o_bias: Has::Key("attention_bias"),
        mlp_bias: Has::Key("mlp_bias"),
        qk_norm: false,
        windows: Windows::Never,
        default_kv_heads: None,
        default_d_head: None,
        default_max_tokens: 2048,
    },
    Descriptor {
        family: Family::Mistral,
        qkv_bias: Has::Never,
        o_bias: Has::Never,
        mlp_bias: Has::Never,
        qk_norm: false,
        windows: Windows::All(4096),
        default_kv_heads: Some(8),
        default_d_head: None,
        default_max_tokens: 4096 * 32,
    },
    Descriptor {
        family: Family::Qwen2,
        qkv_bias: Has::Always,
        o_bias: Has::Never,
        mlp_bias: Has::Never,
        qk_norm: false,
        windows: Windows::ByLayer(4096),
        default_kv_heads: Some(32),
        default_d_head: None,
        default_max_tokens: 32_768,
    },
    Descriptor {
        family: Family::Qwen3,
        qkv_bias: Has::Key("attention_bias"),
        o_bias: Has::Key("attention_bias"),
        mlp_bias: Has::Never,
        qk_norm: true,
        windows: Windows::ByLayer(4096),
        default_kv_heads: Some(32),
        default_d_head: Some(128),
        default_max_tokens: 32_768,
    },
];

/// The keys of one configuration, and the file they are from.
struct Config<'a> {
    path: &'a Path,
    keys: &'a Map<String, Value>,
}

/// Reads what the configuration says. `dtype_bytes` is a guess until the tensors are known.
///
/// Layers may differ by `per_layer_config`, transformers' own field, which taper's exports use.
///
/// # Errors
/// [`ModelError`] with the key of the file `path` that is wrong.
pub fn read(path: &Path, config: &Value) -> Result<ModelSpec> {
    let keys = config
        .as_object()
        .ok_or_else(|| ModelError::Config { path: path.to_owned(), reason: "wanted a JSON object".to_owned() })?;
    let config = Config { path, keys };
    let family = config.family()?;
    if keys.get("quantization_config").is_some_and(|value| !value.is_null()) {
        return Err(config
            .wrong("`quantization_config` is set: quantized weights cannot be pruned; take the original checkpoint"));
    }
    let Some(descriptor) = DESCRIPTORS.iter().find(|descriptor| descriptor.family == family) else {
        return image::read(path, keys, family);
    };
    match config.text("hidden_act")? {
        None | Some("silu" | "swish") => {}
        Some(other) => return Err(config.wrong(&format!("`hidden_act` is {other}, wanted silu"))),
    }
    let (d_model, heads) = (config.count("hidden_size", None)?, config.count("num_attention_heads", None)?);
    let spec = ModelSpec {
        family: descriptor.family,
        d_model,
        d_head: config.count("head_dim", descriptor.default_d_head.or(d_model.checked_div(heads)))?,
        vocab: config.count("vocab_size", None)?,
        max_tokens: config.count("max_position_embeddings", Some(descriptor.default_max_tokens))?,
        norm_eps: config.number("rms_norm_eps", Some(1e-6))?,
        rope_theta: config.rope_theta()?,
        rope_scaling: config.rope_scaling()?,
        tied_head: config.flag("tie_word_embeddings")?,
        qkv_bias: config.has(descriptor.qkv_bias)?,
        o_bias: config.has(descriptor.o_bias)?,
        mlp_bias: config.has(descriptor.mlp_bias)?,
        qk_norm: descriptor.qk_norm,
        norm: NormKind::Rms,
        activation: Activation::SwiGlu,
        layer_scale: false,
        image: None,
        dtype_bytes: 2,
        blocks: config.blocks(descriptor)?,
        latency: None,
    };
    spec.validate().map_err(|cause| ModelError::Dimensions { path: path.to_owned(), cause })?;
    if rope_frequencies(&spec).into_iter().any(|frequency| !(frequency * spec.max_tokens as f32).is_finite()) {
        return Err(config.wrong("`rope_theta` and the rope scaling give frequencies that are not finite"));
    }
    Ok(spec)
}

impl Config<'_> {
    fn wrong(&self, reason: &str) -> ModelError {
        ModelError::Config { path: self.path.to_owned(), reason: reason.to_owned() }
    }

    fn family(&self) -> Result<Family> {
        let known: Vec<_> = Family::ALL.iter().map(|family| family.name()).collect();
        let name = self.text("model_type")?.ok_or_else(|| self.wrong("`model_type` is missing"))?;
        Family::ALL.into_iter().find(|family| family.name() == name).ok_or_else(|| {
            self.wrong(&format!("`model_type` is {name}, which taper cannot read; it reads {}", known.join(", ")))
        })
    }

    /// A key that is there and not null.
    fn get(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).filter(|value| !value.is_null())
    }

    fn text(&self, key: &str) -> Result<Option<&str>> {
        let text = |value: &Value| value.as_str().is_none().then(|| self.mistyped(key, value, "text"));
        match self.get(key).and_then(text) {
            Some(error) => Err(error),
            None => Ok(self.get(key).and_then(Value::as_str)),
        }
    }

    fn mistyped(&self, key: &str, value: &Value, want: &str) -> ModelError {
        let mut shown = value.to_string();
        if shown.chars().count() > 60 {
            shown = shown.chars().take(60).chain(['…']).collect();
        }
        self.wrong(&format!("`{key}` is {shown}, wanted {want}"))
    }

    fn count(&self, key: &str, default: Option<usize>) -> Result<usize> {
        let Some(value) = self.get(key) else {
            return default.ok_or_else(|| self.wrong(&format!("`{key}` is missing")));
        };
        let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
        count.ok_or_else(|| self.mistyped(key, value, "a whole number"))
    }

    fn number(&self, key: &str, default: Option<f64>) -> Result<f64> {
        match (self.get(key), default) {
            (Some(value), _) => value.as_f64().ok_or_else(|| self.mistyped(key, value, "a number")),
            (None, Some(default)) => Ok(default),
            (None, None) => Err(self.wrong(&format!("`{key}` is missing"))),
        }
    }

    fn flag(&self, key: &str) -> Result<bool> {
        self.get(key)
            .map_or(Ok(false), |value| value.as_bool().ok_or_else(|| self.mistyped(key, value, "true or false")))
    }

    fn has(&self, has: Has) -> Result<bool> {
        match has {
            Has::Never => Ok(false),
            Has::Always => Ok(true),
            Has::Key(key) => self.flag(key),
        }
    }

    /// `rope_scaling`, or the `rope_parameters` of transformers 5, which also hold the base.
    fn rope(&self) -> Result<Option<Config<'_>>> {
        let Some((key, value)) =
            ["rope_parameters", "rope_scaling"].iter().find_map(|key| Some((*key, self.get(key)?)))
        else {
            return Ok(None);
        };
        let keys = value.as_object().ok_or_else(|| self.mistyped(key, value, "an object"))?;
        Ok(Some(Config { path: self.path, keys }))
    }

    fn rope_theta(&self) -> Result<f64> {
        let outer = self.number("rope_theta", Some(10_000.0))?;
        self.rope()?.map_or(Ok(outer), |rope| rope.number("rope_theta", Some(outer)))
    }

    fn rope_scaling(&self) -> Result<Option<RopeScaling>> {
        let Some(rope) = self.rope()? else { return Ok(None) };
        let kind = match rope.text("rope_type")? {
            Some(kind) => Some(kind),
            None => rope.text("type")?,
        };
        match kind {
            None | Some("default") => Ok(None),
            Some("linear") => Ok(Some(RopeScaling::Linear { factor: rope.number("factor", None)? })),
            Some("llama3") => Ok(Some(RopeScaling::Llama3 {
                factor: rope.number("factor", None)?,
                low_freq_factor: rope.number("low_freq_factor", None)?,
                high_freq_factor: rope.number("high_freq_factor", None)?,
                original_max_position_embeddings: rope.count("original_max_position_embeddings", None)? as u64,
            })),
            Some(other) => {
                Err(self.wrong(&format!("rope scaling `{other}` is not supported, wanted default, linear or llama3")))
            }
        }
    }

    fn blocks(&self, descriptor: &Descriptor) -> Result<Vec<BlockSpec>> {
        let count = self.count("num_hidden_layers", None)?;
        if count > 1 << 12 {
            return Err(self.wrong(&format!("`num_hidden_layers` is {count}, wanted 1 to 4096")));
        }
        let own = match self.get("per_layer_config") {
            None => None,
            Some(value) => {
                Some(value.as_object().ok_or_else(|| self.mistyped("per_layer_config", value, "an object"))?)
            }
        };
        if let Some(stray) = own.into_iter().flat_map(Map::keys).find(|key| {
            key.parse::<usize>().ok().filter(|index| *index < count && index.to_string() == **key).is_none()
        }) {
            return Err(
                self.wrong(&format!("`per_layer_config` names layer `{stray}`, wanted 0 to {}", count.max(1) - 1))
            );
        }
        (0..count).map(|index| self.block(descriptor, own, index)).collect()
    }

    fn block(&self, descriptor: &Descriptor, own: Option<&Map<String, Value>>, index: usize) -> Result<BlockSpec> {
        let own = own.and_then(|own| own.get(&index.to_string()));
        let name = || format!("per_layer_config.{index}");
        let keys = match own {
            Some(own) => Some(own.as_object().ok_or_else(|| self.mistyped(&name(), own, "an object"))?),
            None => None,
        };
        let own = keys.map(|keys| Config { path: self.path, keys });
        let count = |key: &str, default: Option<usize>| match &own {
            Some(own) if own.get(key).is_some() => own.count(key, None),
            _ => self.count(key, default),
        };
        let skips = |half: &str| -> Result<bool> {
            let Some(value) = keys.and_then(|keys| keys.get("skip")).filter(|value| !value.is_null()) else {
                return Ok(false);
            };
            let known = |skip: &Value| matches!(skip.as_str(), Some("attention" | "mlp"));
            match value.as_array() {
                Some(list) if list.iter().all(known) => Ok(list.iter().any(|skip| skip == half)),
                _ => Err(self.mistyped(&format!("{}.skip", name()), value, "a list of \"attention\" and \"mlp\"")),
            }
        };
        let heads = count("num_attention_heads", None)?;
        let attention = AttentionSpec {
            n_heads: heads,
            n_kv_heads: count("num_key_value_heads", Some(descriptor.default_kv_heads.unwrap_or(heads)))?,
            window: self.window(descriptor, index)?,
        };
        let mlp = MlpSpec { d_ff: count("intermediate_size", None)? };
        Ok(BlockSpec {
            attention: if skips("attention")? { None } else { Some(attention) },
            mlp: if skips("mlp")? { None } else { Some(mlp) },
        })
    }

    fn window(&self, descriptor: &Descriptor, index: usize) -> Result<Option<usize>> {
        match descriptor.windows {
            Windows::Never => Ok(None),
            Windows::All(default) => self.window_size(default),
            Windows::ByLayer(default) => {
                if !self.flag("use_sliding_window")? {
                    return Ok(None);
                }
                let sliding = match self.get("layer_types") {
                    Some(types) => self.is_sliding(types, index)?,
                    None => index >= self.count("max_window_layers", Some(28))?,
                };
                if sliding { self.window_size(default) } else { Ok(None) }
            }
        }
    }

    /// Missing means the default, null none.
    fn window_size(&self, default: usize) -> Result<Option<usize>> {
        if self.keys.get("sliding_window").is_some_and(Value::is_null) {
            return Ok(None);
        }
        self.count("sliding_window", Some(default)).map(Some)
    }

    fn is_sliding(&self, types: &Value, index: usize) -> Result<bool> {
        match types.as_array().and_then(|types| types.get(index)).and_then(Value::as_str) {
            Some("sliding_attention") => Ok(true),
            Some("full_attention") => Ok(false),
            _ => Err(self.mistyped("layer_types", types, "\"full_attention\" or \"sliding_attention\" for each layer")),
        }
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
