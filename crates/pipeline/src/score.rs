//! `taper score`: what a reference of anybody's own can be compared with.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;
use taper_arch::{KeptBlock, Selection};
use taper_base::workers::for_each;
use taper_hub::ModelSource;
use taper_model::{Batch, Checkpoint, Model};
use taper_proxies::methods::gradient_trace::{Aggregation, GradientTrace};
use taper_proxies::{Base, Needs, Observation, Proxy, Seen, Settings};

use crate::error::{finite, io};
use crate::{Console, PipelineError, machine};

/// What to score, and how.
#[derive(Debug, Clone)]
pub struct ScoreRequest<'a> {
    /// The whole model.
    pub model: &'a ModelSource,
    /// File of candidates: a list, or an object with `candidates`; each candidate a list of `{attention, mlp}` of kept
    /// units (`null` is removed), or an object with `candidate`.
    pub candidates: &'a Path,
    /// File of token ids: a list, or an object with `ids`.
    pub tokens: &'a Path,
    /// Rows to take.
    pub sequences: usize,
    /// Tokens of each.
    pub length: usize,
    /// How gradients are compared.
    pub trace: GradientTrace,
    /// Seed of the sketch.
    pub seed: u64,
}

/// One value a block for each half; `None` is removed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Halves {
    /// Of attentions.
    pub attention: Vec<Option<f64>>,
    /// Of MLPs.
    pub mlp: Vec<Option<f64>>,
}

/// What was found, in the form of the shared `reference_trace.json` files.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScoreReport {
    /// Rows.
    pub sequences: usize,
    /// Tokens of each.
    pub length: usize,
    /// Loss of the whole model, nats per token.
    pub base_loss: f64,
    /// Norm of the whole model's dense gradients.
    pub base_gradient_norm: Halves,
    /// In the order of the file.
    pub candidates: Vec<CandidateScore>,
}

/// One candidate.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CandidateScore {
    /// Loss, nats per token.
    pub loss: f64,
    /// Kept ratio of heads and channels; 0 is removed.
    pub kept: Halves,
    /// Similarity of gradients.
    pub rho: Halves,
    /// `Σ kept · ρ`, or `Σ ρ` if the aggregation is `none`.
    pub phi: f64,
    /// `Σ ρ`.
    pub phi_unweighted: f64,
    /// Norm of the dense gradients; 0 is removed.
    pub gradient_norm: Halves,
    /// Number of weights.
    pub parameters: u64,
}

/// Scores every candidate of the request.
///
/// # Errors
/// Names the file, and the candidate's number and block, of what does not fit.
pub fn score(request: &ScoreRequest<'_>, console: &dyn Console) -> Result<ScoreReport, PipelineError> {
    let local = crate::local::model(request.model, console)?;
    let checkpoint = Checkpoint::open(&local.dir)?;
    let spec = checkpoint.spec();
    let ids = taper_data::read_ids(request.tokens, spec.vocab)?;
    let tokens = taper_data::Tokens::new(ids, request.sequences, request.length)
        .map_err(|cause| PipelineError::Content { path: request.tokens.to_owned(), reason: cause.to_string() })?;
    let candidates = read_candidates(request.candidates)?;
    let selections = candidates.iter().enumerate().map(|(number, candidate)| {
        Selection::from_candidate(spec, candidate).map_err(|cause| PipelineError::Content {
            path: request.candidates.to_owned(),
            reason: format!("candidate {number}: {cause}"),
        })
    });
    let selections = selections.collect::<Result<Vec<_>, _>>()?;
    let model = Model::load(&checkpoint)?;
    let needs = Needs { loss: true, magnitudes: true, ..request.trace.needs() };
    let settings = Settings { needs, seed: request.seed, memory: machine::memory_to_use() };
    let base = Base::new(&model, Batch::new(tokens.ids(), tokens.length())?, settings)?;
    let whole = base.observe(&Selection::whole(spec).blocks)?;
    console.begin("candidates", selections.len() as u64);
    let scored = for_each(&selections, base.plan().workers, |selection| {
        let found = report(&request.trace, &base.observe(&selection.blocks)?);
        console.advance(1, "");
        found
    });
    console.end();
    Ok(ScoreReport {
        sequences: tokens.sequences(),
        length: tokens.length(),
        base_loss: loss(&whole, "the whole model")?,
        base_gradient_norm: halves(&whole, norm),
        candidates: scored?,
    })
}

fn report(trace: &GradientTrace, seen: &Observation) -> Result<CandidateScore, PipelineError> {
    let rho = |seen: &Seen| trace.correlation(seen).ok();
    let unweighted = GradientTrace { aggregation: Aggregation::None, ..*trace };
    Ok(CandidateScore {
        loss: loss(seen, "a candidate")?,
        kept: or_zero(halves(seen, |seen| Some(seen.kept))),
        rho: halves(seen, rho),
        phi: trace.score(seen)?,
        phi_unweighted: unweighted.score(seen)?,
        gradient_norm: or_zero(halves(seen, norm)),
        parameters: seen.parameters,
    })
}

/// Nothing is kept of what was removed, and its gradient is 0.
fn or_zero(halves: Halves) -> Halves {
    let all = |half: Vec<Option<f64>>| half.into_iter().map(|value| value.or(Some(0.0))).collect();
    Halves { attention: all(halves.attention), mlp: all(halves.mlp) }
}

fn loss(seen: &Observation, of: &str) -> Result<f64, PipelineError> {
    finite(seen.loss.unwrap_or(f64::NAN), || format!("the loss of {of}"))
}

fn norm(seen: &Seen) -> Option<f64> {
    seen.gradient_square.map(f64::sqrt)
}

fn halves(seen: &Observation, value: impl Fn(&Seen) -> Option<f64>) -> Halves {
    let half = |index: usize| seen.blocks.iter().map(|block| block[index].as_ref().and_then(&value)).collect();
    Halves { attention: half(0), mlp: half(1) }
}

fn read_candidates(path: &Path) -> Result<Vec<Vec<KeptBlock>>, PipelineError> {
    let refuse = |reason: String| PipelineError::Content { path: path.to_owned(), reason };
    let bytes = std::fs::read(path).map_err(io(path))?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|cause| refuse(cause.to_string()))?;
    let list = value.get("candidates").unwrap_or(&value).as_array();
    let list = list.ok_or_else(|| refuse("wanted a list of candidates, or an object with `candidates`".to_owned()))?;
    let candidate = |(number, value): (usize, &Value)| {
        let value = value.get("candidate").unwrap_or(value);
        serde_json::from_value(value.clone()).map_err(|cause| refuse(format!("candidate {number}: {cause}")))
    };
    list.iter().enumerate().map(candidate).collect()
}
