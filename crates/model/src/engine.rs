//! The forward pass, and the backward pass of the next token's loss, from the head to the embedding. Between the two lie the
//! blocks (`pass.rs`).

use taper_arch::SubBlock;
use taper_kernels::{
    Pending, Rope, Tensor, cross_entropy, gather_rows, into_units, rms_norm, rms_norm_backward, token_losses,
};

use crate::attention::Context;
use crate::error::at;
use crate::model::rope_frequencies;
use crate::pass::{Slopes, Step};
use crate::{Gradient, Model, ModelError, Parameter, PassOptions, Place, Recompute, Result, Sink};

/// Token ids `[sequences, length]`, row after row.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    pub(crate) ids: &'a [u32],
    pub(crate) length: usize,
    pub(crate) first: Option<&'a [u32]>,
}

impl<'a> Batch<'a> {
    /// `ids` in rows of `length`.
    ///
    /// # Errors
    /// [`ModelError::Ids`] if that does not come out even, or is nothing.
    pub fn new(ids: &'a [u32], length: usize) -> Result<Self> {
        if length == 0 || ids.is_empty() || !ids.len().is_multiple_of(length) {
            return Err(ModelError::Ids { reason: format!("{} are no sequences of {length}", ids.len()) });
        }
        Ok(Self { ids, length, first: None })
    }

    /// The same, but each token sees its own sequence from place `first` on only: the start of its document. One for each
    /// token, ascending in a sequence. On the CPU alone.
    #[must_use]
    pub fn seeing_from(self, first: &'a [u32]) -> Self {
        Self { first: Some(first), ..self }
    }

    /// How many rows.
    pub fn sequences(&self) -> usize {
        self.ids.len() / self.length
    }

    /// The same in pieces of whole sequences, each of at most `tokens` tokens but at least one sequence.
    pub fn pieces(self, tokens: usize) -> impl Iterator<Item = Self> {
        let rows = (tokens / self.length).max(1);
        let (step, length) = (rows * self.length, self.length);
        self.ids.chunks(step).enumerate().map(move |(piece, ids)| {
            let first = self.first.and_then(|first| first.get(piece * step..piece * step + ids.len()));
            Self { ids, length, first }
        })
    }

    /// Targets and whether each counts: the next token, none after the last of a row.
    fn targets(&self) -> (Vec<u32>, Vec<bool>) {
        let row = |row: &[u32]| -> Vec<u32> { row[1..].iter().copied().chain([0]).collect() };
        let targets = self.ids.chunks(self.length).flat_map(row).collect();
        let counts = (0..self.ids.len()).map(|t| t % self.length != self.length - 1).collect();
        (targets, counts)
    }
}

/// Sees the units of each sub-block in the forward pass: `[tokens, n_heads * d_head]` or `[tokens, d_ff]`.
pub type Observer<'a> = dyn FnMut(usize, SubBlock, &Tensor) -> taper_kernels::Result<()> + 'a;

impl Model {
    pub(crate) fn context<'a>(&self, batch: Batch<'a>) -> Result<Context<'a>> {
        let frequencies = rope_frequencies(&self.spec);
        let rope = Rope::new(self.embedding.machine(), &frequencies, batch.length).map_err(at("rope"))?;
        Ok(Context {
            sequences: batch.sequences(),
            tokens: batch.length,
            d_head: self.spec.d_head,
            eps: self.spec.norm_eps,
            rope,
            first: batch.first,
        })
    }

    /// Rows of the embedding: `[tokens, d_model]`.
    pub(crate) fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        if let Some(id) = ids.iter().find(|id| **id as usize >= self.spec.vocab) {
            return Err(ModelError::Ids { reason: format!("{id} is outside the vocabulary of {}", self.spec.vocab) });
        }
        gather_rows(&self.embedding, ids).map_err(at("embedding"))
    }

    /// The residual stream before the first block: rows of the embedding, `[tokens, d_model]`.
    ///
    /// # Errors
    /// If an id is outside the vocabulary.
    pub fn embedded(&self, batch: Batch<'_>) -> Result<Tensor> {
        self.embed(batch.ids)
    }

    /// The residual stream after the final norm.
    fn hidden(&self, batch: Batch<'_>, each: &mut dyn FnMut(Step) -> taper_kernels::Result<()>) -> Result<Tensor> {
        let x = self.run(&self.context(batch)?, (0..self.blocks.len(), self.embed(batch.ids)?), None, each)?;
        self.normed(&x)
    }

    /// The final norm of the residual stream: what the head sees.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn normed(&self, x: &Tensor) -> Result<Tensor> {
        rms_norm(x, &self.norm, self.spec.norm_eps).map_err(at("final norm"))
    }

    /// The gradient of the residual stream `x` before the final norm from that after it, `dy`.
    ///
    /// # Errors
    /// If shapes do not fit, or what the sink returns.
    pub fn normed_backward(&self, x: &Tensor, dy: &Tensor, sink: &mut dyn Sink) -> Result<Tensor> {
        let eps = self.spec.norm_eps;
        let gradient = Gradient::Norm { x, eps, dy };
        sink.take(Place::global(Parameter::FinalNorm), gradient).map_err(at("final norm"))?;
        rms_norm_backward(None, x, &self.norm, eps, dy).map_err(at("final norm"))
    }

    /// Hands the embedding's gradient to `sink`; `g` is that of its rows, `[tokens, d_model]`.
    ///
    /// # Errors
    /// What the sink returns.
    pub fn embed_backward(&self, batch: Batch<'_>, g: &Tensor, sink: &mut dyn Sink) -> Result<()> {
        let rows = Gradient::Rows { ids: batch.ids, dy: g, vocab: self.spec.vocab };
        sink.take(Place::global(Parameter::Embedding), rows).map_err(at("embedding"))
    }

    /// Logits of every token, on the CPU.
    ///
    /// # Shapes
    /// `[sequences * length, vocab]`.
    ///
    /// # Errors
    /// If an id is outside the vocabulary, or an operation fails.
    pub fn logits(&self, batch: Batch<'_>) -> Result<candle_core::Tensor> {
        let hidden = self.hidden(batch, &mut |_| Ok(()))?;
        into_units(&hidden, self.head(), None).and_then(|logits| logits.to_host()).map_err(at("head"))
    }

    /// Loss of the next token in nats, of each token but the last of a sequence.
    ///
    /// # Shapes
    /// `[sequences, length - 1]`.
    ///
    /// # Errors
    /// If an id is outside the vocabulary, or an operation fails.
    pub fn token_losses(&self, batch: Batch<'_>) -> Result<Vec<f32>> {
        self.observe(batch, &mut |_, _, _| Ok(()))
    }

    /// [`Self::token_losses`], and `observer` sees every sub-block's units on the way.
    ///
    /// # Errors
    /// As [`Self::token_losses`], and what the observer returns.
    pub fn observe(&self, batch: Batch<'_>, observer: &mut Observer<'_>) -> Result<Vec<f32>> {
        let hidden = self.hidden(batch, &mut |step| match step.units() {
            Some(units) => observer(step.block, step.half, units),
            None => Ok(()),
        })?;
        let (targets, counts) = batch.targets();
        let losses = token_losses(&hidden, self.head(), &targets).and_then(Pending::wait).map_err(at("head"))?;
        Ok(losses.into_iter().zip(counts).filter_map(|(loss, counts)| counts.then_some(loss)).collect())
    }

    /// [`Self::token_losses`], and the gradients of `weight · Σ losses` go to `sink`.
    ///
    /// # Errors
    /// As [`Self::token_losses`], and what the sink returns.
    pub fn backward(
        &self,
        batch: Batch<'_>,
        weight: f32,
        recompute: Recompute,
        sink: &mut dyn Sink,
    ) -> Result<Vec<f32>> {
        let pass = self.pass(batch, PassOptions::new(recompute))?;
        let (targets, counts) = batch.targets();
        let weights: Vec<f32> = counts.iter().map(|counts| if *counts { weight } else { 0.0 }).collect();
        let (hidden, head) = (self.normed(pass.end())?, self.head());
        let mut take = |input: &Tensor, slopes: &Tensor| {
            let gradient = Gradient::Matrix { units: slopes, other: input, weight: head };
            sink.take(Place::global(Parameter::Head), gradient)
        };
        let (losses, dy) = cross_entropy(&hidden, head, &targets, &weights, &mut take).map_err(at("head"))?;
        drop(hidden);
        let slopes = Slopes { end: Some(self.normed_backward(pass.end(), &dy, sink)?), ..Slopes::default() };
        drop(dy);
        if let Some(g) = pass.backward(self, slopes, sink)? {
            self.embed_backward(batch, &g, sink)?;
        }
        let losses = losses.wait().map_err(at("head"))?; // a machine is not waited for before
        Ok(losses.into_iter().zip(counts).filter_map(|(loss, counts)| counts.then_some(loss)).collect())
    }
}
