//! `taper bench`: how fast a checkpoint answers on this machine.

use serde::Serialize;
use taper_arch::Generation;
use taper_eval::{Latency, latency};
use taper_hub::ModelSource;
use taper_model::{Checkpoint, Model};

use crate::{Console, PipelineError, machine};

/// A checkpoint to time, and how.
#[derive(Debug, Clone)]
pub struct BenchRequest {
    /// Which.
    pub model: ModelSource,
    /// Tokens of each prompt.
    pub prompt: usize,
    /// Tokens generated after it.
    pub generate: usize,
    /// Sequences at once, one measurement each.
    pub batches: Vec<usize>,
    /// Repetitions after the one that warms up.
    pub repetitions: usize,
    /// Threads; `None`: as the environment says.
    pub threads: Option<usize>,
}

/// What was measured, and on what.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BenchReport {
    /// Which checkpoint.
    pub model: String,
    /// Its commit, if it is from the Hub.
    pub revision: Option<String>,
    /// The processor.
    pub processor: String,
    /// Threads used.
    pub threads: usize,
    /// Repetitions that the medians are of.
    pub repetitions: usize,
    /// One for each batch, in the order asked for.
    pub batches: Vec<BatchReport>,
}

/// One batch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct BatchReport {
    /// Times.
    #[serde(flatten)]
    pub latency: Latency,
    /// Most resident memory of the process, weights and all, during this batch, bytes; none where the system does not say.
    pub peak_bytes: Option<u64>,
}

/// Times a checkpoint, taper's or not.
///
/// # Errors
/// If the model cannot be had, or was not made for so many tokens.
pub fn bench(request: &BenchRequest, console: &dyn Console) -> Result<BenchReport, PipelineError> {
    machine::with_threads(request.threads.unwrap_or(0), || bench_here(request, console))?
}

fn bench_here(request: &BenchRequest, console: &dyn Console) -> Result<BenchReport, PipelineError> {
    let local = crate::local::model(&request.model, console)?;
    let checkpoint = Checkpoint::open(&local.dir)?;
    let generation = |batch| Generation { prompt: request.prompt, generate: request.generate, batch };
    let (got, most) = (generation(1).positions(), checkpoint.spec().max_tokens);
    if got > most {
        return Err(PipelineError::TooLong { what: "--prompt + --generate - 1", got, most });
    }
    let model = Model::load(&checkpoint)?;
    let mut batches = Vec::with_capacity(request.batches.len());
    for batch in &request.batches {
        machine::reset_peak();
        let latency = latency(&model, generation(*batch), request.repetitions, console)?;
        batches.push(BatchReport { latency, peak_bytes: machine::peak_bytes() });
    }
    Ok(BenchReport {
        model: request.model.to_string(),
        revision: local.revision,
        processor: machine::processor(),
        threads: rayon::current_num_threads(),
        repetitions: request.repetitions,
        batches,
    })
}
