//! Softmax attention, causal with an optional window or full, with grouped heads, in tiles of queries; no `tokens²` matrix is kept.
//!
//! `o_t = Σ_{s ≤ t, s > t − window, s ≥ first_t} p_ts v_s`, full: over all s of the sequence, `p_t = softmax(q_t · k_s / sqrt(d_head))`; query head `h` reads KV head
//! `kv_of[h]`. The backward recomputes `p` from the log-sums kept by the forward:
//! `dv_s = Σ p_ts do_t`, `dS = p ∘ (do vᵀ − rowsum(do ∘ o)) / sqrt(d_head)`, `dq = dS k`, `dk = dSᵀ q`.
//! Sources: arXiv:1706.03762, arXiv:2305.13245 (groups), arXiv:2205.14135 (recomputation).

use candle_core::Tensor;
use rayon::prelude::*;

use crate::exp::exp;
use crate::host::{self, Host};
use crate::matrix::{Out, View, multiply};
use crate::simd::{most, sum, wide};
use crate::{KernelError, Result};

/// Queries handled at once: a tile's scores (64 × tokens) stay in cache at common lengths.
const TILE: usize = 64;

/// How rows and columns of q, k and v are to be read.
#[derive(Debug, Clone, Copy)]
pub struct Heads<'a> {
    /// Sequences in the batch.
    pub sequences: usize,
    /// Tokens of each.
    pub tokens: usize,
    /// Width of a head.
    pub d_head: usize,
    /// KV head that each query head reads.
    pub kv_of: &'a [usize],
    /// KV heads.
    pub n_kv_heads: usize,
    /// Tokens seen, itself included; `None` sees all before.
    pub window: Option<usize>,
    /// The first token of its sequence that each token sees, `[sequences · tokens]`: where its document starts. Ascending in
    /// a sequence; `None` sees all before. On the CPU alone.
    pub first: Option<&'a [u32]>,
    /// Whether each token sees its whole sequence; `window` and `first` are not looked at then.
    pub full: bool,
}

/// What the forward computed.
#[derive(Debug, Clone)]
pub struct Attended {
    /// `[sequences · tokens, n_heads · d_head]`.
    pub out: Tensor,
    /// `log Σ exp` of each query's scores, `[sequences, n_heads, tokens]`.
    log_sums: Vec<f32>,
}

impl<'a> Heads<'a> {
    fn check(&self, op: &'static str, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<()> {
        let rows = self.sequences * self.tokens;
        let want = |heads: usize| [rows, heads * self.d_head];
        for (what, tensor, heads) in [("q", q, self.kv_of.len()), ("k", k, self.n_kv_heads), ("v", v, self.n_kv_heads)]
        {
            if tensor.dims() != want(heads) {
                return Err(host::shape(op, what, tensor, format!("{:?}", want(heads))));
            }
        }
        let refuse = |what, got: usize, want: String| Err(KernelError::Shape { op, what, got: vec![got], want });
        if let Some(kv) = self.kv_of.iter().find(|kv| **kv >= self.n_kv_heads) {
            return refuse("kv_of", *kv, format!("KV heads below {}", self.n_kv_heads));
        }
        let Some(first) = self.first else { return Ok(()) };
        if first.len() != rows {
            return refuse("first", first.len(), format!("[{rows}]"));
        }
        for sequence in first.chunks(self.tokens.max(1)) {
            let after = sequence.iter().enumerate().find(|(token, first)| **first as usize > *token);
            if let Some((token, first)) = after {
                return refuse("first", *first as usize, format!("at most {token}, the token that sees it"));
            }
            if let Some(pair) = sequence.windows(2).find(|pair| pair[0] > pair[1]) {
                return refuse("first", pair[1] as usize, format!("at least {}, that of the token before", pair[0]));
            }
        }
        Ok(())
    }

    fn tiles(&self, sequence: usize) -> impl Iterator<Item = Tile<'a>> + use<'a> {
        let (tokens, full) = (self.tokens, self.full);
        let window = self.window.unwrap_or(tokens).max(1);
        let first = self.first.map(|first| &first[sequence * tokens..(sequence + 1) * tokens]);
        (0..tokens.div_ceil(TILE)).map(move |index| {
            let (start, end) = (index * TILE, tokens.min((index + 1) * TILE));
            if full {
                return Tile { start, end, first_key: 0, last_key: tokens, window: tokens, first: None, full };
            }
            let mut tile = Tile { start, end, first_key: 0, last_key: end, window, first, full };
            tile.first_key = tile.first_seen(start);
            tile
        })
    }

    fn scale(&self) -> f32 {
        1.0 / (self.d_head as f32).sqrt()
    }

    /// Head `head` of sequence `sequence`, tokens `from..to`, in a tensor of `heads` heads.
    fn view<'v>(&self, values: &'v [f32], heads: usize, at: (usize, usize), from: usize, to: usize) -> View<'v> {
        let (sequence, head) = at;
        let stride = heads * self.d_head;
        let start = (sequence * self.tokens + from) * stride + head * self.d_head;
        View::new(&values[start..], [to - from, self.d_head], stride)
    }

    /// From one buffer a head, `[tokens, d_head]`, sequence by sequence, to rows.
    fn to_rows(self, op: &'static str, heads: &[Vec<f32>], n_heads: usize) -> Result<Tensor> {
        let (width, d) = (n_heads * self.d_head, self.d_head);
        let rows = self.sequences * self.tokens;
        let mut out = vec![0.0; rows * width];
        out.par_chunks_mut(width.max(1)).enumerate().for_each(|(row, out)| {
            let (sequence, token) = (row / self.tokens, row % self.tokens);
            for (out, head) in out.chunks_mut(d).zip(&heads[sequence * n_heads..]) {
                out.copy_from_slice(&head[token * d..(token + 1) * d]);
            }
        });
        host::tensor(op, out, &[rows, width])
    }
}

/// Queries `start..end` and the keys any of them sees, `first_key..last_key`.
struct Tile<'a> {
    start: usize,
    end: usize,
    first_key: usize,
    last_key: usize,
    window: usize,
    first: Option<&'a [u32]>,
    full: bool,
}

impl Tile<'_> {
    fn keys(&self) -> usize {
        self.last_key - self.first_key
    }

    /// The first token that `query` sees.
    fn first_seen(&self, query: usize) -> usize {
        (query + 1).saturating_sub(self.window).max(self.first.map_or(0, |first| first[query] as usize))
    }

    /// Columns of the tile's scores that query `row` of it sees.
    fn seen(&self, row: usize) -> std::ops::Range<usize> {
        if self.full {
            return 0..self.keys();
        }
        let query = self.start + row;
        self.first_seen(query) - self.first_key..query + 1 - self.first_key
    }
}

/// # Shapes
/// `q` `[sequences · tokens, n_heads · d_head]`, `k` and `v` `[sequences · tokens, n_kv_heads · d_head]`.
///
/// # Errors
/// If shapes, layout or device do not fit.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: Heads<'_>) -> Result<Attended> {
    const OP: &str = "attention";
    heads.check(OP, q, k, v)?;
    let (q, k, v) = (Host::of(OP, q)?, Host::of(OP, k)?, Host::of(OP, v)?);
    let n_heads = heads.kv_of.len();
    let tasks = (0..heads.sequences * n_heads).into_par_iter().map(|task| {
        let (sequence, head) = (task / n_heads, task % n_heads);
        let kv = (sequence, heads.kv_of[head]);
        let mut out = vec![0.0; heads.tokens * heads.d_head];
        let mut log_sums = Vec::with_capacity(heads.tokens);
        let mut scores = vec![0.0; TILE * heads.tokens];
        for tile in heads.tiles(sequence) {
            let keys = tile.keys();
            let queries = heads.view(&q, n_heads, (sequence, head), tile.start, tile.end);
            let seen = heads.view(&k, heads.n_kv_heads, kv, tile.first_key, tile.last_key);
            multiply(Out { values: &mut scores, stride: keys, add: false }, heads.scale(), queries, seen.t());
            for (row, scores) in scores.chunks_mut(keys).take(tile.end - tile.start).enumerate() {
                log_sums.push(softmax(scores, tile.seen(row)));
            }
            let weights = View::new(&scores, [tile.end - tile.start, keys], keys);
            let values = heads.view(&v, heads.n_kv_heads, kv, tile.first_key, tile.last_key);
            let out = Out { values: &mut out[tile.start * heads.d_head..], stride: heads.d_head, add: false };
            multiply(out, 1.0, weights, values);
        }
        (out, log_sums)
    });
    let (outs, log_sums): (Vec<_>, Vec<_>) = tasks.collect::<Vec<_>>().into_iter().unzip();
    Ok(Attended { out: heads.to_rows(OP, &outs, n_heads)?, log_sums: log_sums.concat() })
}

/// Softmax of `scores[seen]` in place, zero elsewhere; returns the log of the sum.
pub(crate) fn softmax(scores: &mut [f32], seen: std::ops::Range<usize>) -> f32 {
    scores[..seen.start].fill(0.0);
    scores[seen.end..].fill(0.0);
    let scores = &mut scores[seen];
    wide!(|| {
        let most = most(scores);
        scores.iter_mut().for_each(|score| *score = exp(*score - most));
        let sum = sum(scores.len(), |i| scores[i]);
        let inverse = 1.0 / sum;
        scores.iter_mut().for_each(|score| *score *= inverse);
        most + sum.ln()
    })
}

/// Gradients of q, k and v.
///
/// # Shapes
/// As [`attention`]; `dout` as its output.
///
/// # Errors
/// If shapes, layout or device do not fit.
pub fn attention_backward(
    [q, k, v]: [&Tensor; 3],
    heads: Heads<'_>,
    attended: &Attended,
    dout: &Tensor,
) -> Result<[Tensor; 3]> {
    const OP: &str = "attention_backward";
    heads.check(OP, q, k, v)?;
    host::same_shape(OP, "dout", dout, q)?;
    host::same_shape(OP, "attended.out", &attended.out, q)?;
    let rows = heads.sequences * heads.kv_of.len() * heads.tokens;
    if attended.log_sums.len() != rows {
        let (got, want) = (vec![attended.log_sums.len()], format!("[{rows}]"));
        return Err(KernelError::Shape { op: OP, what: "attended.log_sums", got, want });
    }
    let out = Host::of(OP, &attended.out)?;
    let inputs = Inputs {
        q: &Host::of(OP, q)?,
        k: &Host::of(OP, k)?,
        v: &Host::of(OP, v)?,
        out: &out,
        dout: &Host::of(OP, dout)?,
        log_sums: &attended.log_sums,
    };
    let n_heads = heads.kv_of.len();
    let tasks = (0..heads.sequences * heads.n_kv_heads).into_par_iter();
    let tasks: Vec<_> = tasks.map(|task| group_backward(&heads, &inputs, task)).collect();
    let mut dq = vec![Vec::new(); heads.sequences * n_heads];
    let (mut dk, mut dv) = (Vec::with_capacity(tasks.len()), Vec::with_capacity(tasks.len()));
    for group in tasks {
        group.dq.into_iter().for_each(|(at, gradient)| dq[at] = gradient);
        dk.push(group.dk);
        dv.push(group.dv);
    }
    let kv = heads.n_kv_heads;
    Ok([heads.to_rows(OP, &dq, n_heads)?, heads.to_rows(OP, &dk, kv)?, heads.to_rows(OP, &dv, kv)?])
}

struct Inputs<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    out: &'a [f32],
    dout: &'a [f32],
    log_sums: &'a [f32],
}

struct GroupGradients {
    dq: Vec<(usize, Vec<f32>)>, // (sequence · n_heads + head, [tokens, d_head])
    dk: Vec<f32>,               // [tokens, d_head]
    dv: Vec<f32>,
}

/// All query heads of one KV head of one sequence, in order: `dk` and `dv` are sums over them.
fn group_backward(heads: &Heads<'_>, inputs: &Inputs<'_>, task: usize) -> GroupGradients {
    let (sequence, kv) = (task / heads.n_kv_heads, task % heads.n_kv_heads);
    let (n_heads, n_kv, d, scale) = (heads.kv_of.len(), heads.n_kv_heads, heads.d_head, heads.scale());
    let size = heads.tokens * d;
    let mut group = GroupGradients { dq: Vec::new(), dk: vec![0.0; size], dv: vec![0.0; size] };
    let (mut p, mut ds) = (vec![0.0; TILE * heads.tokens], vec![0.0; TILE * heads.tokens]);
    for head in (0..n_heads).filter(|head| heads.kv_of[*head] == kv) {
        let at = (sequence, head);
        let mut dq = vec![0.0; size];
        for tile in heads.tiles(sequence) {
            let (keys, rows) = (tile.keys(), tile.end - tile.start);
            let side = |values, n, at| heads.view(values, n, at, tile.first_key, tile.last_key);
            let (seen, values) = (side(inputs.k, n_kv, (sequence, kv)), side(inputs.v, n_kv, (sequence, kv)));
            let queries = heads.view(inputs.q, n_heads, at, tile.start, tile.end);
            let dout = heads.view(inputs.dout, n_heads, at, tile.start, tile.end);
            multiply(Out { values: &mut p, stride: keys, add: false }, scale, queries, seen.t());
            multiply(Out { values: &mut ds, stride: keys, add: false }, 1.0, dout, values.t());
            for (row, (p, ds)) in p.chunks_mut(keys).zip(ds.chunks_mut(keys)).take(rows).enumerate() {
                let token = tile.start + row;
                let log_sum = inputs.log_sums[(sequence * n_heads + head) * heads.tokens + token];
                let start = (sequence * heads.tokens + token) * n_heads * d + head * d;
                let along = dot(&inputs.dout[start..start + d], &inputs.out[start..start + d]);
                score_gradient(p, ds, tile.seen(row), log_sum, along);
            }
            let (p, ds) = (View::new(&p, [rows, keys], keys), View::new(&ds, [rows, keys], keys));
            multiply(Out { values: &mut dq[tile.start * d..], stride: d, add: false }, scale, ds, seen);
            let from = tile.first_key * d;
            multiply(Out { values: &mut group.dk[from..], stride: d, add: true }, scale, ds.t(), queries);
            multiply(Out { values: &mut group.dv[from..], stride: d, add: true }, 1.0, p.t(), dout);
        }
        group.dq.push((sequence * n_heads + head, dq));
    }
    group
}

/// Scores become weights `p`, their gradients `dp` become those of the scores.
fn score_gradient(p: &mut [f32], dp: &mut [f32], seen: std::ops::Range<usize>, log_sum: f32, along: f32) {
    for values in [&mut *p, &mut *dp] {
        values[..seen.start].fill(0.0);
        values[seen.end..].fill(0.0);
    }
    let (p, dp) = (&mut p[seen.clone()], &mut dp[seen]);
    wide!(|| {
        for (p, dp) in p.iter_mut().zip(dp) {
            *p = exp(*p - log_sum);
            *dp = *p * (*dp - along);
        }
    });
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    wide!(|| sum(a.len(), |i| a[i] * b[i]))
}

#[cfg(test)]
#[path = "attention_tests.rs"]
mod tests;
