//! The whole model, looked at once; candidates are compared with it.

use taper_arch::{Architecture, ModelSpec, SelectedBlock, select};
use taper_base::Fingerprint;
use taper_model::{Model, ModelError, Recompute, parameters};

use crate::parts::Parts;
use crate::pass::Pass;
use crate::sketch::Sketch;
use crate::trace::{BaseTrace, Form, TraceSink};
use crate::{Needs, Observation, Projection, ProxyError};

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
    pub(crate) model: &'a Model,
    pub(crate) parts: Parts<'a>,
    pub(crate) needs: Needs,
    sketch: Option<Sketch>,
    /// One for each part.
    pub(crate) traces: Vec<BaseTrace>,
    loss: Option<f64>,
}

impl<'a> Base<'a> {
    /// Looks at `model` over `ids`, rows of `length` tokens. Shared by all threads from then on.
    ///
    /// # Errors
    /// If the ids are no batch for the model, or the sketch is none.
    pub fn new(model: &'a Model, ids: &'a [u32], length: usize, settings: Settings) -> Result<Self, ProxyError> {
        Self::in_parts(model, Parts::whole(ids, length)?, settings)
    }

    /// [`Self::new`] for candidates that are looked at part by part: the whole model's gradients are kept for each part.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn in_parts(model: &'a Model, parts: Parts<'a>, settings: Settings) -> Result<Self, ProxyError> {
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
        let traces = (0..parts.count()).map(|_| BaseTrace::default()).collect();
        let mut base = Self { model, parts, needs, sketch, traces, loss: None };
        if needs.trace.is_some() {
            let mut sink = TraceSink::keep(Form { magnitudes: false, ..base.form() }, base.parts.count());
            let (mut sum, mut loss) = (0.0, 0.0);
            for part in 0..base.parts.count() {
                sum += base.losses(model, part, Some(&mut sink))?;
                loss = sum / base.parts.scored(part);
            }
            base.traces = sink.into_base();
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

    /// What is seen of the model that keeps `kept`, over all tokens.
    ///
    /// # Errors
    /// If `kept` does not fit the model, or the pass fails.
    pub fn observe(&self, kept: &[SelectedBlock]) -> Result<Observation, ProxyError> {
        let id = Fingerprint::of_bytes(format!("{kept:?}").as_bytes());
        Pass::new(self, kept, id)?.up_to(self.parts.count() - 1)
    }

    /// [`Self::observe`] for an architecture of a model whose units are sorted: its units are prefixes.
    ///
    /// # Errors
    /// As [`Self::observe`].
    pub fn observe_prefixes(&self, architecture: &Architecture) -> Result<Observation, ProxyError> {
        let kept = select::prefixes(self.spec(), architecture)?.blocks;
        Pass::new(self, &kept, architecture.fingerprint())?.up_to(self.parts.count() - 1)
    }

    /// Memory that one candidate's pass takes at most, about: residual streams, insides of sub-blocks, and the gradients
    /// that wait (for the next piece of the batch, or to be compared).
    pub fn bytes_per_candidate(&self) -> u64 {
        let (spec, tokens) = (self.spec(), self.parts.most_at_once());
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
        let last = self.parts.count() - 1;
        let waiting = if last > 0 || tokens < self.parts.tokens(last) { gradients } else { gradients / blocks };
        streams + insides + waiting
    }

    pub(crate) fn form(&self) -> Form<'_> {
        Form { trace: self.needs.trace.is_some(), sketch: self.sketch.as_ref(), magnitudes: self.needs.magnitudes }
    }

    /// Sum of the losses of the tokens that `part` has more than the one before; gradients go to the sink, as of the mean
    /// over all parts.
    pub(crate) fn losses(
        &self,
        model: &Model,
        part: usize,
        mut sink: Option<&mut TraceSink<'_>>,
    ) -> Result<f64, ProxyError> {
        let weight = 1.0 / self.parts.scored(self.parts.count() - 1) as f32;
        let pieces = self.parts.pieces(part)?;
        let recompute = recompute(model.spec(), self.parts.most_at_once());
        let mut sum = 0.0;
        for (index, piece) in pieces.iter().enumerate() {
            let losses = match sink.as_deref_mut() {
                Some(sink) => {
                    sink.ends = (index + 1 == pieces.len()).then_some(part);
                    model.backward(*piece, weight, recompute, sink)?
                }
                None => model.token_losses(*piece)?,
            };
            sum += losses.iter().map(|loss| f64::from(*loss)).sum::<f64>();
        }
        Ok(sum)
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
