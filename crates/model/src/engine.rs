//! The forward pass, and the backward pass of the loss of the next token or of an image's label, from the head to the embedding. Between the two lie the
//! blocks (`pass.rs`).

use taper_arch::SubBlock;
use taper_base::workers::for_each;
use taper_kernels::{Pending, Rope, Tensor, cross_entropy, gather_rows, into_units, token_losses};

use crate::attention::Context;
use crate::batch::Input;
use crate::error::{at, candle};
use crate::model::rope_frequencies;
use crate::pass::{Slopes, Step};
use crate::{Batch, Gradient, Model, ModelError, Parameter, Pass, PassOptions, Place, Recompute, Result, Sink};

/// Tokens of a piece that goes through all blocks beside others: enough for products to be worth packing for, few enough that
/// what they make stays near.
pub(crate) const PIECE: usize = 1024;

/// Sees the units of each sub-block in the forward pass: `[tokens, n_heads * d_head]` or `[tokens, d_ff]`.
pub type Observer<'a> = dyn FnMut(usize, SubBlock, &Tensor) -> taper_kernels::Result<()> + 'a;

impl Model {
    /// `whole` is whether all tokens go to the end.
    pub(crate) fn context<'a>(&self, batch: Batch<'a>, whole: bool) -> Result<Context<'a>> {
        let rope = match self.spec.image {
            Some(_) => None,
            None => {
                let frequencies = rope_frequencies(&self.spec);
                Some(Rope::new(self.embedding.machine(), &frequencies, batch.length()).map_err(at("rope"))?)
            }
        };
        let attends = self.blocks.iter().any(|block| block.attention.is_some());
        Ok(Context {
            sequences: batch.sequences(),
            tokens: batch.length(),
            d_head: self.spec.d_head,
            eps: self.spec.norm_eps,
            rope,
            first: batch.first(),
            read: self.images.as_ref().filter(|_| !whole && attends).and_then(|images| images.read(batch.sequences())),
        })
    }

    /// Rows of the embedding: `[tokens, d_model]`.
    pub(crate) fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        if self.images.is_some() {
            return Err(ModelError::Images { reason: "the model reads images, not tokens".to_owned() });
        }
        if let Some(id) = ids.iter().find(|id| **id as usize >= self.spec.vocab) {
            return Err(ModelError::Ids { reason: format!("{id} is outside the vocabulary of {}", self.spec.vocab) });
        }
        gather_rows(&self.embedding, ids).map_err(at("embedding"))
    }

    /// The residual stream before the first block: `[tokens, d_model]`.
    ///
    /// # Errors
    /// If an id is outside the vocabulary, a label is no class, or the batch is not of what the model reads.
    pub fn embedded(&self, batch: Batch<'_>) -> Result<Tensor> {
        match (batch.input(), &self.images) {
            (Input::Tokens(ids), _) => self.embed(ids),
            (Input::Images { pixels, labels }, Some(images)) => {
                if batch.of_image() != self.spec.image {
                    return Err(ModelError::Images { reason: "images of another size than the model's".to_owned() });
                }
                if let Some(label) = labels.iter().find(|label| **label as usize >= self.spec.vocab) {
                    let reason = format!("class {label} of an image is none of the {}", self.spec.vocab);
                    return Err(ModelError::Images { reason });
                }
                images.embed(&self.embedding, pixels).map_err(at("embedding"))
            }
            (Input::Images { .. }, None) => {
                Err(ModelError::Images { reason: "the model reads tokens, not images".to_owned() })
            }
        }
    }

    /// What the head sees after all blocks; `each` is told of every sub-block, all of its tokens if `whole`.
    fn hidden(
        &self,
        batch: Batch<'_>,
        whole: bool,
        each: &mut dyn FnMut(Step) -> taper_kernels::Result<()>,
    ) -> Result<Tensor> {
        let context = self.context(batch, whole)?;
        let x = self.run(&context, (0..self.blocks.len(), self.embedded(batch)?), None, each)?;
        self.read_of(&x, context.read.is_some())
    }

    /// What the head sees of the residual stream at the end of a pass: its final norm, `[tokens, d_model]`; of images what the
    /// classifier sees, one row an image, and a 1 for its bias.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn read(&self, pass: &Pass<'_>) -> Result<Tensor> {
        self.read_of(pass.end(), pass.ends_at_head())
    }

    /// `alone` is whether `x` has those rows alone that are read.
    fn read_of(&self, x: &Tensor, alone: bool) -> Result<Tensor> {
        let normed = self.norm.forward(x, self.spec.norm_eps).map_err(at("final norm"))?;
        match &self.images {
            Some(images) => images.pool(&normed, alone).map_err(at("head")),
            None => Ok(normed),
        }
    }

    /// The gradient of the residual stream at the end of a pass from that of what the head sees, `dy`.
    ///
    /// # Errors
    /// If shapes do not fit, or what the sink returns.
    pub fn read_backward(&self, pass: &Pass<'_>, dy: &Tensor, sink: &mut dyn Sink) -> Result<Tensor> {
        let places = [Parameter::FinalNorm, Parameter::FinalNormBias].map(Place::global);
        let (d, alone) = (self.spec.d_model, pass.ends_at_head());
        let pooled = self.images.as_ref().map(|images| images.pool_backward(dy, d, alone));
        let pooled = pooled.transpose().map_err(at("head"))?;
        let dy = pooled.as_ref().unwrap_or(dy);
        let of = (pass.end(), self.spec.norm_eps);
        self.norm.backward(None, of, dy, (places, sink)).map_err(at("final norm"))
    }

    /// The head, `[vocab, d_model]`: the embedding if it is tied to that; of images `[classes, pooled · d_model + 1]`, the last
    /// column the bias.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn output_head(&self) -> Result<Tensor> {
        match &self.images {
            Some(images) => images.head(self.head()).map_err(at("head")),
            None => Ok(self.head().clone()),
        }
    }

    /// Hands the head's gradients to `sink`: `input` is what it saw, `slopes` the gradient of the logits.
    ///
    /// # Errors
    /// What the sink returns.
    pub fn head_gradients(&self, input: &Tensor, slopes: &Tensor, sink: &mut dyn Sink) -> taper_kernels::Result<()> {
        match &self.images {
            Some(images) => images.head_gradients(self.head(), (input, slopes), sink),
            None => {
                let gradient = Gradient::Matrix { units: slopes, other: input, weight: self.head() };
                sink.take(Place::global(Parameter::Head), gradient)
            }
        }
    }

    /// Hands the gradients of what is before the blocks to `sink`; `g` is that of the residual stream there,
    /// `[tokens, d_model]`.
    ///
    /// # Errors
    /// What the sink returns.
    pub fn embed_backward(&self, batch: Batch<'_>, g: &Tensor, sink: &mut dyn Sink) -> Result<()> {
        let taken = match (batch.input(), &self.images) {
            (Input::Images { pixels, .. }, Some(images)) => images.embed_backward(pixels, g, sink),
            (Input::Images { .. }, None) => Ok(()), // the forward pass has refused it
            (Input::Tokens(ids), _) => {
                let rows = Gradient::Rows { ids, dy: g, vocab: self.spec.vocab };
                sink.take(Place::global(Parameter::Embedding), rows)
            }
        };
        taken.map_err(at("embedding"))
    }

    /// What the head sees after all blocks, where nobody looks on the way. On the CPU pieces of the batch go through at once, so
    /// that no thread waits for the others after each operation; which pieces depends on the batch alone.
    fn unobserved(&self, batch: Batch<'_>) -> Result<Tensor> {
        let pieces = match self.machine() {
            None => batch.even_pieces(PIECE),
            Some(_) => vec![batch],
        };
        if let [whole] = &pieces[..] {
            return self.hidden(*whole, false, &mut |_| Ok(()));
        }
        let threads = rayon::current_num_threads();
        let parts = for_each(&pieces, threads, |piece| self.hidden(*piece, false, &mut |_| Ok(())))?;
        let parts: taper_kernels::Result<Vec<_>> = parts.iter().map(|part| part.host("pieces")).collect();
        let rows = parts.and_then(|parts| candle_core::Tensor::cat(&parts, 0).map_err(candle("pieces")));
        Ok(rows.map_err(at("head"))?.into())
    }

    /// Logits of every token, or image, on the CPU.
    ///
    /// # Shapes
    /// `[sequences * length, vocab]`, `[images, classes]`.
    ///
    /// # Errors
    /// If an id is outside the vocabulary, or an operation fails.
    pub fn logits(&self, batch: Batch<'_>) -> Result<candle_core::Tensor> {
        let hidden = self.unobserved(batch)?;
        into_units(&hidden, &self.output_head()?, None).and_then(|logits| logits.to_host()).map_err(at("head"))
    }

    /// Loss of the next token in nats, of each token but the last of a sequence; or of each image's label.
    ///
    /// # Shapes
    /// `[sequences, length - 1]`, `[images]`.
    ///
    /// # Errors
    /// If an id is outside the vocabulary, or an operation fails.
    pub fn token_losses(&self, batch: Batch<'_>) -> Result<Vec<f32>> {
        self.losses(batch, &self.unobserved(batch)?)
    }

    /// [`Self::token_losses`], and `observer` sees every sub-block's units on the way.
    ///
    /// # Errors
    /// As [`Self::token_losses`], and what the observer returns.
    pub fn observe(&self, batch: Batch<'_>, observer: &mut Observer<'_>) -> Result<Vec<f32>> {
        let hidden = self.hidden(batch, true, &mut |step| match step.units() {
            Some(units) => observer(step.block, step.half, units),
            None => Ok(()),
        })?;
        self.losses(batch, &hidden)
    }

    /// Losses of the predictions made from what the head sees.
    fn losses(&self, batch: Batch<'_>, hidden: &Tensor) -> Result<Vec<f32>> {
        let (targets, counts) = batch.targets();
        let losses =
            token_losses(hidden, &self.output_head()?, &targets).and_then(Pending::wait).map_err(at("head"))?;
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
        let pass = self.pass(batch, PassOptions::to_head(recompute))?;
        let (targets, counts) = batch.targets();
        let weights: Vec<f32> = counts.iter().map(|counts| if *counts { weight } else { 0.0 }).collect();
        let (hidden, head) = (self.read(&pass)?, self.output_head()?);
        let mut take = |input: &Tensor, slopes: &Tensor| self.head_gradients(input, slopes, sink);
        let (losses, dy) = cross_entropy(&hidden, &head, &targets, &weights, &mut take).map_err(at("head"))?;
        drop(hidden);
        let slopes = Slopes { end: Some(self.read_backward(&pass, &dy, sink)?), ..Slopes::default() };
        drop(dy);
        if let Some(g) = pass.backward(self, slopes, sink)? {
            self.embed_backward(batch, &g, sink)?;
        }
        let losses = losses.wait().map_err(at("head"))?; // a machine is not waited for before
        Ok(losses.into_iter().zip(counts).filter_map(|(loss, counts)| counts.then_some(loss)).collect())
    }
}
