//! Generation: a prompt at once, then a token of each sequence a step, keys and values of what was before kept.
//!
//! The logits are those of the full forward pass, up to rounding. A sliding window bounds what is kept. Source of the
//! cache: arXiv:1911.02150.

use candle_core::{D, Tensor as Host};
use taper_arch::SubBlock;
use taper_kernels::cpu::{self, KvCache, decode_attention};
use taper_kernels::{KernelError, Rope, Tensor, attention, from_units, into_units, rms_norm};

use crate::attention::{Context, Projected};
use crate::error::{at, candle};
use crate::model::{Attention, rope_frequencies};
use crate::{Model, ModelError, Result};

/// What a pass has just gone through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The embedding, before all blocks.
    Embedding,
    /// A sub-block.
    Half {
        /// Its block.
        block: usize,
        /// Which half.
        half: SubBlock,
    },
    /// The final norm and the head, after all blocks.
    Head,
}

/// Told of each part as it ends: whoever wants to time them.
pub type Passed<'a> = dyn FnMut(Part) + 'a;

/// Sequences being generated, all of one length.
#[derive(Debug)]
pub struct Decoder<'a> {
    model: &'a Model,
    caches: Vec<Option<KvCache>>, // one a block; none without attention
    frequencies: Vec<f32>,
    sequences: usize,
    capacity: usize,
    tokens: usize,
}

impl<'a> Decoder<'a> {
    /// For `sequences` of up to `capacity` tokens each, prompt included.
    ///
    /// # Errors
    /// [`ModelError::Ids`] if there are none; if the model does not lie on the CPU, where alone generation runs.
    pub fn new(model: &'a Model, sequences: usize, capacity: usize) -> Result<Self> {
        if model.embedding.machine().is_some() {
            return Err(at("generation")(KernelError::Places { op: "decode_attention" }));
        }
        if sequences == 0 || capacity == 0 {
            return Err(ModelError::Ids { reason: format!("{sequences} sequences of {capacity} tokens are none") });
        }
        let cache = |attention: &Attention| {
            let kept = attention.window.map_or(capacity, |window| window.clamp(1, capacity));
            KvCache::new(sequences, attention.n_kv_heads, kept, model.spec.d_head)
        };
        let caches = model.blocks.iter().map(|block| block.attention.as_ref().map(cache)).collect();
        let frequencies = rope_frequencies(&model.spec);
        Ok(Self { model, caches, frequencies, sequences, capacity, tokens: 0 })
    }

    /// As if `tokens` more of each sequence had been fed, with whatever keys and values: for the clock, which does not care.
    pub fn skip(&mut self, tokens: usize) {
        self.caches.iter_mut().flatten().for_each(|cache| cache.skip(tokens));
        self.tokens += tokens;
    }

    /// Memory of all keys and values.
    pub fn cache_bytes(&self) -> u64 {
        self.caches.iter().flatten().map(KvCache::bytes).sum()
    }

    /// Takes in the next tokens of each sequence, and returns the logits of what follows: at first the prompts, then one
    /// token of each.
    ///
    /// # Shapes
    /// `ids` `[sequences, tokens]`, row after row; the result is `[sequences, vocab]`.
    ///
    /// # Errors
    /// [`ModelError::Ids`] if `ids` are no such rows, more than was said, or several after the first; if an operation fails.
    pub fn feed(&mut self, ids: &[u32], passed: &mut Passed<'_>) -> Result<Host> {
        let (sequences, length) = (self.sequences, ids.len() / self.sequences);
        let refuse = |reason: String| Err(ModelError::Ids { reason });
        if ids.is_empty() || !ids.len().is_multiple_of(sequences) {
            return refuse(format!("{} are no rows of {sequences} sequences", ids.len()));
        }
        if self.tokens > 0 && length > 1 {
            return refuse(format!("{length} of each sequence after {}, wanted one", self.tokens));
        }
        let tokens = self.tokens + length;
        if tokens > self.capacity {
            return refuse(format!("{tokens} of each sequence, wanted at most {}", self.capacity));
        }
        let model = self.model;
        let rope = Rope::Host(cpu::Rope::at(&self.frequencies, self.tokens..tokens));
        let (d_head, eps) = (model.spec.d_head, model.spec.norm_eps);
        let context = Context { sequences, tokens: length, d_head, eps, rope };
        let mut x = model.embed(ids)?; // [sequences * length, d_model]
        passed(Part::Embedding);
        for (index, block) in model.blocks.iter().enumerate() {
            let mut ended = |half| passed(Part::Half { block: index, half });
            if let (Some(attention), Some(cache)) = (&block.attention, &mut self.caches[index]) {
                let place = || at(format!("block {index}, {}", SubBlock::Attention));
                x = attention.extend(&context, &x, cache, self.tokens == 0).map_err(place())?;
                ended(SubBlock::Attention);
            }
            if let Some(mlp) = &block.mlp {
                let place = || at(format!("block {index}, {}", SubBlock::Mlp));
                x = mlp.forward(&context, &x).map_err(place())?.0;
                ended(SubBlock::Mlp);
            }
        }
        self.tokens = tokens;
        let logits = model.last_logits(&x, sequences)?;
        passed(Part::Head);
        Ok(logits)
    }
}

impl Attention {
    /// As [`Attention::forward`]; keys and values of `x` `[sequences * tokens, d_model]` go into `cache`. Only the `first`
    /// rows of a sequence may have more than one token.
    fn extend(&self, context: &Context, x: &Tensor, cache: &mut KvCache, first: bool) -> taper_kernels::Result<Tensor> {
        let Projected { q, k, v, .. } = self.project(context, x)?;
        const OP: &str = "decode";
        cache.extend(k.host(OP)?, v.host(OP)?)?;
        let units = match first {
            true => attention(&q, &k, &v, self.heads(context))?.out,
            false => decode_attention(q.host(OP)?, cache, &self.kv_of)?.into(),
        };
        from_units(Some(x), &[(&units, &self.o)], self.o_bias.as_ref())
    }
}

impl Model {
    /// Logits of each sequence's last row of the residual stream: `[sequences, vocab]`.
    fn last_logits(&self, x: &Tensor, sequences: usize) -> Result<Host> {
        let x = x.host("last token").map_err(at("head"))?;
        let last = || {
            let (rows, d) = x.dims2()?;
            x.reshape((sequences, rows / sequences, d))?.narrow(1, rows / sequences - 1, 1)?.squeeze(1)?.contiguous()
        };
        let last = last().map_err(candle("last token")).map_err(at("head"))?;
        let hidden = rms_norm(&last.into(), &self.norm, self.spec.norm_eps).map_err(at("final norm"))?;
        into_units(&hidden, self.head(), None).and_then(|logits| logits.to_host()).map_err(at("head"))
    }
}

/// The likeliest next token of each sequence, the smaller id of two.
///
/// # Shapes
/// `logits` `[sequences, vocab]`; the result is `[sequences]`.
///
/// # Errors
/// If `logits` is no matrix.
pub fn greedy(logits: &Host) -> Result<Vec<u32>> {
    let best = logits.argmax(D::Minus1).and_then(|best| best.to_vec1());
    best.map_err(candle("argmax")).map_err(at("greedy"))
}
