//! Generation: prompts at once, then a token of each sequence a step, keys and values of what was before kept.
//!
//! Sequences may have different lengths, and each ends when its owner says so; a step reads the weights once for all. The
//! logits are those of the full forward pass, up to rounding. A sliding window bounds what is kept. Source of the
//! cache: arXiv:1911.02150.

use candle_core::Tensor as Host;
use taper_arch::SubBlock;
use taper_kernels::cpu::{self, KvCache, decode_attention};
use taper_kernels::{KernelError, Rope, Tensor, attention, gather_rows, into_units};

use crate::attention::{Context, Projected};
use crate::error::{at, candle};
use crate::model::{Attention, rope_frequencies};
use crate::tree::Layout;
use crate::{Model, ModelError, Result};

const OP: &str = "decode";

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

/// Sequences being generated.
#[derive(Debug)]
pub struct Decoder<'a> {
    model: &'a Model,
    caches: Vec<Option<KvCache>>, // one a block; none without attention
    frequencies: Vec<f32>,
    sequences: Vec<Sequence>,
}

/// Tokens of a sequence: so far, and at most.
#[derive(Debug, Clone, Copy)]
struct Sequence {
    tokens: usize,
    capacity: usize,
}

impl<'a> Decoder<'a> {
    /// For as many sequences as `capacities` has, each of up to so many tokens, prompt included.
    ///
    /// # Errors
    /// [`ModelError::Ids`] if there are none; if the model does not lie on the CPU, where alone generation runs.
    pub fn new(model: &'a Model, capacities: &[usize]) -> Result<Self> {
        if model.images.is_some() {
            return Err(ModelError::Images { reason: "the model reads images, and generates nothing".to_owned() });
        }
        if model.embedding.machine().is_some() {
            return Err(at("generation")(KernelError::Places { op: "decode_attention" }));
        }
        if capacities.is_empty() || capacities.contains(&0) {
            return Err(ModelError::Ids { reason: format!("sequences of {capacities:?} tokens are none") });
        }
        let cache = |attention: &Attention| {
            let kept = |capacity: &usize| attention.window.map_or(*capacity, |window| window.clamp(1, *capacity));
            let kept: Vec<usize> = capacities.iter().map(kept).collect();
            KvCache::new(&kept, attention.n_kv_heads, model.spec.d_head)
        };
        let caches = model.blocks.iter().map(|block| block.attention.as_ref().map(cache)).collect();
        let sequences = capacities.iter().map(|capacity| Sequence { tokens: 0, capacity: *capacity }).collect();
        Ok(Self { model, caches, frequencies: rope_frequencies(&model.spec), sequences })
    }

    /// As if `tokens` more of each sequence had been fed, with whatever keys and values: for the clock, which does not care.
    pub fn skip(&mut self, tokens: usize) {
        self.caches.iter_mut().flatten().for_each(|cache| cache.skip(tokens));
        self.sequences.iter_mut().for_each(|sequence| sequence.tokens += tokens);
    }

    /// Memory of all keys and values.
    pub fn cache_bytes(&self) -> u64 {
        self.caches.iter().flatten().map(KvCache::bytes).sum()
    }

    /// Lets go of the sequences for which `kept` is false; the others close up.
    pub fn keep(&mut self, kept: &[bool]) {
        self.caches.iter_mut().flatten().for_each(|cache| cache.keep(kept));
        let mut kept = kept.iter();
        self.sequences.retain(|_| kept.next() != Some(&false));
    }

    /// Takes in the prompts of sequences `first` and following, of any lengths, what they share once, and returns the
    /// logits of what follows each.
    ///
    /// # Shapes
    /// The result is `[prompts, vocab]`.
    ///
    /// # Errors
    /// [`ModelError::Ids`] if there is no such sequence, it has begun, or its prompt is empty or too long; if an operation
    /// fails.
    pub fn read(&mut self, first: usize, prompts: &[&[u32]]) -> Result<Host> {
        self.check(first, prompts)?;
        let mut order: Vec<usize> = (0..prompts.len()).collect();
        order.sort_by_key(|index| prompts[*index]);
        let texts: Vec<&[u32]> = order.iter().map(|index| prompts[*index]).collect();
        let layout = Layout::of(&texts);
        let (model, caches) = (self.model, &mut self.caches);
        let x = model.run_tree(&layout, &mut |block, k, v| match &mut caches[block] {
            Some(cache) => {
                let (k, v) = (k.host(OP)?, v.host(OP)?);
                let mut texts = order.iter().enumerate();
                texts.try_for_each(|(text, index)| cache.read(first + index, &layout.rows(text), k, v))
            }
            None => Ok(()),
        })?;
        let mut last = vec![0; prompts.len()];
        for (text, index) in order.iter().enumerate() {
            last[*index] = layout.row(text, prompts[*index].len() - 1) as u32;
            self.sequences[first + index].tokens = prompts[*index].len();
        }
        model.next_logits(&gather_rows(&x, &last).map_err(at("head"))?)
    }

    fn check(&self, first: usize, prompts: &[&[u32]]) -> Result<()> {
        let refuse = |reason: String| Err(ModelError::Ids { reason });
        if prompts.is_empty() || first + prompts.len() > self.sequences.len() {
            return refuse(format!("{} prompts from {first} on of {} sequences", prompts.len(), self.sequences.len()));
        }
        for (prompt, sequence) in prompts.iter().zip(&self.sequences[first..]) {
            if prompt.is_empty() || prompt.len() > sequence.capacity || sequence.tokens > 0 {
                let Sequence { tokens, capacity } = sequence;
                return refuse(format!(
                    "a prompt of {} after {tokens}, wanted 1 to {capacity} after none",
                    prompt.len()
                ));
            }
        }
        Ok(())
    }

    /// Takes in the next tokens of each sequence, and returns the logits of what follows: at first the prompts, all of one
    /// length, then one token of each.
    ///
    /// # Shapes
    /// `ids` `[sequences, tokens]`, row after row; the result is `[sequences, vocab]`.
    ///
    /// # Errors
    /// [`ModelError::Ids`] if `ids` are no such rows, more than was said, or several after the first; if an operation fails.
    pub fn feed(&mut self, ids: &[u32], passed: &mut Passed<'_>) -> Result<Host> {
        let sequences = self.sequences.len();
        let length = ids.len() / sequences.max(1);
        let refuse = |reason: String| Err(ModelError::Ids { reason });
        if ids.is_empty() || !ids.len().is_multiple_of(sequences.max(1)) {
            return refuse(format!("{} are no rows of {sequences} sequences", ids.len()));
        }
        let most = self.sequences.iter().map(|sequence| sequence.tokens).max().unwrap_or(0);
        if most > 0 && length > 1 {
            return refuse(format!("{length} of each sequence after {most}, wanted one"));
        }
        if let Some(full) = self.sequences.iter().find(|sequence| sequence.tokens + length > sequence.capacity) {
            let Sequence { tokens, capacity } = full;
            return refuse(format!("{} of a sequence, wanted at most {capacity}", tokens + length));
        }
        let model = self.model;
        let positions: Vec<usize> = match length {
            1 => self.sequences.iter().map(|sequence| sequence.tokens).collect(),
            _ => (0..length).collect(),
        };
        let rope = Some(Rope::Host(cpu::Rope::at(&self.frequencies, positions.into_iter())));
        let (d_head, eps) = (model.spec.d_head, model.spec.norm_eps);
        let context = Context { sequences, tokens: length, d_head, eps, rope, first: None, read: None };
        let mut x = model.embed(ids)?; // [sequences * length, d_model]
        passed(Part::Embedding);
        for (index, block) in model.blocks.iter().enumerate() {
            let mut ended = |half| passed(Part::Half { block: index, half });
            if let (Some(attention), Some(cache)) = (&block.attention, &mut self.caches[index]) {
                let place = || at(format!("block {index}, {}", SubBlock::Attention));
                x = attention.extend(&context, &x, cache, most == 0).map_err(place())?;
                ended(SubBlock::Attention);
            }
            if let Some(mlp) = &block.mlp {
                let place = || at(format!("block {index}, {}", SubBlock::Mlp));
                x = mlp.forward(&context, &x, Some(&x)).map_err(place())?.0;
                ended(SubBlock::Mlp);
            }
        }
        self.sequences.iter_mut().for_each(|sequence| sequence.tokens += length);
        let last: Vec<u32> = (1..=sequences).map(|sequence| (sequence * length - 1) as u32).collect();
        let logits = model.next_logits(&gather_rows(&x, &last).map_err(at("head"))?)?;
        passed(Part::Head);
        Ok(logits)
    }
}

impl Attention {
    /// As [`Attention::forward`]; keys and values of `x` `[sequences * tokens, d_model]` go into `cache`. Only the `first`
    /// rows of a sequence may have more than one token.
    fn extend(
        &self,
        context: &Context<'_>,
        x: &Tensor,
        cache: &mut KvCache,
        first: bool,
    ) -> taper_kernels::Result<Tensor> {
        let Projected { q, k, v, .. } = self.project(context, x, None)?;
        cache.extend(k.host(OP)?, v.host(OP)?)?;
        let units: Tensor = match first {
            true => attention(&q, &k, &v, self.heads(context, None))?.out,
            false => decode_attention(q.host(OP)?, cache, &self.kv_of)?.into(),
        };
        self.result(Some(x), &units)
    }
}

impl Model {
    /// Logits by rows of the residual stream: `[rows, vocab]`.
    fn next_logits(&self, rows: &Tensor) -> Result<Host> {
        let hidden = self.norm.forward(rows, self.spec.norm_eps).map_err(at("final norm"))?;
        into_units(&hidden, self.head(), None).and_then(|logits| logits.to_host()).map_err(at("head"))
    }
}

/// The likeliest next token of each sequence, the smaller id of two.
///
/// # Shapes
/// `logits` `[sequences, vocab]`; the result is `[sequences]`.
///
/// # Errors
/// [`ModelError::Logits`] for the first sequence with one that is infinite or NaN; if `logits` is no matrix.
pub fn greedy(logits: &Host) -> Result<Vec<u32>> {
    let rows: Vec<Vec<f32>> = logits.to_vec2().map_err(candle("greedy")).map_err(at("greedy"))?;
    let best = |(sequence, row): (usize, &Vec<f32>)| match row.iter().all(|logit| logit.is_finite()) {
        true => Ok((1..row.len()).fold(0, |best, id| if row[id] > row[best] { id } else { best }) as u32),
        false => Err(ModelError::Logits { sequence }),
    };
    rows.iter().enumerate().map(best).collect()
}
