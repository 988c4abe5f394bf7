//! `taper verify`: what other engines make of an export, against taper's own forward pass.

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use taper_arch::ImageSpec;
use taper_base::rng::{RngExt, normal, stream};
use taper_export::{Target, onnx, vllm};
use taper_model::{Batch, Checkpoint, Decoder, Model, greedy};

use crate::error::io;
use crate::export::source;
use crate::stages::{read_key, write_json};
use crate::{Console, PipelineError, Stage};

const DRIVER: &str = include_str!("verify/driver.py");
/// Sequences compared, and tokens of each; tokens of the prompt, and generated after it.
const SEQUENCES: usize = 4;
const LENGTH: usize = 48;
const PROMPT: usize = 8;
const GENERATE: usize = 64;
/// Images compared.
const IMAGES: usize = 8;
/// Numbers that are asked of vLLM, if one sequence has no more.
const VLLM_NUMBERS: usize = 4 << 20;

/// What to verify.
#[derive(Debug, Clone)]
pub struct VerifyRequest {
    /// A run's folder, a checkpoint's, or a Hub id.
    pub model: String,
    /// Folder of exports; none: `export` in a run's folder.
    pub exports: Option<PathBuf>,
    /// The Python that has the engines.
    pub python: PathBuf,
}

/// One engine on one layout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Loaded {
    /// `transformers`, `llama.cpp`, `onnxruntime` or `vllm`.
    pub engine: String,
    /// The layout's file or folder.
    pub path: PathBuf,
    /// What came of it.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// What came of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "verdict")]
pub enum Verdict {
    /// It was run.
    Ran {
        /// Engine and version.
        version: String,
        /// Largest difference of a logit.
        difference: f64,
        /// Mean `KL(taper ‖ engine)` of the next token, in nats.
        divergence: f64,
        /// Greedy tokens that agree, from the first on, of so many.
        agree: [usize; 2],
        /// Largest difference allowed; none for quantized files, which differ by design.
        most: Option<f64>,
        /// Whether it is what it should be; of files that are not judged always.
        same: bool,
    },
    /// The engine is not installed.
    Absent {
        /// What is missing.
        cause: String,
        /// How to install it.
        help: String,
    },
    /// The engine could not load or run it.
    Failed {
        /// What it said.
        cause: String,
    },
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ran { version, difference, divergence, agree: [agree, all], most, same } => {
                let mark = match (most, same) {
                    (None, _) => "rounded", // weights of fewer bits: told, not judged
                    (Some(_), true) => "same",
                    (Some(_), false) => "DIFFERS",
                };
                let most = most.map(|most| format!(" (at most {most:.0e})")).unwrap_or_default();
                write!(f, "{mark:<8} logits {difference:.1e}{most}, divergence {divergence:.1e}, ")?;
                write!(f, "{agree} of {all} greedy tokens or classes; {version}")
            }
            Self::Absent { cause, help } => write!(f, "absent   {cause}; {help}"),
            Self::Failed { cause } => write!(f, "FAILED   {cause}"),
        }
    }
}

/// What a run keeps of its last verification: the model card has it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Verified {
    /// Of the stage whose checkpoint it was.
    pub(crate) key: Option<String>,
    pub(crate) engines: Vec<Loaded>,
}

/// Where that is, in the run's folder.
pub(crate) const FILE: &str = "verify.json";

impl Loaded {
    /// Whether this is a result that must not be.
    pub fn missed(&self) -> bool {
        matches!(&self.verdict, Verdict::Ran { same: false, .. } | Verdict::Failed { .. })
    }
}

#[derive(Deserialize)]
struct Answer {
    version: Option<String>,
    text: Option<Vec<u32>>,
    absent: Option<String>,
    failed: Option<String>,
}

/// Taper's own numbers. Of images: one entry without ids each, no prompt, and the classes as text.
struct Own {
    images: Option<(Vec<f32>, Vec<usize>)>, // pixels, and their shape
    ids: Vec<Vec<u32>>,
    logits: Vec<f32>,
    prompt: Vec<u32>,
    text: Vec<u32>,
    vocab: usize,
}

/// Runs the engines that the Python has on the checkpoint and its exports.
///
/// # Errors
/// If taper cannot run the checkpoint, or there is no such Python.
pub fn verify(request: &VerifyRequest, console: &dyn Console) -> Result<Vec<Loaded>, PipelineError> {
    let (folder, run) = source(&request.model, console)?;
    let checkpoint = Checkpoint::open(&folder)?;
    let own = Own::of(&checkpoint)?;
    let exports = request.exports.clone().or_else(|| run.as_ref().map(|run| run.join(Stage::Export.name())));
    let mut layouts = Vec::new();
    if let Some(exports) = exports.filter(|exports| exports.is_dir()) {
        for entry in std::fs::read_dir(&exports).map_err(io(&exports))? {
            let path = entry.map_err(io(&exports))?.path();
            layouts.extend(engine(&path).map(|engine| (engine, path)));
        }
    }
    layouts.sort();
    layouts.insert(0, ("transformers", folder.clone()));
    let mut all = Vec::new();
    for (engine, path) in layouts {
        let verdict = own.compare(request, (engine, &path))?;
        all.push(Loaded { engine: engine.to_owned(), path, verdict });
    }
    if let Some(run) = run {
        let key = read_key(&folder)?["key"].as_str().map(str::to_owned);
        write_json(&run.join(FILE), &Verified { key, engines: all.clone() })?;
    }
    Ok(all)
}

/// Which engine an export is for.
fn engine(path: &Path) -> Option<&'static str> {
    let name = path.file_name()?.to_str()?;
    if name.ends_with(".gguf") {
        Some("llama.cpp")
    } else if !path.join("config.json").is_file() {
        None
    } else if path.join(onnx::FILE).is_file() {
        Some("onnxruntime")
    } else if name.ends_with("-vllm") {
        Some("vllm")
    } else {
        Some("transformers")
    }
}

/// What vLLM is told of the folder beside its path.
fn vllm_options(path: &Path) -> Result<Value, PipelineError> {
    let checkpoint = Checkpoint::open(path)?;
    let loader = Target::Vllm.loader(checkpoint.spec(), checkpoint.config())?;
    Ok(if loader.contains("--model-impl transformers") { json!({"model_impl": "transformers"}) } else { json!({}) })
}

impl Own {
    fn of(checkpoint: &Checkpoint) -> Result<Self, PipelineError> {
        let model = Model::load(checkpoint)?;
        if let Some(image) = model.spec().image {
            return Self::of_images(&model, image);
        }
        let (vocab, most) = (model.spec().vocab, model.spec().max_tokens);
        let length = LENGTH.min(most);
        let mut rng = stream(0, "verify", 0, 0);
        let ids: Vec<Vec<u32>> =
            (0..SEQUENCES).map(|_| (0..length).map(|_| rng.random_range(0..vocab as u32)).collect()).collect();
        let logits = model.logits(Batch::new(&ids.concat(), length)?)?;
        let prompt = ids[0][..PROMPT.min(length)].to_vec();
        let text = generate(&model, &prompt, GENERATE.min(most - prompt.len()))?;
        let values = logits.flatten_all().and_then(|flat| flat.to_vec1::<f32>());
        let values = values.map_err(|cause| PipelineError::Content {
            path: checkpoint.dir().to_owned(),
            reason: format!("logits: {cause}"),
        })?;
        Ok(Self { images: None, ids, logits: values, prompt, text, vocab })
    }

    /// Images of noise.
    fn of_images(model: &Model, image: ImageSpec) -> Result<Self, PipelineError> {
        let (vocab, mut rng) = (model.spec().vocab, stream(0, "verify", 0, 0));
        let pixels: Vec<f32> = (0..IMAGES * image.pixels()).map(|_| normal(&mut rng) as f32).collect();
        let logits = model.logits(Batch::images(&pixels, &[0; IMAGES], image)?)?;
        let rows = logits.to_vec2::<f32>().map_err(|cause| {
            let cause = taper_kernels::KernelError::Tensor { op: "logits", cause };
            taper_model::ModelError::Compute { place: "head".to_owned(), cause: Box::new(cause) }
        })?;
        Ok(Self {
            text: rows.iter().map(|row| taper_eval::likeliest(row)).collect(),
            logits: rows.concat(),
            images: Some((pixels, vec![IMAGES, image.channels, image.size[0], image.size[1]])),
            ids: vec![Vec::new(); IMAGES],
            prompt: Vec::new(),
            vocab,
        })
    }

    fn compare(
        &self,
        request: &VerifyRequest,
        (engine, path): (&'static str, &Path),
    ) -> Result<Verdict, PipelineError> {
        let place = tempfile::tempdir().map_err(io(std::env::temp_dir()))?;
        let output = place.path().join("logits");
        let remote_code = ["modeling_taper.py", vllm::CLASS.0].iter().any(|name| path.join(name).is_file());
        let options = if engine == "vllm" { vllm_options(path)? } else { json!({}) };
        let ids = &self.ids[..self.sequences(engine)];
        let (shown, shape) = (place.path().join("pixels"), self.images.as_ref().map(|(_, shape)| shape));
        if let Some((pixels, _)) = &self.images {
            let bytes: Vec<u8> = pixels.iter().flat_map(|x| x.to_le_bytes()).collect();
            taper_base::files::write(&shown, &bytes).map_err(io(&shown))?;
        }
        let asked = json!({"engine": engine, "path": path, "ids": ids, "prompt": self.prompt, "options": options,
            "pixels": shown, "shape": shape,
            "generate": self.text.len() - self.prompt.len(), "output": output, "remote_code": remote_code});
        let answer = ask(&request.python, &asked.to_string())?;
        if let Some(cause) = answer.absent {
            let help = match engine {
                "transformers" => "pip install torch transformers",
                "onnxruntime" => "pip install onnxruntime",
                "vllm" => "pip install vllm, on a machine with a GPU",
                _ => "pip install llama-cpp-python",
            };
            return Ok(Verdict::Absent { cause, help: help.to_owned() });
        }
        let (Some(version), Some(text)) = (answer.version, answer.text) else {
            return Ok(Verdict::Failed { cause: answer.failed.unwrap_or_default() });
        };
        let bytes = std::fs::read(&output).map_err(io(&output))?;
        let other: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let own = &self.logits[..self.logits.len() / self.ids.len() * ids.len()];
        let own = if engine == "vllm" { log_probabilities(own, self.vocab) } else { own.to_vec() };
        if other.len() != own.len() {
            let cause = format!("{} logits, wanted {}", other.len(), own.len());
            return Ok(Verdict::Failed { cause });
        }
        let pairs = own.iter().zip(&other);
        let difference = pairs.fold(0.0_f64, |most, (a, b)| most.max(f64::from(a - b).abs()));
        let agree = self.text.iter().zip(&text).skip(self.prompt.len()).take_while(|(a, b)| a == b).count();
        let generated = self.text.len() - self.prompt.len();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let most = limit(engine, &name);
        let same = most.is_none_or(|most| difference <= most && agree == generated);
        let divergence = divergence(&own, &other, self.vocab);
        Ok(Verdict::Ran { version, difference, divergence, agree: [agree, generated], most, same })
    }

    /// Sequences that are compared: vLLM makes an object of each number.
    fn sequences(&self, engine: &str) -> usize {
        let most =
            if engine == "vllm" { VLLM_NUMBERS / (self.ids[0].len().max(1) * self.vocab) } else { self.ids.len() };
        most.clamp(1, self.ids.len())
    }
}

/// How far logits may be apart: f32 sums in another order; files of 16 bits round weights of 32.
fn limit(engine: &str, name: &str) -> Option<f64> {
    match engine {
        "transformers" | "onnxruntime" => Some(1e-4),
        "vllm" => Some(5e-3),
        _ if name.ends_with("-f32.gguf") => Some(5e-3),
        _ => None,
    }
}

/// The prompt and what the model says after it.
fn generate(model: &Model, prompt: &[u32], count: usize) -> Result<Vec<u32>, PipelineError> {
    let mut decoder = Decoder::new(model, &[prompt.len() + count])?;
    let (mut ids, mut next) = (prompt.to_vec(), prompt.to_vec());
    while ids.len() < prompt.len() + count {
        next = greedy(&decoder.feed(&next, &mut |_| ())?)?;
        ids.extend(&next);
    }
    Ok(ids)
}

/// `log Σ exp(x)`.
fn log_sum(row: &[f32]) -> f64 {
    let most = row.iter().fold(f64::NEG_INFINITY, |most, x| most.max(f64::from(*x)));
    most + row.iter().map(|x| (f64::from(*x) - most).exp()).sum::<f64>().ln()
}

/// Rows of logits as logarithms of probabilities.
fn log_probabilities(logits: &[f32], vocab: usize) -> Vec<f32> {
    let of_row = |row: &[f32]| {
        let sum = log_sum(row);
        row.iter().map(|x| (f64::from(*x) - sum) as f32).collect::<Vec<_>>()
    };
    logits.chunks_exact(vocab).flat_map(of_row).collect()
}

/// Mean of `KL(p ‖ q)` over rows of logits.
fn divergence(p: &[f32], q: &[f32], vocab: usize) -> f64 {
    let rows = p.chunks_exact(vocab).zip(q.chunks_exact(vocab));
    let of_row = |(p, q): (&[f32], &[f32])| -> f64 {
        let (of_p, of_q) = (log_sum(p), log_sum(q));
        let part = |(p, q): (&f32, &f32)| {
            let log_p = f64::from(*p) - of_p;
            log_p.exp() * (log_p - (f64::from(*q) - of_q))
        };
        p.iter().zip(q).map(part).sum()
    };
    rows.map(of_row).sum::<f64>() / (p.len() / vocab).max(1) as f64
}

/// The driver's answer: its last line, as libraries print what they like before.
fn ask(python: &Path, request: &str) -> Result<Answer, PipelineError> {
    let mut child = Command::new(python)
        .args(["-c", DRIVER])
        .env("HF_HUB_OFFLINE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(io(python))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(request.as_bytes()).map_err(io(python))?;
    }
    let output = child.wait_with_output().map_err(io(python))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    serde_json::from_str(last).or_else(|_| {
        // an engine that aborts, such as llama.cpp at an assertion
        let errors = String::from_utf8_lossy(&output.stderr);
        let said: Vec<&str> = errors.lines().rev().take(3).collect();
        let cause = format!("{}: {}", output.status, said.into_iter().rev().collect::<Vec<_>>().join("; "));
        Ok(Answer { version: None, text: None, absent: None, failed: Some(cause) })
    })
}
