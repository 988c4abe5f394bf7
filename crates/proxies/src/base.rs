//! The whole model, looked at once; candidates are compared with it.

use taper_arch::{Architecture, ModelSpec, SelectedBlock, select};
use taper_base::Fingerprint;
use taper_model::{Batch, Model, ModelError, Recompute, parameter_count, parameters};

use crate::sketch::Sketch;
use crate::trace::{BaseTrace, Form, TraceSink};
use crate::{Needs, Observation, Projection, ProxyError, Seen};

/// Tokens of one pass; a batch of more is taken in pieces of whole sequences. Fixed, so that sums have one order.
const TOKENS: usize = 4096;
/// Activations kept for the backward pass, at most; beyond it they are computed again. Does not change a result.
const TAPE_BYTES: u64 = 1 << 30;

/// What a [`Base`] is made for.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// What candidates are looked at for.
    pub needs: Needs,
    /// Seed of the sketch.
    pub seed: u64,
}

/// A whole model, the tokens it is looked at over, and what its candidates are compared with.
#[derive(Debug)]
pub struct Base<'a> {
    model: &'a Model,
    ids: &'a [u32],
    length: usize,
    needs: Needs,
    sketch: Option<Sketch>,
    trace: BaseTrace,
    loss: Option<f64>,
}

impl<'a> Base<'a> {
    /// Looks at `model` over `ids`, rows of `length` tokens. Shared by all threads from then on.
    ///
    /// # Errors
    /// If the ids are no batch for the model, or the sketch is none.
    pub fn new(model: &'a Model, ids: &'a [u32], length: usize, settings: Settings) -> Result<Self, ProxyError> {
        let (spec, needs) = (model.spec(), settings.needs);
        let sketch = match needs.trace {
            Some(Projection::Rank(rank)) if rank == 0 || rank > spec.d_model => {
                return Err(ProxyError::Rank { rank, most: spec.d_model });
            }
            Some(Projection::Rank(rank)) => Some(Sketch::new(settings.seed, spec.blocks.len(), spec.d_model, rank)),
            _ => None,
        };
        let wrap = |cause| ModelError::Compute { place: "sketch".to_owned(), cause: Box::new(cause) };
        let sketch = sketch.transpose().map_err(wrap)?;
        let mut base = Self { model, ids, length, needs, sketch, trace: BaseTrace::default(), loss: None };
        Batch::new(ids, length)?;
        if needs.trace.is_some() {
            let mut sink = TraceSink::keep(Form { magnitudes: false, ..base.form() });
            let loss = base.pass(model, Some(&mut sink))?;
            base.trace = sink.into_base();
            base.loss = Some(loss);
        }
        Ok(base)
    }

    /// The whole model's numbers.
    pub fn spec(&self) -> &ModelSpec {
        self.model.spec()
    }

    /// Loss of the whole model, nats per token, if a trace was wanted.
    pub fn loss(&self) -> Option<f64> {
        self.loss
    }

    /// What is seen of the model that keeps `kept`.
    ///
    /// # Errors
    /// If `kept` does not fit the model, or the pass fails.
    pub fn observe(&self, kept: &[SelectedBlock]) -> Result<Observation, ProxyError> {
        let model = self.model.cut(kept)?;
        let parameters = parameter_count(model.spec());
        let mut seen = vec![[Seen::default(); 2]; kept.len()];
        let loss = if self.needs.trace.is_some() || self.needs.magnitudes {
            let mut sink = TraceSink::compare(self.form(), &self.trace, kept, self.spec().d_head);
            let loss = self.pass(&model, Some(&mut sink))?;
            seen = sink.into_seen();
            Some(loss)
        } else if self.needs.loss {
            Some(self.pass(&model, None)?)
        } else {
            None
        };
        let id = Fingerprint::of_bytes(format!("{kept:?}").as_bytes());
        Ok(Observation { id, parameters, loss, blocks: self.with_ratios(kept, seen) })
    }

    /// [`Self::observe`] for an architecture of a model whose units are sorted: its units are prefixes.
    ///
    /// # Errors
    /// As [`Self::observe`].
    pub fn observe_prefixes(&self, architecture: &Architecture) -> Result<Observation, ProxyError> {
        let seen = self.observe(&select::prefixes(self.spec(), architecture)?.blocks)?;
        Ok(Observation { id: architecture.fingerprint(), ..seen })
    }

    /// Memory that one candidate's pass takes at most, about: residual streams, insides of sub-blocks, and the gradients
    /// that wait (for the next piece of the batch, or to be compared).
    pub fn bytes_per_candidate(&self) -> u64 {
        let (spec, tokens) = (self.spec(), TOKENS.max(self.length).min(self.ids.len()));
        let blocks = spec.blocks.len().max(1) as u64;
        let streams = 4 * (2 * blocks + 6) * (tokens * spec.d_model) as u64;
        let insides = tape_bytes(spec, tokens);
        let insides = if recompute(spec, tokens) == Recompute::Nothing { insides } else { insides / blocks };
        let width = match (self.needs.magnitudes, self.needs.trace) {
            (false, None) => 0,
            (false, Some(Projection::Rank(rank))) => rank,
            _ => spec.d_model,
        };
        let units: usize = parameters(spec)
            .iter()
            .filter(|(place, _)| place.parameter.traced().is_some())
            .map(|(_, shape)| shape.iter().product::<usize>() / spec.d_model.max(1))
            .sum();
        let gradients = 4 * (units * width) as u64;
        let waiting = if tokens < self.ids.len() { gradients } else { gradients / blocks };
        streams + insides + waiting
    }

    fn form(&self) -> Form<'_> {
        Form { trace: self.needs.trace.is_some(), sketch: self.sketch.as_ref(), magnitudes: self.needs.magnitudes }
    }

    /// Mean loss; gradients of it go to the sink.
    fn pass(&self, model: &Model, mut sink: Option<&mut TraceSink<'_>>) -> Result<f64, ProxyError> {
        let batch = Batch::new(self.ids, self.length)?;
        let scored = batch.sequences() * (self.length - 1);
        let weight = 1.0 / scored.max(1) as f32;
        let pieces: Vec<Batch<'_>> = batch.pieces(TOKENS).collect();
        let recompute = recompute(model.spec(), TOKENS.max(self.length).min(self.ids.len()));
        let mut sum = 0.0;
        for (index, piece) in pieces.iter().enumerate() {
            let losses = match sink.as_deref_mut() {
                Some(sink) => {
                    sink.last = index + 1 == pieces.len();
                    model.backward(*piece, weight, recompute, sink)?
                }
                None => model.token_losses(*piece)?,
            };
            sum += losses.iter().map(|loss| f64::from(*loss)).sum::<f64>();
        }
        Ok(sum / scored.max(1) as f64)
    }

    fn with_ratios(&self, kept: &[SelectedBlock], seen: Vec<[Seen; 2]>) -> Vec<[Option<Seen>; 2]> {
        let blocks = kept.iter().zip(seen).zip(&self.spec().blocks).map(|((kept, [attention, mlp]), spec)| {
            let ratio = |kept: usize, of: Option<usize>| kept as f64 / of.unwrap_or(kept).max(1) as f64;
            let heads = spec.attention.map(|a| a.n_heads);
            let channels = spec.mlp.map(|m| m.d_ff);
            [
                kept.attention.as_ref().map(|a| Seen { kept: ratio(a.heads.len(), heads), ..attention }),
                kept.mlp.as_ref().map(|m| Seen { kept: ratio(m.len(), channels), ..mlp }),
            ]
        });
        blocks.collect()
    }
}

/// Size of the insides of all sub-blocks for one piece.
fn tape_bytes(spec: &ModelSpec, tokens: usize) -> u64 {
    let attention = |heads: usize, kv: usize| spec.d_model + (2 * heads + 2 * kv) * spec.d_head;
    let inside = |block: &taper_arch::BlockSpec| {
        block.attention.map_or(0, |a| attention(a.n_heads, a.n_kv_heads))
            + block.mlp.map_or(0, |m| spec.d_model + 3 * m.d_ff)
    };
    4 * tokens as u64 * spec.blocks.iter().map(|block| inside(block) as u64).sum::<u64>()
}

/// Keeps the insides of sub-blocks while they are small.
fn recompute(spec: &ModelSpec, tokens: usize) -> Recompute {
    if tape_bytes(spec, tokens) <= TAPE_BYTES { Recompute::Nothing } else { Recompute::Insides }
}
