//! What a pass takes, known before it is run.
//!
//! All in values a token (of f32 on the CPU, of the model's type on a machine), `d` = d_model, `q` and `kv` = width of all query and all KV heads, `f` = d_ff:
//!
//! - residual streams kept for the backward pass: `2 · blocks · d`, one a sub-block;
//! - insides of an attention, kept or computed again: `d + 2q + 2kv` (`+ q + kv` if q and k are normed); of an MLP: `d + 3f`, `d + 2f` without
//!   a gate; `Recompute::Cheap` keeps `d` less of an attention, `d + f` less of an MLP;
//! - working set on top, at its widest: attention forward `q + 2d`, backward `3q + 4kv + 2d`; MLP forward `2d`, backward
//!   `2f + 2d`, `f + 2d` without a gate; `d` more each where results have factors;
//! - the head works on a piece of the logits, of [`LOGITS`] values at most, and on `d`, backward `3d`;
//! - weights of 16 bits, on the CPU: a tile of at most [`TILE`] values, widened;
//! - products, on the CPU: at most [`PACKED`] values of a weight, packed.
//!
//! Memory is linear in tokens but for the last three. A classifier whose head reads a token or two needs less of its last block. Not
//! counted: on the CPU, a thread, up to `256 · length` values of scores and [`PACKED`] that attention packs; on a machine tables of
//! a few numbers a token.

use taper_arch::{BlockSpec, ModelSpec};
use taper_kernels::cuda::{self, Storage};
use taper_kernels::{LOGITS, PACKED, TILE};

use crate::Recompute;
use crate::engine::PIECE;

/// Bytes that one pass over some tokens takes beside the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassMemory {
    /// Residual streams kept for the backward pass.
    pub streams: u64,
    /// Insides of all sub-blocks: what [`Recompute::Nothing`] keeps.
    pub insides: u64,
    /// Of them, what [`Recompute::Cheap`] keeps.
    pub slim: u64,
    /// The widest sub-block's forward pass: its insides and working set.
    pub widest_forward: u64,
    /// The widest sub-block's backward pass: its insides and working set.
    pub widest_backward: u64,
    /// The largest working set of a backward pass, insides aside.
    pub working: u64,
    /// The same with what [`Recompute::Cheap`] makes again.
    pub working_slim: u64,
    /// A piece of the logits and the head's input.
    pub head: u64,
    /// What the head's backward pass adds to that.
    pub head_gradients: u64,
    /// What is taken of a weight at once: packed, and widened if it is of 16 bits.
    pub tile: u64,
    /// Pieces that a forward pass nobody looks at goes through in, each with a tile of its own: as many at once as there are
    /// threads.
    pub pieces: u64,
}

impl PassMemory {
    /// Of `spec` over `tokens` tokens at once, on the CPU.
    pub fn of(spec: &ModelSpec, tokens: usize) -> Self {
        Self::with(spec, tokens, (Storage::F32, LOGITS))
    }

    /// Of `spec` over `tokens` tokens at once, on a machine where values are of `storage`.
    pub fn on_machine(spec: &ModelSpec, tokens: usize, storage: Storage) -> Self {
        Self { tile: 0, pieces: 1, ..Self::with(spec, tokens, (storage, cuda::LOGITS)) }
    }

    fn with(spec: &ModelSpec, tokens: usize, (storage, logits): (Storage, usize)) -> Self {
        let bytes = |values: usize| (storage.bytes() * values) as u64 * tokens as u64;
        let halves: Vec<Half> = spec.blocks.iter().flat_map(|block| halves(spec, block)).collect();
        let most = |f: fn(&Half) -> usize| bytes(halves.iter().map(f).max().unwrap_or(0));
        let wide = spec.blocks.iter().map(|block| {
            let heads = block.attention.map_or(0, |a| a.n_heads * spec.d_head);
            heads.max(block.mlp.map_or(0, |m| m.d_ff))
        });
        let largest = spec.d_model * wide.max().unwrap_or(0).max(spec.vocab);
        let logits = (logits / spec.vocab.max(1)).max(1).min(tokens) * spec.vocab;
        Self {
            streams: bytes(spec.d_model * halves.len()),
            insides: halves.iter().map(|half| bytes(half.insides)).sum(),
            slim: halves.iter().map(|half| bytes(half.insides - half.cheap)).sum(),
            widest_forward: most(|half| half.insides + half.forward),
            widest_backward: most(|half| half.insides + half.backward),
            working: most(|half| half.backward),
            working_slim: most(|half| half.backward + half.again),
            head: 4 * logits as u64 + bytes(spec.d_model),
            head_gradients: bytes(2 * spec.d_model),
            pieces: tokens.div_ceil(PIECE).max(1) as u64,
            tile: 4 * (PACKED.min(largest) + if spec.dtype_bytes < 4 { TILE.min(largest) } else { 0 }) as u64,
        }
    }

    /// Of a forward pass, all of its pieces at once: with fewer threads it takes less.
    pub fn forward(&self) -> u64 {
        self.widest_forward.max(self.head) + self.pieces * self.tile
    }

    /// Of a forward and backward pass; what the sink keeps comes on top.
    pub fn backward(&self, recompute: Recompute) -> u64 {
        let head = self.head + self.head_gradients;
        self.streams
            + self.tile
            + match recompute {
                Recompute::Insides => self.widest_backward.max(head),
                Recompute::Cheap => self.slim + self.working_slim.max(head),
                Recompute::Nothing => self.insides + self.working.max(head),
            }
    }
}

/// A sub-block, in values a token.
struct Half {
    insides: usize,
    cheap: usize, // of them, what needs no product
    again: usize, // of that, what is there at the widest moment of the backward pass
    forward: usize,
    backward: usize,
}

fn halves(spec: &ModelSpec, block: &BlockSpec) -> impl Iterator<Item = Half> + use<> {
    let d = spec.d_model;
    let factors = if spec.layer_scale { d } else { 0 };
    let attention = block.attention.map(|a| {
        let (q, kv) = (a.n_heads * spec.d_head, a.n_kv_heads * spec.d_head);
        let unnormed = if spec.qk_norm { q + kv } else { 0 };
        Half {
            insides: d + 2 * q + 2 * kv + unnormed,
            cheap: d,
            again: 0,
            forward: q + 2 * d + factors,
            backward: 3 * q + 4 * kv + 2 * d + factors,
        }
    });
    let into = if spec.activation.gated() { 2 } else { 1 };
    let mlp = block.mlp.map(|m| Half {
        insides: d + (into + 1) * m.d_ff,
        cheap: d + m.d_ff,
        again: m.d_ff,
        forward: 2 * d + factors,
        backward: into * m.d_ff + 2 * d + factors,
    });
    attention.into_iter().chain(mlp)
}
