//! The forward pass, and the backward pass block by block.
//!
//! The forward keeps the input of each sub-block; the backward takes them last to first, and needs of each its inner
//! activations, which it has kept or computes again (`Recompute`). So the memory of a pass is `2 · blocks` residual streams
//! and, recomputing, the inside of one sub-block; a third more work. Frozen weights: no gradient is formed unless the
//! [`Sink`] forms it.

use taper_arch::SubBlock;
use taper_kernels::{
    Pending, Rope, Tensor, cross_entropy, gather_rows, into_units, rms_norm, rms_norm_backward, token_losses,
};

use crate::attention::{AttentionTape, Context};
use crate::error::at;
use crate::mlp::MlpTape;
use crate::model::rope_frequencies;
use crate::{Gradient, Model, ModelError, Parameter, Place, Result, Sink};

/// Token ids `[sequences, length]`, row after row.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    ids: &'a [u32],
    length: usize,
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
        Ok(Self { ids, length })
    }

    /// How many rows.
    pub fn sequences(&self) -> usize {
        self.ids.len() / self.length
    }

    /// The same in pieces of whole sequences, each of at most `tokens` tokens but at least one sequence.
    pub fn pieces(self, tokens: usize) -> impl Iterator<Item = Self> {
        let rows = (tokens / self.length).max(1);
        self.ids.chunks(rows * self.length).map(move |ids| Self { ids, length: self.length })
    }

    /// Targets and whether each counts: the next token, none after the last of a row.
    fn targets(&self) -> (Vec<u32>, Vec<bool>) {
        let row = |row: &[u32]| -> Vec<u32> { row[1..].iter().copied().chain([0]).collect() };
        let targets = self.ids.chunks(self.length).flat_map(row).collect();
        let counts = (0..self.ids.len()).map(|t| t % self.length != self.length - 1).collect();
        (targets, counts)
    }
}

/// What to keep between the passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recompute {
    /// All activations: fastest.
    Nothing,
    /// The inputs of sub-blocks; their insides are computed again.
    Insides,
}

enum Tape {
    Attention(Box<AttentionTape>),
    Mlp(Box<MlpTape>),
}

/// One sub-block gone through.
struct Step {
    block: usize,
    half: SubBlock,
    input: Tensor,
    tape: Option<Tape>,
}

impl Step {
    fn place(&self) -> String {
        place(self.block, self.half)
    }
}

fn place(block: usize, half: SubBlock) -> String {
    format!("block {block}, {half}")
}

/// Sees the units of each sub-block in the forward pass: `[tokens, n_heads * d_head]` or `[tokens, d_ff]`.
pub type Observer<'a> = dyn FnMut(usize, SubBlock, &Tensor) -> taper_kernels::Result<()> + 'a;

impl Model {
    fn context(&self, batch: Batch<'_>) -> Result<Context> {
        let frequencies = rope_frequencies(&self.spec);
        let rope = Rope::new(self.embedding.machine(), &frequencies, batch.length).map_err(at("rope"))?;
        Ok(Context {
            sequences: batch.sequences(),
            tokens: batch.length,
            d_head: self.spec.d_head,
            eps: self.spec.norm_eps,
            rope,
        })
    }

    /// Rows of the embedding: `[tokens, d_model]`.
    pub(crate) fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        if let Some(id) = ids.iter().find(|id| **id as usize >= self.spec.vocab) {
            return Err(ModelError::Ids { reason: format!("{id} is outside the vocabulary of {}", self.spec.vocab) });
        }
        gather_rows(&self.embedding, ids).map_err(at("embedding"))
    }

    /// Runs all sub-blocks; `each` gets a step, its tape and what comes out.
    fn run(
        &self,
        context: &Context,
        mut x: Tensor,
        each: &mut dyn FnMut(Step) -> taper_kernels::Result<()>,
    ) -> Result<Tensor> {
        for (index, block) in self.blocks.iter().enumerate() {
            if let Some(attention) = &block.attention {
                let wrap = || at(place(index, SubBlock::Attention));
                let (y, tape) = attention.forward(context, &x).map_err(wrap())?;
                let tape = Some(Tape::Attention(Box::new(tape)));
                each(Step { block: index, half: SubBlock::Attention, input: x, tape }).map_err(wrap())?;
                x = y;
            }
            if let Some(mlp) = &block.mlp {
                let wrap = || at(place(index, SubBlock::Mlp));
                let (y, tape) = mlp.forward(context, &x).map_err(wrap())?;
                let tape = Some(Tape::Mlp(Box::new(tape)));
                each(Step { block: index, half: SubBlock::Mlp, input: x, tape }).map_err(wrap())?;
                x = y;
            }
        }
        Ok(x)
    }

    /// The residual stream after the final norm.
    fn hidden(&self, batch: Batch<'_>, each: &mut dyn FnMut(Step) -> taper_kernels::Result<()>) -> Result<Tensor> {
        let x = self.run(&self.context(batch)?, self.embed(batch.ids)?, each)?;
        rms_norm(&x, &self.norm, self.spec.norm_eps).map_err(at("final norm"))
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
        let hidden = self.hidden(batch, &mut |step| match &step.tape {
            Some(Tape::Attention(tape)) => observer(step.block, step.half, tape.units()),
            Some(Tape::Mlp(tape)) => observer(step.block, step.half, tape.units()),
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
        let context = self.context(batch)?;
        let mut steps = Vec::with_capacity(2 * self.blocks.len());
        let x = self.run(&context, self.embed(batch.ids)?, &mut |mut step| {
            step.tape = step.tape.filter(|_| recompute == Recompute::Nothing);
            steps.push(step);
            Ok(())
        })?;
        let (losses, mut g) = self.head_backward(batch, &x, weight, sink)?;
        while let Some(step) = steps.pop() {
            let place = step.place();
            g = self.step_backward(&context, step, &g, sink).map_err(at(place))?;
        }
        let rows = Gradient::Rows { ids: batch.ids, dy: &g, vocab: self.spec.vocab };
        sink.take(Place::global(Parameter::Embedding), rows).map_err(at("embedding"))?;
        let losses = losses.wait().map_err(at("head"))?; // a machine is not waited for before
        Ok(losses.into_iter().zip(batch.targets().1).filter_map(|(loss, counts)| counts.then_some(loss)).collect())
    }

    /// Losses, and the gradient of the residual stream `x` before the final norm.
    fn head_backward(
        &self,
        batch: Batch<'_>,
        x: &Tensor,
        weight: f32,
        sink: &mut dyn Sink,
    ) -> Result<(Pending<Vec<f32>>, Tensor)> {
        let eps = self.spec.norm_eps;
        let hidden = rms_norm(x, &self.norm, eps).map_err(at("final norm"))?;
        let (targets, counts) = batch.targets();
        let weights: Vec<f32> = counts.iter().map(|counts| if *counts { weight } else { 0.0 }).collect();
        let head = self.head();
        let mut take = |input: &Tensor, slopes: &Tensor| {
            let gradient = Gradient::Matrix { units: slopes, other: input, weight: head };
            sink.take(Place::global(Parameter::Head), gradient)
        };
        let (losses, dy) = cross_entropy(&hidden, head, &targets, &weights, &mut take).map_err(at("head"))?;
        let gradient = Gradient::Norm { x, eps, dy: &dy };
        sink.take(Place::global(Parameter::FinalNorm), gradient).map_err(at("final norm"))?;
        let g = rms_norm_backward(None, x, &self.norm, eps, &dy).map_err(at("final norm"))?;
        Ok((losses, g))
    }

    fn step_backward(
        &self,
        context: &Context,
        step: Step,
        g: &Tensor,
        sink: &mut dyn Sink,
    ) -> taper_kernels::Result<Tensor> {
        let Step { block: index, half, input, tape } = step;
        let (block, at) = (&self.blocks[index], (index, &input));
        match (half, tape, &block.attention, &block.mlp) {
            (_, Some(Tape::Attention(tape)), Some(attention), _) => attention.backward(context, at, *tape, g, sink),
            (_, Some(Tape::Mlp(tape)), _, Some(mlp)) => mlp.backward(context, at, *tape, g, sink),
            (SubBlock::Attention, None, Some(attention), _) => {
                attention.backward(context, at, attention.tape(context, &input)?, g, sink)
            }
            (SubBlock::Mlp, None, _, Some(mlp)) => mlp.backward(context, at, mlp.tape(context, &input)?, g, sink),
            _ => Ok(g.clone()), // a step is only made of a half that is there
        }
    }
}
