//! Softmax attention, causal with an optional window or full, with grouped heads, in tiles of queries; no `tokens²` matrix is kept.
//!
//! `o_t = Σ_{s ≤ t, s > t − window, s ≥ first_t} p_ts v_s`, full: over all s of the sequence, `p_t = softmax(q_t · k_s / sqrt(d_head))`; query head `h` reads KV head
//! `kv_of[h]`. The backward recomputes `p` from the log-sums kept by the forward:
//! `dv_s = Σ p_ts do_t`, `dS = p ∘ (do vᵀ − rowsum(do ∘ o)) / sqrt(d_head)`, `dq = dS k`, `dk = dSᵀ q`.
//! Sources: arXiv:1706.03762, arXiv:2305.13245 (groups), arXiv:2205.14135 (recomputation).

use std::ops::Range;

use candle_core::Tensor;
use rayon::prelude::*;

use crate::exp::exp;
use crate::host::{self, Host};
use crate::matrix::{Onto, Out, View, multiply};
use crate::simd::{most, sum, wide};
use crate::{KernelError, Result};

/// Queries handled at once, at most: a tile's scores (64 × tokens) stay in cache at common lengths, and where a token sees what
/// is before it, little of them is for nothing.
const TILE: usize = 64;
/// The same where each sees all.
const FULL_TILE: usize = 128;

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
    /// a sequence; `None` sees all before.
    pub first: Option<&'a [u32]>,
    /// Whom a token sees.
    pub sight: Sight,
}

/// Whom a token sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// Itself and those before, within the window of [`Heads`] and from its first token on.
    Causal,
    /// All of its sequence; window and first tokens are not looked at. Only the first `queries` of each sequence look: queries, and
    /// what they see, have so many rows a sequence. Fewer than all on the CPU alone.
    Full {
        /// Tokens that look.
        queries: usize,
    },
}

/// What the forward computed.
#[derive(Debug, Clone)]
pub struct Attended {
    /// `[sequences · queries, n_heads · d_head]`.
    pub out: Tensor,
    /// `log Σ exp` of each query's scores, `[sequences, n_heads, queries]`.
    log_sums: Vec<f32>,
}

impl<'a> Heads<'a> {
    fn check(&self, op: &'static str, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<()> {
        let (rows, kv) = (self.sequences * self.tokens, self.n_kv_heads);
        let asked = self.sequences * self.queries();
        for (what, tensor, rows, heads) in [("q", q, asked, self.kv_of.len()), ("k", k, rows, kv), ("v", v, rows, kv)] {
            let want = [rows, heads * self.d_head];
            if tensor.dims() != want {
                return Err(host::shape(op, what, tensor, format!("{want:?}")));
            }
        }
        let refuse = |what, got: usize, want: String| Err(KernelError::Shape { op, what, got: vec![got], want });
        if self.queries() > self.tokens {
            return refuse("queries", self.queries(), format!("at most the {} tokens", self.tokens));
        }
        if let Some(kv) = self.kv_of.iter().find(|kv| **kv >= self.n_kv_heads) {
            return refuse("kv_of", *kv, format!("KV heads below {}", self.n_kv_heads));
        }
        self.fault_of_first().map_or(Ok(()), |(got, want)| refuse("first", got, want))
    }

    /// What is wrong with [`first`](Self::first), and what was wanted instead: each device relies on it.
    pub(crate) fn fault_of_first(&self) -> Option<(usize, String)> {
        let (first, rows) = (self.first?, self.sequences * self.tokens);
        if first.len() != rows {
            return Some((first.len(), format!("[{rows}]")));
        }
        first.chunks(self.tokens.max(1)).find_map(|sequence| {
            let after = sequence.iter().enumerate().find(|(token, first)| **first as usize > *token);
            if let Some((token, first)) = after {
                return Some((*first as usize, format!("at most {token}, the token that sees it")));
            }
            let pair = sequence.windows(2).find(|pair| pair[0] > pair[1])?;
            Some((pair[1] as usize, format!("at least {}, that of the token before", pair[0])))
        })
    }

    fn tiles(&self, sequence: usize) -> impl Iterator<Item = Tile<'a>> + use<'a> {
        let (tokens, queries, full) = (self.tokens, self.queries(), self.full());
        let window = self.window.unwrap_or(tokens).max(1);
        let first = self.first.map(|first| &first[sequence * tokens..(sequence + 1) * tokens]);
        let step = self.tile();
        (0..queries.div_ceil(step)).map(move |index| {
            let (start, end) = (index * step, queries.min((index + 1) * step));
            if full {
                return Tile { start, end, first_key: 0, last_key: tokens, window: tokens, first: None, full };
            }
            let mut tile = Tile { start, end, first_key: 0, last_key: end, window, first, full };
            tile.first_key = tile.first_seen(start);
            tile
        })
    }

    /// Tokens of a sequence that look.
    pub(crate) fn queries(&self) -> usize {
        match self.sight {
            Sight::Causal => self.tokens,
            Sight::Full { queries } => queries,
        }
    }

    fn full(&self) -> bool {
        matches!(self.sight, Sight::Full { .. })
    }

    /// Queries of a tile: all tiles of a sequence are about as large.
    fn tile(&self) -> usize {
        let most = if self.full() { FULL_TILE } else { TILE };
        self.queries().div_ceil(self.queries().div_ceil(most).max(1)).max(1)
    }

    fn scale(&self) -> f32 {
        1.0 / (self.d_head as f32).sqrt()
    }

    /// Head `head` of sequence `sequence`, rows `rows` of its `each`, in a tensor of `heads` heads.
    fn view<'v>(&self, values: &'v [f32], (each, heads): Of, at: (usize, usize), rows: Range<usize>) -> View<'v> {
        let (sequence, head) = at;
        let stride = heads * self.d_head;
        let start = (sequence * each + rows.start) * stride + head * self.d_head;
        View::new(&values[start..], [rows.len(), self.d_head], stride)
    }

    /// Rows a sequence, and heads, of queries and of what they see.
    fn of_queries(&self) -> Of {
        (self.queries(), self.kv_of.len())
    }

    fn of_keys(&self) -> Of {
        (self.tokens, self.n_kv_heads)
    }

    /// The rows of each head of each sequence, to be written.
    fn rows_of<'v>(&self, values: &'v mut [f32], (each, heads): Of) -> Vec<Rows<'v>> {
        let mut all: Vec<Rows<'v>> = (0..self.sequences * heads).map(|_| Vec::with_capacity(each)).collect();
        for (row, values) in values.chunks_mut((heads * self.d_head).max(1)).enumerate() {
            let sequence = row / each * heads;
            all[sequence..].iter_mut().zip(values.chunks_mut(self.d_head)).for_each(|(rows, head)| rows.push(head));
        }
        all
    }
}

/// Rows a sequence, and heads, of a tensor.
type Of = (usize, usize);

/// One head of one sequence: `d_head` values of each token.
type Rows<'a> = Vec<&'a mut [f32]>;

fn write(rows: &mut [&mut [f32]], values: &[f32]) {
    if let Some(d) = rows.first().map(|row| row.len()) {
        rows.iter_mut().zip(values.chunks(d.max(1))).for_each(|(row, values)| row.copy_from_slice(values));
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
    fn seen(&self, row: usize) -> Range<usize> {
        if self.full {
            return 0..self.keys();
        }
        let query = self.start + row;
        self.first_seen(query) - self.first_key..query + 1 - self.first_key
    }
}

/// # Shapes
/// `q` and the result `[sequences · tokens, n_heads · d_head]`, of those that look only; `k` and `v` `[sequences · tokens, n_kv_heads · d_head]`.
///
/// # Errors
/// If shapes, layout or device do not fit.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: Heads<'_>) -> Result<Attended> {
    const OP: &str = "attention";
    heads.check(OP, q, k, v)?;
    let (q, k, v) = (Host::of(OP, q)?, Host::of(OP, k)?, Host::of(OP, v)?);
    let (n_heads, d) = (heads.kv_of.len(), heads.d_head);
    let width = n_heads * d;
    let (queries, of_queries, of_keys) = (heads.queries(), heads.of_queries(), heads.of_keys());
    let mut out = vec![0.0; heads.sequences * queries * width];
    let mut log_sums = vec![0.0; heads.sequences * n_heads * queries];
    let tasks = heads.rows_of(&mut out, of_queries).into_par_iter().zip(log_sums.par_chunks_mut(queries.max(1)));
    tasks.enumerate().for_each(|(task, (mut rows, log_sums))| {
        let (sequence, head) = (task / n_heads, task % n_heads);
        let kv = (sequence, heads.kv_of[head]);
        let (mut scores, mut out) = (vec![0.0; heads.tile() * heads.tokens], vec![0.0; heads.tile() * d]);
        for tile in heads.tiles(sequence) {
            let (keys, count) = (tile.keys(), tile.end - tile.start);
            let queries = heads.view(&q, of_queries, (sequence, head), tile.start..tile.end);
            let side = |values, kv| heads.view(values, of_keys, kv, tile.first_key..tile.last_key);
            let product = Out { values: &mut scores, stride: keys, onto: Onto::Nothing };
            multiply(product, heads.scale(), queries, side(&k, kv).t());
            let log_sums = &mut log_sums[tile.start..tile.end];
            for (row, (scores, log_sum)) in scores.chunks_mut(keys).zip(log_sums).enumerate() {
                *log_sum = softmax(scores, tile.seen(row));
            }
            let product = Out { values: &mut out, stride: d, onto: Onto::Nothing };
            multiply(product, 1.0, View::new(&scores, [count, keys], keys), side(&v, kv));
            write(&mut rows[tile.start..tile.end], &out);
        }
    });
    Ok(Attended { out: host::tensor(OP, out, &[heads.sequences * queries, width])?, log_sums })
}

/// Softmax of `scores[seen]` in place, zero elsewhere; returns the log of the sum.
pub(crate) fn softmax(scores: &mut [f32], seen: Range<usize>) -> f32 {
    scores[..seen.start].fill(0.0);
    scores[seen.end..].fill(0.0);
    let scores = &mut scores[seen];
    wide!(|| {
        let most = most(scores);
        scores.iter_mut().for_each(|score| *score = exp(*score - most));
        let sum = sum([scores], |[score]| score);
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
    let rows = heads.sequences * heads.kv_of.len() * heads.queries();
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
    let (of_queries, of_keys, kv) = (heads.of_queries(), heads.of_keys(), heads.n_kv_heads);
    let shape = |(each, of): Of| [heads.sequences * each, of * heads.d_head];
    let zeros = |of: Of| vec![0.0; shape(of).iter().product()];
    let [mut dq, mut dk, mut dv] = [of_queries, of_keys, of_keys].map(zeros);
    let mut groups: Vec<Group<'_>> = heads
        .rows_of(&mut dk, of_keys)
        .into_iter()
        .zip(heads.rows_of(&mut dv, of_keys))
        .map(|(dk, dv)| Group { dq: Vec::new(), dk, dv })
        .collect();
    for (at, rows) in heads.rows_of(&mut dq, of_queries).into_iter().enumerate() {
        let (sequence, head) = (at / heads.kv_of.len(), at % heads.kv_of.len());
        groups[sequence * kv + heads.kv_of[head]].dq.push((head, rows));
    }
    groups.into_par_iter().enumerate().for_each(|(task, group)| group.fill(&heads, &inputs, (task / kv, task % kv)));
    let tensor = |values, of| host::tensor(OP, values, &shape(of));
    Ok([tensor(dq, of_queries)?, tensor(dk, of_keys)?, tensor(dv, of_keys)?])
}

struct Inputs<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    out: &'a [f32],
    dout: &'a [f32],
    log_sums: &'a [f32],
}

/// Where the gradients of one KV head of one sequence go, and of the query heads that read it, by their numbers.
struct Group<'a> {
    dq: Vec<(usize, Rows<'a>)>,
    dk: Rows<'a>,
    dv: Rows<'a>,
}

impl Group<'_> {
    /// All query heads in order: `dk` and `dv` are sums over them.
    fn fill(mut self, heads: &Heads<'_>, inputs: &Inputs<'_>, (sequence, kv): (usize, usize)) {
        let (n_heads, d, scale) = (heads.kv_of.len(), heads.d_head, heads.scale());
        let (each, of_queries) = (heads.queries(), heads.of_queries());
        let (mut dk, mut dv) = (vec![0.0; heads.tokens * d], vec![0.0; heads.tokens * d]);
        let (mut p, mut ds) = (vec![0.0; heads.tile() * heads.tokens], vec![0.0; heads.tile() * heads.tokens]);
        let mut dq = vec![0.0; heads.tile() * d];
        for (head, dq_rows) in &mut self.dq {
            let at = (sequence, *head);
            for tile in heads.tiles(sequence) {
                let (keys, rows) = (tile.keys(), tile.end - tile.start);
                let side = |values| heads.view(values, heads.of_keys(), (sequence, kv), tile.first_key..tile.last_key);
                let (seen, values) = (side(inputs.k), side(inputs.v));
                let [queries, dout] =
                    [inputs.q, inputs.dout].map(|values| heads.view(values, of_queries, at, tile.start..tile.end));
                multiply(Out { values: &mut p, stride: keys, onto: Onto::Nothing }, scale, queries, seen.t());
                multiply(Out { values: &mut ds, stride: keys, onto: Onto::Nothing }, 1.0, dout, values.t());
                for (row, (p, ds)) in p.chunks_mut(keys).zip(ds.chunks_mut(keys)).take(rows).enumerate() {
                    let token = tile.start + row;
                    let log_sum = inputs.log_sums[(sequence * n_heads + *head) * each + token];
                    let start = (sequence * each + token) * n_heads * d + *head * d;
                    let along = dot(&inputs.dout[start..start + d], &inputs.out[start..start + d]);
                    score_gradient(p, ds, tile.seen(row), log_sum, along);
                }
                let (p, ds) = (View::new(&p, [rows, keys], keys), View::new(&ds, [rows, keys], keys));
                multiply(Out { values: &mut dq, stride: d, onto: Onto::Nothing }, scale, ds, seen);
                write(&mut dq_rows[tile.start..tile.end], &dq);
                let from = tile.first_key * d;
                multiply(Out { values: &mut dk[from..], stride: d, onto: Onto::There }, scale, ds.t(), queries);
                multiply(Out { values: &mut dv[from..], stride: d, onto: Onto::There }, 1.0, p.t(), dout);
            }
        }
        write(&mut self.dk, &dk);
        write(&mut self.dv, &dv);
    }
}

/// Scores become weights `p`, their gradients `dp` become those of the scores.
fn score_gradient(p: &mut [f32], dp: &mut [f32], seen: Range<usize>, log_sum: f32, along: f32) {
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
    wide!(|| sum([a, b], |[a, b]| a * b))
}

#[cfg(test)]
#[path = "attention_tests.rs"]
mod tests;
