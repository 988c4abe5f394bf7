//! Attention over a tree of token runs: texts that begin alike share the runs of what they share.
//!
//! A run is some tokens in a row whose past is the runs it names, in order, from position 0 on. Token `t` at position `p`
//! sees `p − window < s ≤ p` of that text: `o_t = Σ_s p_ts v_s`, `p_t = softmax(q_t · k_s / sqrt(d_head))`; query head `h`
//! reads KV head `kv_of[h]`. Several texts lie in one batch without padding. Sources: arXiv:1706.03762, arXiv:2305.13245
//! (groups); one copy of a shared prefix: arXiv:2402.05099.

use std::ops::Range;

use candle_core::Tensor;
use rayon::prelude::*;

use crate::attention::softmax;
use crate::host::{self, Host};
use crate::matrix::{Onto, Out, View, multiply};
use crate::{KernelError, Result};

/// Queries handled at once.
const TILE: usize = 64;

/// Tokens in a row, and those before them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Its rows in the batch, never none.
    pub rows: Range<usize>,
    /// Rows of what comes before, from the text's start on.
    pub past: Vec<Range<usize>>,
}

impl Run {
    /// Tokens before it.
    pub fn start(&self) -> usize {
        self.past.iter().map(Range::len).sum()
    }
}

/// How rows and columns of q, k and v are to be read.
#[derive(Debug, Clone, Copy)]
pub struct Tree<'a> {
    /// Runs in the order of their rows, which they cover without gaps.
    pub runs: &'a [Run],
    /// Width of a head.
    pub d_head: usize,
    /// KV head that each query head reads.
    pub kv_of: &'a [usize],
    /// KV heads.
    pub n_kv_heads: usize,
    /// Tokens seen, itself included; `None` sees all before.
    pub window: Option<usize>,
}

impl Tree<'_> {
    fn check(&self, op: &'static str, [q, k, v]: [&Tensor; 3]) -> Result<usize> {
        let rows = self.runs.last().map_or(0, |run| run.rows.end);
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
        let mut next = 0;
        for run in self.runs {
            if run.rows.start != next || run.rows.is_empty() || run.past.iter().any(|past| past.end > next) {
                return refuse("run", run.rows.start, format!("rows from {next} on, and a past before them"));
            }
            next = run.rows.end;
        }
        Ok(rows)
    }

    /// Rows `rows` of head `head` of a tensor of `heads` heads.
    fn view<'v>(&self, values: &'v [f32], heads: usize, head: usize, rows: Range<usize>) -> View<'v> {
        let stride = heads * self.d_head;
        View::new(&values[rows.start * stride + head * self.d_head..], [rows.len(), self.d_head], stride)
    }

    /// One head of one run: `[run's rows, d_head]`.
    fn attend(&self, [q, k, v]: [&[f32]; 3], run: &Run, head: usize) -> Vec<f32> {
        let (d, kv, start) = (self.d_head, self.kv_of[head], run.start());
        let scale = 1.0 / (d as f32).sqrt();
        let mut out = vec![0.0; run.rows.len() * d];
        let mut scores = vec![0.0; TILE.min(run.rows.len()) * (start + run.rows.len())];
        for first in (0..run.rows.len()).step_by(TILE) {
            let count = TILE.min(run.rows.len() - first);
            let keys = start + first + count; // a key's column is its position
            let from = run.rows.start + first;
            let queries = self.view(q, self.kv_of.len(), head, from..from + count);
            let own = run.rows.start..from + count;
            let mut column = 0;
            for rows in run.past.iter().chain([&own]) {
                let product = Out { values: &mut scores[column..], stride: keys, onto: Onto::Nothing };
                multiply(product, scale, queries, self.view(k, self.n_kv_heads, kv, rows.clone()).t());
                column += rows.len();
            }
            for (row, scores) in scores.chunks_mut(keys).take(count).enumerate() {
                let end = start + first + row + 1;
                softmax(scores, end.saturating_sub(self.window.unwrap_or(end).max(1))..end);
            }
            let mut column = 0;
            for rows in run.past.iter().chain([&own]) {
                let onto = if column > 0 { Onto::There } else { Onto::Nothing };
                let product = Out { values: &mut out[first * d..], stride: d, onto };
                let weights = View::new(&scores[column..], [count, rows.len()], keys);
                multiply(product, 1.0, weights, self.view(v, self.n_kv_heads, kv, rows.clone()));
                column += rows.len();
            }
        }
        out
    }
}

/// # Shapes
/// `q` `[rows, n_heads · d_head]`, `k` and `v` `[rows, n_kv_heads · d_head]`, rows of all runs; the result is as `q`.
///
/// # Errors
/// If shapes, runs, layout or device do not fit.
pub fn tree_attention(q: &Tensor, k: &Tensor, v: &Tensor, tree: Tree<'_>) -> Result<Tensor> {
    const OP: &str = "tree_attention";
    let rows = tree.check(OP, [q, k, v])?;
    let (q, k, v) = (Host::of(OP, q)?, Host::of(OP, k)?, Host::of(OP, v)?);
    let n_heads = tree.kv_of.len();
    let tasks = (0..tree.runs.len() * n_heads).into_par_iter();
    let heads: Vec<Vec<f32>> =
        tasks.map(|task| tree.attend([&q, &k, &v], &tree.runs[task / n_heads], task % n_heads)).collect();
    let (width, d) = (n_heads * tree.d_head, tree.d_head);
    let mut out = vec![0.0; rows * width];
    for (run, heads) in tree.runs.iter().zip(heads.chunks(n_heads.max(1))) {
        let own = &mut out[run.rows.start * width..run.rows.end * width];
        for (token, out) in own.chunks_mut(width.max(1)).enumerate() {
            out.chunks_mut(d).zip(heads).for_each(|(out, head)| out.copy_from_slice(&head[token * d..(token + 1) * d]));
        }
    }
    host::tensor(OP, out, &[rows, width])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Heads, Sight, cpu::attention};
    use candle_core::Device;
    use taper_base::rng::{normal, stream};

    const D: usize = 4;

    fn random(rows: usize, heads: usize, name: &str) -> Tensor {
        let mut rng = stream(5, name, 0, 0);
        let values: Vec<f32> = (0..rows * heads * D).map(|_| normal(&mut rng) as f32).collect();
        Tensor::from_vec(values, (rows, heads * D), &Device::Cpu).unwrap()
    }

    fn rows_of(x: &Tensor, ranges: &[Range<usize>]) -> Tensor {
        let parts: Vec<Tensor> = ranges.iter().map(|r| x.narrow(0, r.start, r.len()).unwrap()).collect();
        Tensor::cat(&parts, 0).unwrap()
    }

    /// Each run of a tree of three levels has what the attention of its whole text has at its places.
    #[test]
    fn a_run_sees_its_own_text_and_no_other() {
        let run = |rows: Range<usize>, past: &[Range<usize>]| Run { rows, past: past.to_vec() };
        let (root, stem) = (0..70, 70..75);
        let runs = [
            run(root.clone(), &[]),
            run(stem.clone(), std::slice::from_ref(&root)),
            run(75..76, &[root.clone(), stem.clone()]),
            run(76..150, &[root.clone(), stem]),
            run(150..153, &[root]),
            run(153..156, &[]),
        ];
        for (kv_of, window) in [(vec![0, 0, 1, 1], None), (vec![0, 1, 1], Some(7)), (vec![1], Some(1))] {
            let (q, k, v) = (random(156, kv_of.len(), "q"), random(156, 2, "k"), random(156, 2, "v"));
            let tree = Tree { runs: &runs, d_head: D, kv_of: &kv_of, n_kv_heads: 2, window };
            let got = tree_attention(&q, &k, &v, tree).unwrap();
            for run in &runs {
                let text: Vec<_> = run.past.iter().cloned().chain([run.rows.clone()]).collect();
                let tokens = run.start() + run.rows.len();
                let heads = Heads {
                    sequences: 1,
                    tokens,
                    d_head: D,
                    kv_of: &kv_of,
                    n_kv_heads: 2,
                    window,
                    first: None,
                    sight: Sight::Causal,
                };
                let all = attention(&rows_of(&q, &text), &rows_of(&k, &text), &rows_of(&v, &text), heads).unwrap().out;
                let want = all.narrow(0, run.start(), run.rows.len()).unwrap();
                let got = got.narrow(0, run.rows.start, run.rows.len()).unwrap();
                let off = (got - want).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
                assert!(off < 2e-6, "{run:?} {kv_of:?} {window:?}: {off}");
            }
        }
    }

    #[test]
    fn runs_and_shapes_are_checked() {
        let refusal = |runs: &[Run], rows: usize, kv_of: &[usize]| {
            let (q, k) = (random(rows, kv_of.len(), "q"), random(rows, 1, "k"));
            let tree = Tree { runs, d_head: D, kv_of, n_kv_heads: 1, window: None };
            tree_attention(&q, &k, &k, tree).unwrap_err().to_string()
        };
        let run = |rows: Range<usize>, past: &[Range<usize>]| Run { rows, past: past.to_vec() };
        let own_past = 1..3;
        let want = "tree_attention: run has shape [1], wanted rows from 1 on, and a past before them";
        assert_eq!(refusal(&[run(0..1, &[]), run(1..3, &[own_past])], 3, &[0]), want);
        let gap = "tree_attention: run has shape [2], wanted rows from 1 on, and a past before them";
        assert_eq!(refusal(&[run(0..1, &[]), run(2..3, &[])], 3, &[0]), gap);
        assert_eq!(refusal(&[run(0..2, &[])], 3, &[0]), "tree_attention: q has shape [3, 4], wanted [2, 4]");
        let heads = "tree_attention: kv_of has shape [1], wanted KV heads below 1";
        assert_eq!(refusal(&[run(0..3, &[])], 3, &[1]), heads);
    }
}
