//! A transformer described by numbers: enough to count its costs and to build it, nothing of its weights.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{ArchError, ImageSpec, LatencyTable};

/// Which family's configuration and tensor names a checkpoint uses. What families differ in is in [`ModelSpec`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// DeiT, distilled and not.
    Deit,
    /// DINOv2 with a linear classifier.
    Dinov2,
    /// Llama 1 to 3.x.
    Llama,
    /// Mistral: Llama's tensors, with an optional sliding window.
    Mistral,
    /// Qwen2 and 2.5: Llama's tensors with q/k/v biases.
    Qwen2,
    /// Qwen3: Llama's tensors with RMSNorm on queries and keys of each head.
    Qwen3,
    /// The vision transformer.
    Vit,
}

impl Family {
    /// All families, sorted by name.
    pub const ALL: [Self; 7] =
        [Self::Deit, Self::Dinov2, Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3, Self::Vit];

    /// `model_type` in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Deit => "deit",
            Self::Dinov2 => "dinov2",
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Vit => "vit",
        }
    }

    /// Whether its models read images.
    pub fn reads_images(self) -> bool {
        matches!(self, Self::Deit | Self::Dinov2 | Self::Vit)
    }
}

/// What is normalised by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NormKind {
    /// RMSNorm: a weight.
    #[default]
    Rms,
    /// LayerNorm: a weight and a bias.
    Layer,
}

/// What an MLP does between its products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// `silu(gate) · up`.
    #[default]
    SwiGlu,
    /// `gelu(up)`, by the error function; no gate.
    Gelu,
    /// `gelu(up)`, by its tanh approximation; no gate.
    GeluTanh,
}

impl Activation {
    /// Whether there is a gate beside `up`.
    pub fn gated(self) -> bool {
        self == Self::SwiGlu
    }
}

/// The two halves of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SubBlock {
    /// Norm, q, k, v, attention, o.
    Attention,
    /// Norm, gate (if there is one), up, activation, down.
    Mlp,
}

impl SubBlock {
    /// Both, in the order of the data.
    pub const BOTH: [Self; 2] = [Self::Attention, Self::Mlp];
}

impl fmt::Display for SubBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Attention => "attention",
            Self::Mlp => "mlp",
        })
    }
}

/// How rotary frequencies are stretched beyond the trained context.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "rope_type", deny_unknown_fields)]
pub enum RopeScaling {
    /// All frequencies divided by `factor`. Source: arXiv:2306.15595.
    Linear {
        /// The stretch.
        factor: f64,
    },
    /// Llama 3.1's: long wavelengths divided by `factor`, short ones kept, a ramp between.
    Llama3 {
        /// The stretch of long wavelengths.
        factor: f64,
        /// Wavelengths above `original / low` are stretched whole.
        low_freq_factor: f64,
        /// Wavelengths below `original / high` are kept.
        high_freq_factor: f64,
        /// Context length the model was first trained with, in tokens.
        original_max_position_embeddings: u64,
    },
}

/// Attention of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttentionSpec {
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads (KV groups); divides `n_heads`.
    pub n_kv_heads: usize,
    /// A token sees at most this many tokens, itself included; `None` sees all before it.
    pub window: Option<usize>,
}

impl AttentionSpec {
    /// Query heads in each KV group.
    pub fn heads_per_group(&self) -> usize {
        self.n_heads / self.n_kv_heads
    }
}

/// MLP of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MlpSpec {
    /// Intermediate channels.
    pub d_ff: usize,
}

/// One block; a removed half is `None` and is by-passed through the residual stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockSpec {
    /// Attention, if there is any.
    pub attention: Option<AttentionSpec>,
    /// MLP, if there is any.
    pub mlp: Option<MlpSpec>,
}

/// A model in numbers. Blocks may differ from one another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// Naming and configuration family.
    pub family: Family,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Width of one head.
    pub d_head: usize,
    /// Vocabulary size; of a model of images its classes.
    pub vocab: usize,
    /// Longest context the checkpoint claims, in tokens; of a model of images the tokens of one.
    pub max_tokens: usize,
    /// `eps` of every norm.
    pub norm_eps: f64,
    /// Base of the rotary frequencies; a model of images has none.
    pub rope_theta: f64,
    /// Stretch of the rotary frequencies.
    pub rope_scaling: Option<RopeScaling>,
    /// Whether the head is the embedding.
    pub tied_head: bool,
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    /// Whether o has a bias.
    pub o_bias: bool,
    /// Whether gate, up and down have biases.
    pub mlp_bias: bool,
    /// Whether queries and keys are RMS-normalised per head.
    pub qk_norm: bool,
    /// What is normalised by.
    #[serde(default, skip_serializing_if = "is_default")]
    pub norm: NormKind,
    /// What MLPs do between their products.
    #[serde(default, skip_serializing_if = "is_default")]
    pub activation: Activation,
    /// Whether each sub-block's result is multiplied, column by column, with learnt factors.
    #[serde(default, skip_serializing_if = "is_default")]
    pub layer_scale: bool,
    /// Images, if it reads those: not causal, no rotation, no tied head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageSpec>,
    /// Bytes of a stored weight.
    pub dtype_bytes: usize,
    /// The blocks, first to last.
    pub blocks: Vec<BlockSpec>,
    /// What its parts were measured to take, if they were: a cost that no formula gives.
    #[serde(skip)]
    pub latency: Option<Arc<LatencyTable>>,
}

/// Bounds on what a configuration may claim, so that no product of them overflows (2^40 per matrix, 2^55 in all).
const MOST_WIDTH: usize = 1 << 20;
const MOST_VOCAB: usize = 1 << 24;
const MOST_BLOCKS: usize = 1 << 12;

impl ModelSpec {
    /// Checks every dimension.
    ///
    /// # Errors
    /// [`ArchError::Dimension`] naming the first one that is zero, absurd or does not divide.
    pub fn validate(&self) -> Result<(), ArchError> {
        within("hidden_size", self.d_model, MOST_WIDTH)?;
        within("head_dim", self.d_head, MOST_WIDTH)?;
        within("vocab_size", self.vocab, MOST_VOCAB)?;
        within("num_hidden_layers", self.blocks.len(), MOST_BLOCKS)?;
        within("max_position_embeddings", self.max_tokens, u32::MAX as usize)?;
        if let Some(image) = &self.image {
            image.validate()?;
        } else if !self.d_head.is_multiple_of(2) {
            return Err(dimension("head_dim", self.d_head, "an even number (rotary embedding)"));
        }
        let eps = if self.norm == NormKind::Rms { "rms_norm_eps" } else { "layer_norm_eps" };
        for (name, value) in [(eps, self.norm_eps), ("rope_theta", self.rope_theta)] {
            if !(value.is_finite() && value > 0.0) {
                return Err(dimension(name, value, "a positive number"));
            }
        }
        self.rope_scaling.as_ref().map_or(Ok(()), validate_scaling)?;
        self.blocks.iter().enumerate().try_for_each(|(index, block)| self.validate_block(index, block))
    }

    fn validate_block(&self, index: usize, block: &BlockSpec) -> Result<(), ArchError> {
        if let Some(attention) = block.attention {
            let name = |what: &str| format!("{what} of block {index}");
            within(&name("num_attention_heads"), attention.n_heads, MOST_WIDTH / self.d_head)?;
            within(&name("num_key_value_heads"), attention.n_kv_heads, attention.n_heads)?;
            if !attention.n_heads.is_multiple_of(attention.n_kv_heads) {
                let want = format!("a multiple of num_key_value_heads, {}", attention.n_kv_heads);
                return Err(dimension(&name("num_attention_heads"), attention.n_heads, &want));
            }
            if let Some(window) = attention.window {
                within(&name("sliding_window"), window, u32::MAX as usize)?;
            }
        }
        block.mlp.map_or(Ok(()), |mlp| within(&format!("intermediate_size of block {index}"), mlp.d_ff, MOST_WIDTH))
    }

    /// The block shape shared by all blocks, if they are all alike and whole.
    pub fn uniform_block(&self) -> Option<(AttentionSpec, MlpSpec)> {
        let first = self.blocks.first()?;
        self.blocks.iter().all(|block| block == first).then_some(())?;
        Some((first.attention?, first.mlp?))
    }
}

fn validate_scaling(scaling: &RopeScaling) -> Result<(), ArchError> {
    let positive = |name: &str, value: f64| {
        let good = value.is_finite() && value > 0.0;
        good.then_some(()).ok_or_else(|| dimension(&format!("rope_scaling.{name}"), value, "a positive number"))
    };
    match *scaling {
        RopeScaling::Linear { factor } => positive("factor", factor),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
            positive("factor", factor)?;
            positive("low_freq_factor", low_freq_factor)?;
            positive("original_max_position_embeddings", original_max_position_embeddings as f64)?;
            positive("high_freq_factor - low_freq_factor", high_freq_factor - low_freq_factor)
        }
    }
}

pub(crate) fn within(what: &str, got: usize, most: usize) -> Result<(), ArchError> {
    if (1..=most).contains(&got) { Ok(()) } else { Err(dimension(what, got, &format!("1 to {most}"))) }
}

fn dimension(what: &str, got: impl fmt::Display, want: &str) -> ArchError {
    ArchError::Dimension { what: what.to_owned(), got: got.to_string(), want: want.to_owned() }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A small valid model for tests: 3 blocks, 4 query heads in 2 KV groups, 64 channels.
#[doc(hidden)]
pub fn example() -> ModelSpec {
    let block = BlockSpec {
        attention: Some(AttentionSpec { n_heads: 4, n_kv_heads: 2, window: None }),
        mlp: Some(MlpSpec { d_ff: 64 }),
    };
    ModelSpec {
        family: Family::Llama,
        d_model: 32,
        d_head: 8,
        vocab: 100,
        max_tokens: 128,
        norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: None,
        tied_head: false,
        qkv_bias: false,
        o_bias: false,
        mlp_bias: false,
        qk_norm: false,
        norm: NormKind::Rms,
        activation: Activation::SwiGlu,
        layer_scale: false,
        image: None,
        dtype_bytes: 2,
        blocks: vec![block; 3],
        latency: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(change: impl Fn(&mut ModelSpec)) -> String {
        let mut spec = example();
        change(&mut spec);
        spec.validate().unwrap_err().to_string()
    }

    #[test]
    fn a_sound_spec_passes_and_each_fault_is_named() {
        example().validate().unwrap();
        assert_eq!(refusal(|s| s.d_model = 0), "hidden_size is 0, wanted 1 to 1048576");
        assert_eq!(refusal(|s| s.d_head = 7), "head_dim is 7, wanted an even number (rotary embedding)");
        assert_eq!(refusal(|s| s.rope_theta = f64::NAN), "rope_theta is NaN, wanted a positive number");
        assert_eq!(refusal(|s| s.blocks.clear()), "num_hidden_layers is 0, wanted 1 to 4096");
        let heads =
            refusal(|s| s.blocks[1].attention = Some(AttentionSpec { n_heads: 3, n_kv_heads: 2, window: None }));
        assert_eq!(heads, "num_attention_heads of block 1 is 3, wanted a multiple of num_key_value_heads, 2");
        let wide = refusal(|s| s.blocks[2].mlp = Some(MlpSpec { d_ff: usize::MAX }));
        assert_eq!(wide, format!("intermediate_size of block 2 is {}, wanted 1 to 1048576", usize::MAX));
        let ramp = refusal(|s| {
            s.rope_scaling = Some(RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 4.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings: 8192,
            });
        });
        assert_eq!(ramp, "rope_scaling.high_freq_factor - low_freq_factor is 0, wanted a positive number");
    }

    #[test]
    fn images_are_checked_too() {
        let image = ImageSpec { size: [8, 12], channels: 3, patch: 4, prefix: 1, pool: crate::Pool::FirstAndMean };
        assert_eq!((image.grid(), image.tokens(), image.patch_values(), image.pooled()), ([2, 3], 7, 48, 2));
        let of = |image| ModelSpec { image: Some(image), d_head: 7, ..example() };
        of(image).validate().unwrap();
        let refusal = |image| of(image).validate().unwrap_err().to_string();
        let odd = refusal(ImageSpec { size: [8, 13], ..image });
        assert_eq!(odd, "image_size is 13, wanted a multiple of patch_size, 4");
        assert_eq!(refusal(ImageSpec { patch: 0, ..image }), "patch_size is 0, wanted 1 to 4096");
    }

    #[test]
    fn uniform_means_alike_and_whole() {
        let mut spec = example();
        assert!(spec.uniform_block().is_some());
        spec.blocks[0].mlp = Some(MlpSpec { d_ff: 32 });
        assert!(spec.uniform_block().is_none());
    }
}
