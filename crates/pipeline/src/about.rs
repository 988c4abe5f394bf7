//! `taper inspect`, `methods`, `doctor`, and perplexity of any checkpoint.

use std::path::PathBuf;

use serde::Serialize;
use taper_arch::cost::{attention_cost, mlp_cost};
use taper_arch::{Architecture, Costs, ImageSpec, Workload, cost};
use taper_base::Bytes;
use taper_data::{Documents, TextSource, TextTokenizer};
use taper_eval::{Perplexity, Settings, bytes_per_pass, documents_to_ids, perplexity};
use taper_hub::ModelSource;
use taper_model::{Checkpoint, Model};

use crate::error::finite;
use crate::{Console, PipelineError, machine};

/// A method that a recipe may name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Method {
    /// What kind of method.
    pub family: &'static str,
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub summary: &'static str,
    /// Paper or origin.
    pub source: &'static str,
}

/// All methods of all families, each family sorted by name.
pub fn methods() -> Vec<Method> {
    let proxies = taper_proxies::ALL.iter().map(|e| ("proxy", e.name, e.summary, e.source));
    let strategies = taper_search::ALL.iter().map(|e| ("strategy", e.name, e.summary, e.source));
    let fidelities = taper_search::FIDELITIES.iter().map(|e| ("fidelity", e.name, e.summary, e.source));
    let corruptors = taper_heal::corruptors::ALL.iter().map(|e| ("corruptor", e.name, e.summary, e.source));
    let objectives = taper_heal::objectives::ALL.iter().map(|e| ("objective", e.name, e.summary, e.source));
    let optimizers = taper_heal::optimizers::ALL.iter().map(|e| ("optimizer", e.name, e.summary, e.source));
    let schedules = taper_heal::schedules::ALL.iter().map(|e| ("schedule", e.name, e.summary, e.source));
    let healing = corruptors.chain(objectives).chain(optimizers).chain(schedules);
    let all = fidelities.chain(proxies).chain(strategies).chain(healing);
    all.map(|(family, name, summary, source)| Method { family, name, summary, source }).collect()
}

/// A checkpoint in numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// Where it is from.
    pub model: String,
    /// Its family.
    pub family: &'static str,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Whether the head is the embedding.
    pub tied_head: bool,
    /// What it has instead of a vocabulary, if it reads images; `vocab` are its classes then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageSpec>,
    /// Costs at 2048 tokens.
    pub costs: Costs,
    /// The blocks.
    pub blocks: Vec<BlockInspection>,
}

/// One block; `None` is not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BlockInspection {
    /// Query heads.
    pub heads: Option<usize>,
    /// KV heads.
    pub kv_heads: Option<usize>,
    /// Tokens seen.
    pub window: Option<usize>,
    /// MLP channels.
    pub channels: Option<usize>,
    /// Weights.
    pub parameters: u64,
}

/// What the checkpoint `model` is; headers are read, weights are not.
///
/// # Errors
/// If it cannot be had, or is damaged.
pub fn inspect(model: &ModelSource, console: &dyn Console) -> Result<Inspection, PipelineError> {
    let local = crate::local::model(model, console)?;
    let checkpoint = Checkpoint::open(&local.dir)?;
    let spec = checkpoint.spec();
    let blocks = spec.blocks.iter().enumerate().map(|(index, block)| {
        let (attention, mlp) = (attention_cost(spec, index), mlp_cost(spec, index));
        BlockInspection {
            heads: block.attention.map(|a| a.n_heads),
            kv_heads: block.attention.map(|a| a.n_kv_heads),
            window: block.attention.and_then(|a| a.window),
            channels: block.mlp.map(|m| m.d_ff),
            parameters: attention.matrix + attention.vector + mlp.matrix + mlp.vector,
        }
    });
    Ok(Inspection {
        model: model.to_string(),
        family: spec.family.name(),
        d_model: spec.d_model,
        vocab: spec.vocab,
        tied_head: spec.tied_head,
        image: spec.image,
        costs: cost(spec, &Architecture::whole(spec), Workload::default())?,
        blocks: blocks.collect(),
    })
}

/// One line of `taper doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub what: &'static str,
    /// What was found.
    pub found: String,
}

/// What this machine and this build can do.
pub fn doctor() -> Vec<Finding> {
    let threads = std::thread::available_parallelism().map_or_else(|e| e.to_string(), |n| n.to_string());
    let memory = format!("{} free of {}", Bytes(machine::available_bytes()), Bytes(machine::total_bytes()));
    let hub = taper_hub::HubSettings::from_env();
    let token = if hub.token.is_some() { "a token is set" } else { "no token: public models only" };
    let mode = if hub.offline { ", offline: only what is cached" } else { "" };
    vec![
        Finding { what: "version", found: format!("taper {}", env!("CARGO_PKG_VERSION")) },
        Finding { what: "threads", found: threads },
        Finding { what: "vectors", found: vectors() },
        Finding { what: "memory", found: memory },
        Finding { what: "cuda", found: cuda() },
        Finding { what: "hub cache", found: hub.cache.display().to_string() },
        Finding { what: "hub", found: format!("{token}{mode}") },
    ]
}

/// The first GPU, or why there is none.
fn cuda() -> String {
    if !cfg!(feature = "cuda") {
        return "not in this build".to_owned();
    }
    match crate::device::open(crate::recipe::Device::Cuda) {
        Ok(Some(gpu)) => format!("{}, {} free", gpu.name, Bytes(gpu.free)),
        Ok(None) => "none".to_owned(),
        Err(PipelineError::Device { cause }) => cause.to_string(),
        Err(other) => other.to_string(),
    }
}

/// The vector instructions that the CPU has and the matrix products use.
fn vectors() -> String {
    #[cfg(target_arch = "x86_64")]
    let known = [("avx512f", is_x86_feature_detected!("avx512f")), ("fma", is_x86_feature_detected!("fma"))];
    #[cfg(not(target_arch = "x86_64"))]
    let known: [(&str, bool); 1] = [(std::env::consts::ARCH, true)];
    let has: Vec<&str> = known.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect();
    if has.is_empty() { "none beyond the baseline".to_owned() } else { has.join(", ") }
}

/// A checkpoint to measure, and how.
#[derive(Debug, Clone)]
pub struct EvalRequest {
    /// Which.
    pub model: ModelSource,
    /// Text file or folder.
    pub text: PathBuf,
    /// Field of a .jsonl line or column of a .parquet file.
    pub field: String,
    /// Each .txt file is one document.
    pub whole: bool,
    /// Tokens fed at once; `None`: 2048, or the model's context if that is shorter.
    pub window: Option<usize>,
    /// Tokens from one window's start to the next; `None`: the window.
    pub stride: Option<usize>,
    /// No window sees two documents.
    pub by_document: bool,
    /// With what the tokenizer puts around a text.
    pub special: bool,
    /// Only the first tokens.
    pub tokens: Option<usize>,
}

/// What was measured, and how.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EvalReport {
    /// Which checkpoint.
    pub model: String,
    /// Its commit, if it is from the Hub.
    pub revision: Option<String>,
    /// On what.
    pub text: String,
    /// In which windows.
    pub settings: Settings,
    /// What came out.
    #[serde(flatten)]
    pub measured: Perplexity,
}

/// Perplexity of any checkpoint, taper's or not.
///
/// # Errors
/// If model or text cannot be had, or do not fit each other.
pub fn eval(request: &EvalRequest, console: &dyn Console) -> Result<EvalReport, PipelineError> {
    let local = crate::local::model(&request.model, console)?;
    let checkpoint = Checkpoint::open(&local.dir)?;
    let most = checkpoint.spec().max_tokens;
    let window = request.window.unwrap_or(most.min(2048));
    if window > most {
        return Err(PipelineError::TooLong { what: "--window", got: window, most });
    }
    let stride = request.stride.unwrap_or(window);
    let settings = Settings { window, stride, by_document: request.by_document };
    taper_data::windows::strided(0, window, stride)?;
    let mut source = TextSource::new(&request.text);
    source.field.clone_from(&request.field);
    if request.whole {
        source.separator = None;
    }
    let documents = Documents::read(&source)?;
    let tokenizer = TextTokenizer::load(&local.dir)?;
    let texts: Vec<&str> = documents.all().iter().map(String::as_str).collect();
    let ids = documents_to_ids(&texts, &tokenizer, request.special, request.tokens.unwrap_or(usize::MAX))?;
    let workers = machine::workers(bytes_per_pass(checkpoint.spec(), window));
    let measured = perplexity(&Model::load(&checkpoint)?, &ids, settings, workers, console)?;
    finite(measured.perplexity, || format!("the perplexity of {}", request.model))?;
    let plural = if texts.len() == 1 { "" } else { "s" };
    let text = format!("{} document{plural} of {}", texts.len(), documents.name());
    Ok(EvalReport { model: request.model.to_string(), revision: local.revision, text, settings, measured })
}
