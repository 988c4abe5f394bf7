//! A model in memory: weights as the engine wants them, units as rows.

use taper_arch::{Activation, ModelSpec, RopeScaling};
use taper_kernels::Tensor;

use crate::images::Images;
use crate::norm::Norm;

/// Weights of a transformer on one device. Cloning is cheap: tensors are shared.
///
/// Matrices keep the type of their checkpoint (f32, f16 or bf16) and are widened tile by tile where they are multiplied, so
/// that a model takes no more memory than its file; norms and biases are f32.
///
/// A cut model is the same struct with other tensors, often views on those it was cut from.
#[derive(Debug, Clone)]
pub struct Model {
    pub(crate) spec: ModelSpec,
    pub(crate) embedding: Tensor, // [vocab, d_model]; of a model of images [d_model, channels * patch * patch]
    pub(crate) images: Option<Images>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) norm: Norm,
    pub(crate) head: Option<Tensor>, // [vocab, d_model], [classes, pooled * d_model]; the embedding if none
}

#[derive(Debug, Clone)]
pub(crate) struct Block {
    pub(crate) attention: Option<Attention>,
    pub(crate) mlp: Option<Mlp>,
}

#[derive(Debug, Clone)]
pub(crate) struct Attention {
    pub(crate) norm: Norm,
    pub(crate) q: Tensor, // [n_heads * d_head, d_model]
    pub(crate) k: Tensor, // [n_kv_heads * d_head, d_model]
    pub(crate) v: Tensor, // [n_kv_heads * d_head, d_model]
    pub(crate) o: Tensor, // [n_heads * d_head, d_model]: transposed
    pub(crate) qkv_bias: Option<[Tensor; 3]>,
    pub(crate) o_bias: Option<Tensor>,       // [d_model]
    pub(crate) qk_norm: Option<[Tensor; 2]>, // [d_head] each
    pub(crate) scale: Option<Tensor>,        // [d_model]
    pub(crate) kv_of: Vec<usize>,            // KV head of each query head
    pub(crate) n_kv_heads: usize,
    pub(crate) window: Option<usize>,
}

#[derive(Debug, Clone)]
pub(crate) struct Mlp {
    pub(crate) norm: Norm,
    pub(crate) activation: Activation,
    pub(crate) gate: Option<Tensor>, // [d_ff, d_model]
    pub(crate) up: Tensor,           // [d_ff, d_model]
    pub(crate) down: Tensor,         // [d_ff, d_model]: transposed
    pub(crate) gate_bias: Option<Tensor>,
    pub(crate) up_bias: Option<Tensor>,
    pub(crate) down_bias: Option<Tensor>, // [d_model]
    pub(crate) scale: Option<Tensor>,     // [d_model]
}

impl Model {
    /// Its numbers.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// The weight of the head: the embedding if it is tied to that. See [`output_head`](Self::output_head).
    pub(crate) fn head(&self) -> &Tensor {
        self.head.as_ref().unwrap_or(&self.embedding)
    }
}

/// Angular frequency of each pair of a head's dimensions, `theta^(-2i/d_head)`, stretched as the scaling says.
///
/// Source: arXiv:2104.09864; `linear` arXiv:2306.15595; `llama3` as in transformers' `_compute_llama3_parameters`.
pub fn rope_frequencies(spec: &ModelSpec) -> Vec<f32> {
    let pair = |i: usize| spec.rope_theta.powf(-((2 * i) as f64) / spec.d_head as f64);
    let scaled = |f: f64| match spec.rope_scaling {
        None => f,
        Some(RopeScaling::Linear { factor }) => f / factor,
        Some(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings }) => {
            let turns = original_max_position_embeddings as f64 * f / std::f64::consts::TAU; // over the old context
            let smooth = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
            (1.0 - smooth) * f / factor + smooth * f
        }
    };
    (0..spec.d_head / 2).map(|i| scaled(pair(i)) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use taper_arch::spec::example;

    #[test]
    fn frequencies_match_hand_computed_ones() {
        let spec = ModelSpec { d_head: 4, rope_theta: 10_000.0, ..example() };
        assert_eq!(rope_frequencies(&spec), [1.0, 0.01]);
        let linear = ModelSpec { rope_scaling: Some(RopeScaling::Linear { factor: 4.0 }), ..spec.clone() };
        assert_eq!(rope_frequencies(&linear), [0.25, 0.0025]);
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 64,
        };
        let llama3 = rope_frequencies(&ModelSpec { rope_scaling: Some(scaling), ..spec });
        assert_eq!(llama3, [1.0, 0.01 / 8.0]); // 10.2 turns: kept; 0.1 turns: stretched whole
    }
}
