//! Which llama.cpp architecture holds a model, its keys, and how tensors lie in it.
//!
//! Blocks all alike: `llama`, `qwen2` (queries as wide as the model) or `qwen3`, whose graphs build every block by the sizes of the
//! first. All else:
//! `deci` (rotary pairs side by side, as in `llama`: rows of q and k are permuted), or, with q/k-norms, `openelm` (fused qkv, tied
//! head). Rules that these do not say are in [`Arch::of`]. Source: llama.cpp as vendored in llama-cpp-python 0.3.36.

use taper_arch::{BlockSpec, Family, ModelSpec, RopeScaling};

use super::format::Value;

/// An architecture of llama.cpp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// Blocks that differ, of Llama, Mistral and Qwen2.
    Deci,
    /// Blocks all alike, of Llama and Mistral.
    Llama,
    /// Blocks that differ, of Qwen3.
    OpenElm,
    /// Blocks all alike.
    Qwen2,
    /// Blocks all alike.
    Qwen3,
}

/// Channels of the MLP, all zero, that stands for one that was removed: a block of k-quants.
pub(crate) const EMPTY: usize = 256;

impl Arch {
    /// The one that holds `spec`, or the rule that none does.
    ///
    /// # Errors
    /// The rule.
    pub fn of(spec: &ModelSpec) -> Result<Self, String> {
        if spec.image.is_some() {
            return Err("it holds no classifiers of images".to_owned());
        }
        let window = |block: &BlockSpec| block.attention.and_then(|a| a.window).filter(|w| *w < spec.max_tokens);
        if let Some(index) = spec.blocks.iter().position(|block| window(block).is_some()) {
            return Err(format!(
                "block {index} sees a window of tokens, which none of its architectures for such models does"
            ));
        }
        let first = spec.blocks.first().copied().unwrap_or(BlockSpec { attention: None, mlp: None });
        let alike = first.attention.is_some() && first.mlp.is_some() && spec.blocks.iter().all(|block| *block == first);
        let arch = match (spec.family, alike) {
            (Family::Llama | Family::Mistral, true) => Self::Llama,
            (Family::Qwen2, true) if square(spec, &first) => Self::Qwen2,
            (Family::Qwen3, true) => Self::Qwen3,
            (_, false) if spec.qk_norm => Self::OpenElm,
            _ => Self::Deci,
        };
        arch.check(spec).map(|()| arch)
    }

    fn check(self, spec: &ModelSpec) -> Result<(), String> {
        let without = |half: fn(&BlockSpec) -> bool| spec.blocks.iter().position(half);
        let refuse = |rule: &str| Err(format!("{} {rule}", self.name()));
        match self {
            Self::Deci if spec.blocks.first().is_none_or(|block| block.attention.is_none()) => {
                refuse("takes sizes from the first block's attention, and block 0 has none")
            }
            Self::OpenElm if !spec.tied_head => refuse("has no head of its own, and the model's is not tied"),
            Self::OpenElm if spec.qkv_bias || spec.o_bias || spec.mlp_bias => refuse("has no biases"),
            Self::OpenElm if without(|block| block.attention.is_none()).is_some() => {
                let index = without(|block| block.attention.is_none()).unwrap_or(0);
                Err(format!("openelm has an attention in every block, and block {index} has none"))
            }
            Self::Qwen2 | Self::Qwen3 if spec.o_bias || spec.mlp_bias => refuse("has no biases of outputs and MLPs"),
            Self::Qwen2 | Self::Qwen3 | Self::OpenElm
                if matches!(spec.rope_scaling, Some(RopeScaling::Llama3 { .. })) =>
            {
                refuse("does not read factors of rotary frequencies, and the model has Llama 3's")
            }
            _ => Ok(()),
        }
    }

    /// `general.architecture`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Deci => "deci",
            Self::Llama => "llama",
            Self::OpenElm => "openelm",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    /// Whether rotary pairs lie side by side, so that rows of q and k change places.
    pub(crate) fn pairs(self) -> bool {
        matches!(self, Self::Deci | Self::Llama)
    }

    /// The keys of `spec`.
    pub(crate) fn keys(self, spec: &ModelSpec) -> Vec<(String, Value)> {
        let number = |x: usize| Value::U32(x as u32);
        let of = |size: fn(&BlockSpec) -> usize| match self {
            Self::Deci | Self::OpenElm => Value::U32s(spec.blocks.iter().map(|block| size(block) as u32).collect()),
            _ => number(spec.blocks.first().map_or(0, size)),
        };
        let mut keys = vec![
            ("vocab_size", number(spec.vocab)),
            ("context_length", number(spec.max_tokens)),
            ("embedding_length", number(spec.d_model)),
            ("block_count", number(spec.blocks.len())),
            ("feed_forward_length", of(|block| block.mlp.map_or(EMPTY, |m| m.d_ff))),
            ("attention.head_count", of(|block| block.attention.map_or(0, |a| a.n_heads))),
            ("attention.head_count_kv", of(|block| block.attention.map_or(0, |a| a.n_kv_heads))),
            ("attention.key_length", number(spec.d_head)),
            ("attention.value_length", number(spec.d_head)),
            ("attention.layer_norm_rms_epsilon", Value::F32(spec.norm_eps as f32)),
            ("rope.dimension_count", number(spec.d_head)),
            ("rope.freq_base", Value::F32(spec.rope_theta as f32)),
        ];
        if let Some(RopeScaling::Linear { factor }) = spec.rope_scaling {
            keys.push(("rope.scaling.type", Value::Text("linear".to_owned())));
            keys.push(("rope.scaling.factor", Value::F32(factor as f32)));
        }
        keys.into_iter().map(|(key, value)| (format!("{}.{key}", self.name()), value)).collect()
    }
}

/// Whether queries are as wide as the model: the graph of `qwen2` knows no other.
fn square(spec: &ModelSpec, block: &BlockSpec) -> bool {
    block.attention.is_some_and(|a| a.n_heads * spec.d_head == spec.d_model)
}

/// What each rotary frequency is divided by, if that is not the same for all: Llama 3's rule.
pub(crate) fn rope_factors(spec: &ModelSpec) -> Option<Vec<f32>> {
    let Some(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings }) =
        spec.rope_scaling
    else {
        return None;
    };
    let original = original_max_position_embeddings as f64;
    let factor_of = |index: usize| {
        let frequency = spec.rope_theta.powf(-2.0 * index as f64 / spec.d_head as f64);
        let wavelength = 2.0 * std::f64::consts::PI / frequency;
        if wavelength < original / high_freq_factor {
            1.0
        } else if wavelength > original / low_freq_factor {
            factor
        } else {
            let smooth = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    Some((0..spec.d_head / 2).map(|index| factor_of(index) as f32).collect())
}
