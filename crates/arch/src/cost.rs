//! Exact costs of an architecture: pure formulas of the spec, no table, no model.

use serde::{Deserialize, Serialize};
use taper_base::{Bytes, Flops, Nanos, Parameters};

use crate::{ArchError, Architecture, ModelSpec, NormKind};

/// What costs that depend on use are stated for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Workload {
    /// Context length of each sequence.
    pub tokens: u32,
    /// Sequences at once.
    pub batch: u32,
}

impl Default for Workload {
    fn default() -> Self {
        Self { tokens: 2048, batch: 1 }
    }
}

/// What an architecture costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Costs {
    /// All weights, a tied head counted once.
    pub parameters: Parameters,
    /// Weights of the blocks and the final norm: without embedding and head.
    pub non_embedding: Parameters,
    /// Weights on disk at their bits.
    pub bytes: Bytes,
    /// One forward pass over the workload, all logits; norms, softmax and rotations are not counted.
    pub flops: Flops,
    /// Keys and values of the workload at the stored weight type.
    pub kv_bytes: Bytes,
    /// Predicted by the spec's table of times, at the table's workload; none without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Nanos>,
}

/// Weights and work of one sub-block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SubBlockCost {
    /// Entries of its matrices.
    pub matrix: u64,
    /// Entries of its norms and biases.
    pub vector: u64,
}

/// Weights of block `index`'s attention in `spec`; zero if it has none.
///
/// `q: d·(h·d_head)`, `k, v: d·(kv·d_head)`, `o: (h·d_head)·d`, biases, its norm, the per-head q/k norms, factors of its result.
pub fn attention_cost(spec: &ModelSpec, index: usize) -> SubBlockCost {
    let Some(attention) = spec.blocks.get(index).and_then(|block| block.attention) else {
        return SubBlockCost::default();
    };
    let d = spec.d_model as u64;
    let (q, kv) = ((attention.n_heads * spec.d_head) as u64, (attention.n_kv_heads * spec.d_head) as u64);
    let qkv_bias = if spec.qkv_bias { q + 2 * kv } else { 0 };
    let o_bias = if spec.o_bias { d } else { 0 };
    let qk_norm = if spec.qk_norm { 2 * spec.d_head as u64 } else { 0 };
    SubBlockCost { matrix: 2 * d * q + 2 * d * kv, vector: beside(spec) + qkv_bias + o_bias + qk_norm }
}

/// Weights of a norm.
fn norm_cost(spec: &ModelSpec) -> u64 {
    spec.d_model as u64 * if spec.norm == NormKind::Layer { 2 } else { 1 }
}

/// Weights of a sub-block's norm and of the factors of its result.
fn beside(spec: &ModelSpec) -> u64 {
    norm_cost(spec) + if spec.layer_scale { spec.d_model as u64 } else { 0 }
}

/// Weights of what is before the blocks: the vocabulary's rows; or the patches' projection with its bias, the learnt tokens and
/// all positions.
pub fn embedding_cost(spec: &ModelSpec) -> u64 {
    let d = spec.d_model as u64;
    let rows = spec.image.map_or(spec.vocab, |image| image.patch_values() + 1 + image.prefix + image.tokens());
    rows as u64 * d
}

/// Weights of the head: none if it is the embedding.
pub fn head_cost(spec: &ModelSpec) -> u64 {
    let (classes, d) = (spec.vocab as u64, spec.d_model as u64);
    match spec.image {
        Some(image) => {
            let biases = if image.pool == crate::Pool::EachPrefix { image.prefix } else { 1 };
            classes * (image.pooled() as u64 * d + biases as u64)
        }
        None if spec.tied_head => 0,
        None => classes * d,
    }
}

/// Weights of block `index`'s MLP in `spec`: `3·d·d_ff`, `2·d·d_ff` without a gate, biases, its norm and factors of its result;
/// zero if it has none.
pub fn mlp_cost(spec: &ModelSpec, index: usize) -> SubBlockCost {
    let Some(mlp) = spec.blocks.get(index).and_then(|block| block.mlp) else {
        return SubBlockCost::default();
    };
    let (d, d_ff) = (spec.d_model as u64, mlp.d_ff as u64);
    let into = if spec.activation.gated() { 2 } else { 1 };
    let bias = if spec.mlp_bias { into * d_ff + d } else { 0 };
    SubBlockCost { matrix: (into + 1) * d * d_ff, vector: beside(spec) + bias }
}

/// All costs of `arch`, made from `spec`, at `workload`.
///
/// Attention FLOPs count the causal half (and the window): token t reads `min(t, window)` keys, 2·2·h·d_head each. A model of
/// images is stated for one, whatever `workload` says, and reads all of it.
///
/// # Errors
/// [`ArchError::Mismatch`] if `arch` does not fit `spec`; [`ArchError::Dimension`] for a workload beyond 64 bits.
pub fn cost(spec: &ModelSpec, arch: &Architecture, workload: Workload) -> Result<Costs, ArchError> {
    let cut = arch.apply(spec)?;
    let stored = 8 * spec.dtype_bytes as u64;
    let (embedding, head) = (embedding_cost(spec), head_cost(spec));
    let workload = spec.image.map_or(workload, |image| Workload { tokens: image.tokens() as u32, batch: 1 });
    let tokens = u128::from(workload.tokens) * u128::from(workload.batch);

    let bits = |bits: Option<u8>| bits.map_or(stored, u64::from);
    let mut total_bits = embedding * bits(arch.embedding_bits) + head * bits(arch.head_bits);
    let (mut matrices, mut vectors, mut kv, mut mixing) = (0, norm_cost(spec), 0_u128, 0_u128);
    for (index, (genes, block)) in arch.blocks.iter().zip(&cut.blocks).enumerate() {
        let (attention, mlp) = (attention_cost(&cut, index), mlp_cost(&cut, index));
        matrices += attention.matrix + mlp.matrix;
        vectors += attention.vector + mlp.vector;
        total_bits += attention.matrix * bits(genes.attention.as_ref().and_then(|a| a.bits));
        total_bits += mlp.matrix * bits(genes.mlp.as_ref().and_then(|m| m.bits));
        if let Some(a) = block.attention {
            let seen = match spec.image {
                Some(_) => tokens * tokens,
                None => keys_seen(u128::from(workload.tokens), a.window),
            };
            mixing += 4 * (a.n_heads * spec.d_head) as u128 * seen * u128::from(workload.batch);
            let kept = a.window.map_or(u64::from(workload.tokens), |w| u64::from(workload.tokens).min(w as u64));
            let width = (2 * a.n_kv_heads * spec.d_head * spec.dtype_bytes) as u128;
            kv += width * u128::from(kept) * u128::from(workload.batch);
        }
    }
    total_bits += vectors * stored;
    let outside = match spec.image {
        Some(image) => {
            let projected = image.patches() as u128 * (image.patch_values() * spec.d_model) as u128;
            projected + u128::from(spec.vocab as u64) * (image.pooled() * spec.d_model) as u128
        }
        None => tokens * (spec.vocab * spec.d_model) as u128,
    };
    if spec.image.is_some() {
        kv = 0; // nothing is generated
    }
    Ok(Costs {
        parameters: Parameters(matrices + vectors + embedding + head),
        non_embedding: Parameters(matrices + vectors),
        bytes: Bytes(total_bits.div_ceil(8)),
        flops: Flops(2 * (tokens * u128::from(matrices) + outside) + mixing),
        kv_bytes: Bytes(u64::try_from(kv).map_err(|_| ArchError::Dimension {
            what: "KV cache of the workload".to_owned(),
            got: format!("{kv} bytes"),
            want: "less than 2^64".to_owned(),
        })?),
        latency: spec.latency.as_ref().map(|table| table.predict(spec, arch)).transpose()?,
    })
}

/// Keys read by `tokens` causal queries, `Σ_t min(t, window)`.
fn keys_seen(tokens: u128, window: Option<usize>) -> u128 {
    let window = window.map_or(tokens, |w| tokens.min(w as u128));
    window * (window + 1) / 2 + (tokens - window) * window
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::example;

    #[test]
    fn counts_agree_with_a_hand_computed_model() {
        let costs = cost(&example(), &Architecture::whole(&example()), Workload { tokens: 3, batch: 2 }).unwrap();
        // attention: q 32*32, o 32*32, k and v 32*16; mlp: 3*32*64; two norms of 32
        let block = 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64 + 64;
        assert_eq!(costs.non_embedding, Parameters(3 * block + 32));
        assert_eq!(costs.parameters, Parameters(3 * block + 32 + 2 * 3200));
        assert_eq!(costs.bytes, Bytes(2 * costs.parameters.0));
        assert_eq!(costs.kv_bytes, Bytes(3 * 2 * 16 * 3 * 2 * 2)); // blocks * (k, v) * width * tokens * batch * bytes
        let matmul = 2 * 6 * (3 * (u128::from(block) - 64) + 3200);
        assert_eq!(costs.flops, Flops(matmul + 3 * 4 * 32 * (1 + 2 + 3) * 2));
    }

    #[test]
    fn removed_halves_cost_nothing_and_bits_count() {
        let spec = example();
        let costs = |text: &str| cost(&spec, &text.parse().unwrap(), Workload::default()).unwrap();
        assert_eq!(costs("-/- -/- -/-").non_embedding, Parameters(32));
        assert_eq!(costs("-/- -/- -/-").kv_bytes, Bytes(0));
        let (plain, four) = (costs("-/64 -/- -/-"), costs("-/64@4 -/- -/-"));
        assert_eq!(plain.bytes.0 - four.bytes.0, 3 * 32 * 64 * 12 / 8);
    }

    #[test]
    fn a_window_bounds_reads_and_cache() {
        assert_eq!(keys_seen(5, Some(2)), 1 + 2 + 2 + 2 + 2);
        assert_eq!(keys_seen(5, None), 15);
        assert_eq!(keys_seen(3, Some(9)), 6);
    }
}
