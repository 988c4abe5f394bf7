//! The whole model, looked at once; candidates are compared with it.

use taper_arch::{Architecture, ModelSpec, SelectedBlock, select};
use taper_base::Fingerprint;
use taper_model::{Batch, Model, ModelError};

use crate::parts::Parts;
use crate::pass::Pass;
use crate::plan::{Load, Plan};
use crate::sketch::Sketch;
use crate::trace::{BaseTrace, Form, TraceSink};
use crate::{Needs, Observation, Projection, ProxyError};

/// What a [`Base`] is made for.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// What candidates are looked at for.
    pub needs: Needs,
    /// Seed of the sketch.
    pub seed: u64,
    /// Bytes that the passes and the whole model's gradients may take together. Does not change a result.
    pub memory: u64,
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
    plan: Plan,
}

impl<'a> Base<'a> {
    /// Looks at `model` over `batch`. Shared by all threads from then on.
    ///
    /// # Errors
    /// If the batch is none for the model, or the sketch is none.
    pub fn new(model: &'a Model, batch: Batch<'a>, settings: Settings) -> Result<Self, ProxyError> {
        let parts = Parts::whole(batch);
        let load = Load { copies: true, ..parts.load(settings.needs) };
        Self::planned(model, parts, settings, load)
    }

    /// [`Self::new`] for candidates that keep the first units of each sub-block and are looked at part by part: the whole
    /// model's gradients are kept for each part.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn in_parts(model: &'a Model, parts: Parts<'a>, settings: Settings) -> Result<Self, ProxyError> {
        let load = parts.load(settings.needs);
        Self::planned(model, parts, settings, load)
    }

    fn planned(model: &'a Model, parts: Parts<'a>, settings: Settings, load: Load) -> Result<Self, ProxyError> {
        let (spec, needs) = (model.spec(), settings.needs);
        let sketch = match needs.trace {
            Some(Projection::Rank(rank)) if rank == 0 || rank > spec.d_model => {
                return Err(ProxyError::Rank { rank, most: spec.d_model });
            }
            Some(Projection::Rank(rank)) => Some(Sketch::of(model, settings.seed, rank)),
            _ => None,
        };
        let wrap = |cause| ModelError::Compute { place: "sketch".to_owned(), cause: Box::new(cause) };
        let sketch = sketch.transpose().map_err(wrap)?;
        let traces = (0..parts.count()).map(|_| BaseTrace::default()).collect();
        let load = model.machine().map_or(load, |_| load.on_machine(model.storage()));
        let plan = Plan::new(spec, load, settings.memory, rayon::current_num_threads());
        let mut base = Self { model, parts, needs, sketch, traces, loss: None, plan };
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

    /// How candidates are looked at.
    pub fn plan(&self) -> Plan {
        self.plan
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
        let mut sum = 0.0;
        for (index, piece) in pieces.iter().enumerate() {
            let losses = match sink.as_deref_mut() {
                Some(sink) => {
                    sink.ends = (index + 1 == pieces.len()).then_some(part);
                    model.backward(*piece, weight, self.plan.recompute, sink)?
                }
                None => model.token_losses(*piece)?,
            };
            sum += losses.iter().map(|loss| f64::from(*loss)).sum::<f64>();
        }
        Ok(sum)
    }
}
