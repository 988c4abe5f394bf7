//! A candidate, looked at part by part.

use taper_arch::SelectedBlock;
use taper_base::Fingerprint;
use taper_kernels::row_abs_sums;
use taper_model::{Model, ModelError, parameter_count};

use crate::base::Base;
use crate::trace::TraceSink;
use crate::{Observation, ProxyError, Seen};

/// A candidate's way through the parts of a batch: a part adds only its own tokens to the sums of the parts before.
pub struct Pass<'b> {
    base: &'b Base<'b>,
    kept: &'b [SelectedBlock],
    id: Fingerprint,
    model: Model,
    /// Where gradients go; none if only the loss is looked at, or nothing.
    sink: Option<TraceSink<'b>>,
    /// Of all losses so far.
    sum: f64,
    /// Parts seen.
    seen: usize,
}

impl<'b> Pass<'b> {
    /// Cuts the model; `id` is what observations will be called.
    ///
    /// # Errors
    /// If `kept` does not fit the model.
    pub fn new(base: &'b Base<'b>, kept: &'b [SelectedBlock], id: Fingerprint) -> Result<Self, ProxyError> {
        let model = base.model.cut(kept)?;
        let gradients = base.needs.trace.is_some() || base.needs.magnitudes;
        let sink = gradients.then(|| TraceSink::compare(base.form(), &base.traces, kept, base.spec().d_head));
        Ok(Self { base, kept, id, model, sink, sum: 0.0, seen: 0 })
    }

    /// What is seen over `part` and all parts before it. Each part is looked at once, so `part` has to rise.
    ///
    /// # Errors
    /// [`ProxyError::Part`] if it does not or there is no such part; otherwise if the pass fails.
    pub fn up_to(&mut self, part: usize) -> Result<Observation, ProxyError> {
        let base = self.base;
        if part < self.seen || part >= base.parts.count() {
            return Err(ProxyError::Part { part, least: self.seen, count: base.parts.count() });
        }
        let looks = self.sink.is_some() || base.needs.loss;
        let mut seen = vec![[Seen::default(); 2]; self.kept.len()];
        while self.seen <= part {
            if looks {
                self.sum += base.losses(&self.model, self.seen, self.sink.as_mut())?;
            }
            self.seen += 1;
            if let Some(sink) = &mut self.sink {
                let wrap = |cause| ModelError::Compute { place: "gradients".to_owned(), cause: Box::new(cause) };
                seen = sink.take_seen().map_err(wrap)?;
            }
        }
        let scored = base.parts.scored(part);
        let weights = self.weights()?;
        let factor = base.parts.scored(base.parts.count() - 1) / scored; // gradients are those of the mean over all parts
        let scaled = seen.into_iter().zip(weights).map(|(halves, weights)| {
            let [attention, mlp] = halves.map(|half| half.scaled(factor));
            [Seen { weights: weights[0], ..attention }, Seen { weights: weights[1], ..mlp }]
        });
        Ok(Observation {
            id: self.id.clone(),
            parameters: parameter_count(self.model.spec()),
            loss: looks.then(|| self.sum / scored),
            blocks: self.with_ratios(scaled.collect()),
        })
    }

    /// `Σ |w|` of each sub-block, if that is wanted.
    fn weights(&self) -> Result<Vec<[Option<f64>; 2]>, ModelError> {
        if !self.base.needs.weights {
            return Ok(vec![[None; 2]; self.kept.len()]);
        }
        let mut sums = vec![[Some(0.0); 2]; self.kept.len()];
        let there = |kept: &SelectedBlock| kept.attention.is_some() || kept.mlp.is_some(); // others have no number there
        let numbers: Vec<usize> = (0..self.kept.len()).filter(|block| there(&self.kept[*block])).collect();
        for (place, tensor) in self.model.tensors() {
            let (Some(block), Some(half)) = (place.block, place.parameter.traced()) else { continue };
            if let Some(sum) = &mut sums[numbers[block]][half as usize] {
                let wrap = |cause| ModelError::Compute { place: place.name(self.model.spec()), cause: Box::new(cause) };
                *sum += row_abs_sums(&tensor).map_err(wrap)?.into_iter().sum::<f64>();
            }
        }
        Ok(sums)
    }

    fn with_ratios(&self, seen: Vec<[Seen; 2]>) -> Vec<[Option<Seen>; 2]> {
        let blocks = self.kept.iter().zip(seen).zip(&self.base.spec().blocks);
        let blocks = blocks.map(|((kept, [attention, mlp]), spec)| {
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
