//! Log-likelihoods of continuations of texts, what texts share computed once.
//!
//! Texts are sorted and laid out as a tree of runs, so that a prefix that several share (the context of all choices of a
//! question, the shots of a subject) goes through the model once; no row is padding. Logits exist for the rows that
//! predict a continuation, a piece of them at a time. The result is that of each text alone, up to rounding.

use std::ops::Range;

use taper_arch::SubBlock;
use taper_kernels::cpu::{self, token_scores, tree_attention};
use taper_kernels::{Rope, Run, Tensor, Tree, gather_rows};

use crate::attention::{Context, Projected};
use crate::error::at;
use crate::model::{Attention, rope_frequencies};
use crate::{Model, ModelError, Result};

/// A text and its end, which is to be scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Continuation<'a> {
    /// All tokens but the last, which predicts nothing.
    pub input: &'a [u32],
    /// The tokens that the last rows of `input` are to predict: as many as them at most.
    pub target: &'a [u32],
}

/// What a model says of a continuation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    /// Sum of its tokens' log-probabilities, in nats.
    pub log_likelihood: f64,
    /// Whether each of its tokens is the likeliest.
    pub greedy: bool,
}

/// Told the number of a block, and keys and values of all rows of the tree.
pub(crate) type Seen<'a> = dyn FnMut(usize, &Tensor, &Tensor) -> taper_kernels::Result<()> + 'a;

/// Texts as a tree: tokens of all runs, and where each text's rows are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    tokens: Vec<u32>,
    runs: Vec<Run>,
    ends: Vec<usize>, // for each text, the run it ends in, counted in whole runs
}

/// Tokens that two texts begin with alike.
fn shared(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl Layout {
    /// Of `texts`, sorted. A run ends where a text does, or where the texts that share it part.
    pub(crate) fn of(texts: &[&[u32]]) -> Self {
        let mut layout = Self { tokens: Vec::new(), runs: Vec::new(), ends: vec![0; texts.len()] };
        layout.grow(texts, 0, 0, &mut Vec::new());
        layout
    }

    /// Lays out `texts`, whose first `depth` tokens are in the runs `path`; the first of them is text `first`.
    fn grow(&mut self, texts: &[&[u32]], first: usize, depth: usize, path: &mut Vec<usize>) {
        let mut start = 0;
        while start < texts.len() {
            let text = texts[start];
            if text.len() == depth {
                self.ends[first + start] = path.last().copied().unwrap_or(0);
                start += 1;
                continue;
            }
            let branch = texts[start..].partition_point(|other| other.get(depth) <= text.get(depth));
            let group = &texts[start..start + branch];
            let upto = shared(text, group[branch - 1]); // sorted: the first and the last share what all do
            let past = path.iter().map(|run| self.runs[*run].rows.clone()).collect();
            let rows = self.tokens.len()..self.tokens.len() + upto - depth;
            self.tokens.extend_from_slice(&text[depth..upto]);
            self.runs.push(Run { rows, past });
            path.push(self.runs.len() - 1);
            self.grow(group, first + start, upto, path);
            path.pop();
            start += branch;
        }
    }

    /// All rows of text `text`, in its order.
    pub(crate) fn rows(&self, text: usize) -> Vec<Range<usize>> {
        let run = &self.runs[self.ends[text]];
        run.past.iter().chain([&run.rows]).cloned().collect()
    }

    /// The row of token `place` of text `text`.
    pub(crate) fn row(&self, text: usize, mut place: usize) -> usize {
        let run = &self.runs[self.ends[text]];
        for rows in run.past.iter().chain([&run.rows]) {
            if place < rows.len() {
                return rows.start + place;
            }
            place -= rows.len();
        }
        self.tokens.len() // not reached: a text's places are in its runs
    }
}

/// How many tokens of `input` a pass goes through if it takes in `earlier`, which sorts before it and next to it, too.
pub fn new_tokens(earlier: Option<&[u32]>, input: &[u32]) -> usize {
    input.len() - earlier.map_or(0, |earlier| shared(earlier, input))
}

impl Model {
    /// The score of each of `continuations`, in their order, by one forward pass over all.
    ///
    /// # Errors
    /// If the model does not lie on the CPU, where alone this runs; [`ModelError::Ids`] if there are none, one has no target, or a target longer than its input, or an id is outside of
    /// the vocabulary; if an operation fails.
    pub fn score(&self, continuations: &[Continuation<'_>]) -> Result<Vec<Scored>> {
        let odd = continuations.iter().find(|c| c.target.is_empty() || c.target.len() > c.input.len());
        if let Some(Continuation { input, target }) = odd {
            let reason = format!("{} tokens to predict {} with", input.len(), target.len());
            return Err(ModelError::Ids { reason });
        }
        if continuations.is_empty() {
            return Err(ModelError::Ids { reason: "no continuation to score".to_owned() });
        }
        let mut order: Vec<usize> = (0..continuations.len()).collect();
        order.sort_by_key(|index| continuations[*index].input);
        let texts: Vec<&[u32]> = order.iter().map(|index| continuations[*index].input).collect();
        let layout = Layout::of(&texts);
        let mut wanted = Vec::new(); // row of the tree, token
        for (text, index) in order.iter().enumerate() {
            let Continuation { input, target } = continuations[*index];
            let first = input.len() - target.len();
            wanted.extend(target.iter().enumerate().map(|(place, token)| (layout.row(text, first + place), *token)));
        }
        let scores = self.score_rows(&layout, &wanted)?;
        let nothing = Scored { log_likelihood: 0.0, greedy: true };
        let (mut scored, mut scores) = (vec![nothing; continuations.len()], scores.into_iter());
        for index in order {
            for score in scores.by_ref().take(continuations[index].target.len()) {
                scored[index].log_likelihood += f64::from(score.log_probability);
                scored[index].greedy &= score.likeliest;
            }
        }
        Ok(scored)
    }

    /// Scores of tokens by rows of the tree.
    fn score_rows(&self, layout: &Layout, wanted: &[(usize, u32)]) -> Result<Vec<taper_kernels::TokenScore>> {
        let x = self.run_tree(layout, &mut |_, _, _| Ok(()))?; // [tokens of the tree, d_model]
        let mut rows: Vec<u32> = wanted.iter().map(|(row, _)| *row as u32).collect();
        rows.sort_unstable();
        rows.dedup();
        let kept = gather_rows(&x, &rows).map_err(at("head"))?; // [rows, d_model]
        drop(x);
        let hidden = self.norm.forward(&kept, self.spec.norm_eps).map_err(at("final norm"))?;
        let among = |row: usize| rows.partition_point(|other| (*other as usize) < row);
        let wanted: Vec<(usize, u32)> = wanted.iter().map(|(row, token)| (among(*row), *token)).collect();
        let host = |tensor: &'_ Tensor| tensor.host("token_scores").cloned();
        let scores = host(&hidden).and_then(|hidden| token_scores(&hidden, &host(self.head())?, &wanted));
        scores.map_err(at("head"))
    }

    /// The residual stream after all blocks; `seen` is told each block's keys and values.
    pub(crate) fn run_tree(&self, layout: &Layout, seen: &mut Seen<'_>) -> Result<Tensor> {
        let positions = layout.runs.iter().flat_map(|run| (0..run.rows.len()).map(|token| run.start() + token));
        let positions: Vec<usize> = positions.collect();
        let rope = Some(Rope::Host(cpu::Rope::at(&rope_frequencies(&self.spec), positions.into_iter())));
        let tokens = layout.tokens.len();
        let context = Context {
            sequences: 1,
            tokens,
            d_head: self.spec.d_head,
            eps: self.spec.norm_eps,
            rope,
            first: None,
            read: None,
        };
        let mut x = self.embed(&layout.tokens)?; // [tokens, d_model]
        for (index, block) in self.blocks.iter().enumerate() {
            let place = |half: SubBlock| at(format!("block {index}, {half}"));
            if let Some(attention) = &block.attention {
                let mut seen = |k: &Tensor, v: &Tensor| seen(index, k, v);
                let after = attention.over_tree(&context, &x, &layout.runs, &mut seen);
                x = after.map_err(place(SubBlock::Attention))?;
            }
            if let Some(mlp) = &block.mlp {
                x = mlp.forward(&context, &x, Some(&x)).map_err(place(SubBlock::Mlp))?.0;
            }
        }
        Ok(x)
    }
}

impl Attention {
    /// As [`Attention::forward`], over `runs` of texts: `x` `[rows, d_model]`.
    fn over_tree(
        &self,
        context: &Context<'_>,
        x: &Tensor,
        runs: &[Run],
        seen: &mut dyn FnMut(&Tensor, &Tensor) -> taper_kernels::Result<()>,
    ) -> taper_kernels::Result<Tensor> {
        let Projected { q, k, v, .. } = self.project(context, x, None)?;
        seen(&k, &v)?;
        let tree =
            Tree { runs, d_head: context.d_head, kv_of: &self.kv_of, n_kv_heads: self.n_kv_heads, window: self.window };
        const OP: &str = "tree_attention";
        let units: Tensor = tree_attention(q.host(OP)?, k.host(OP)?, v.host(OP)?, tree)?.into();
        self.result(Some(x), &units)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_beginnings_are_laid_out_once() {
        let texts: [&[u32]; 6] = [&[1, 2], &[1, 2, 3], &[1, 2, 3], &[1, 2, 4, 5], &[1, 9], &[7]];
        let layout = Layout::of(&texts);
        assert_eq!(layout.tokens, [1, 2, 3, 4, 5, 9, 7]);
        let run = |rows: std::ops::Range<usize>, past: Vec<std::ops::Range<usize>>| Run { rows, past };
        let root = 0..1;
        let wanted = [
            run(root.clone(), vec![]),
            run(1..2, vec![root.clone()]),
            run(2..3, vec![0..1, 1..2]),
            run(3..5, vec![0..1, 1..2]),
            run(5..6, vec![root]),
            run(6..7, vec![]),
        ];
        assert_eq!(layout.runs, wanted);
        assert_eq!(layout.ends, [1, 2, 2, 3, 4, 5]);
        for (text, tokens) in texts.iter().enumerate() {
            let read: Vec<u32> = (0..tokens.len()).map(|place| layout.tokens[layout.row(text, place)]).collect();
            assert_eq!(read, *tokens);
        }
        assert_eq!(new_tokens(Some(texts[2]), texts[3]), 2);
        assert_eq!(new_tokens(None, texts[3]), 4);
    }
}
