//! The sections of a recipe. Their docs are the schema's.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use taper_arch::budget::{Amount, Counted};
use taper_arch::{Budget, Generation};
use taper_base::Bytes;
use taper_data::images::ImageSource;
use taper_data::{Shares, TextSource};
use taper_eval::Settings;
use taper_eval::harness::{FEWSHOT_SEED, Suite};
use taper_export::Target;
use taper_model::StoredType;

use super::Method;
use super::text;
use crate::PipelineError;

/// Text, or images, for calibration, for the search and for the test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataPart {
    /// Where the text is, for a language model; relative paths start at the recipe's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<TextSource>,
    /// Where the images are, for a classifier of images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<ImageSource>,
    /// Which share of the documents, or images, each split gets. They are split by hash, so none is ever in two splits.
    #[serde(default)]
    pub shares: Shares,
    /// Sequences of the calibration batch, or images; left out: 16, or 256 images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub sequences: Option<usize>,
    /// Tokens in each sequence.
    #[serde(default = "default_length")]
    #[schemars(range(min = 2, max = 1_048_576))]
    pub length: usize,
}

impl DataPart {
    /// Sequences of the calibration batch, or images.
    pub fn sequences(&self) -> usize {
        self.sequences.unwrap_or(if self.images.is_some() { 256 } else { 16 })
    }

    /// Where it is.
    pub fn name(&self) -> String {
        let text = self.text.as_ref().map(ToString::to_string);
        text.or(self.images.as_ref().map(ToString::to_string)).unwrap_or_default()
    }
}

fn default_length() -> usize {
    512
}

/// What the result may cost: parameters or latency.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BudgetPart {
    /// How many parameters may stay: `50%` of the original, or a number such as `4.5B`, `800M` or `123456`.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "text::amount")]
    #[schemars(schema_with = "text::amount_schema")]
    pub params: Option<Amount>,
    /// How long an answer may take, as measured on this machine: `60%` of the original, or a time such as `250 ms`.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "text::time")]
    #[schemars(schema_with = "text::time_schema")]
    pub latency: Option<Amount>,
    /// What an answer is, for `latency`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Generation")]
    pub workload: Option<Generation>,
    /// Which parameters count: all, or those outside of embedding and head.
    #[serde(default)]
    #[schemars(with = "CountedNames")]
    pub counted: Counted,
    /// How far below the budget a result may stay: `2%` or 0.02. It is never above.
    #[serde(default = "default_tolerance", deserialize_with = "text::share")]
    #[schemars(schema_with = "text::share_schema")]
    pub tolerance: f64,
}

/// Which parameters a budget counts.
#[derive(JsonSchema)]
#[schemars(rename = "Counted", rename_all = "kebab-case")]
#[expect(dead_code, reason = "only its schema is used: the names of taper_arch's Counted")]
enum CountedNames {
    /// All parameters.
    Total,
    /// Those of the blocks and the final norm.
    NonEmbedding,
}

fn default_tolerance() -> f64 {
    0.02
}

impl BudgetPart {
    /// The budget, to be put in numbers for a model.
    pub fn budget(&self) -> Budget {
        let (amount, counted) = match (self.latency, self.params) {
            (Some(amount), _) => (amount, Counted::Latency),
            (None, Some(amount)) => (amount, self.counted),
            (None, None) => (Amount::Share(1.0), self.counted), // refused by the recipe's check
        };
        Budget { amount, counted, tolerance: self.tolerance }
    }

    /// What latency is stated for.
    pub fn workload(&self) -> Generation {
        self.workload.unwrap_or_default()
    }
}

/// How to look for the best architecture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SearchPart {
    /// What proposes candidates: `evolution: {population: 30}`.
    pub strategy: Method,
    /// What scores them: `gradient-trace: {sketch_rank: 64}`.
    pub proxy: Method,
    /// How to spend less on candidates that do not matter: `racing`. Left out: all are scored on all tokens.
    pub fidelity: Option<Method>,
    /// Threads that score candidates; left out: one for each core. The result does not depend on it, unless the budget is of latency.
    #[schemars(range(min = 1, max = 1024))]
    pub threads: Option<usize>,
}

impl Default for SearchPart {
    fn default() -> Self {
        Self { strategy: Method::new("evolution"), proxy: Method::new("gradient-trace"), fidelity: None, threads: None }
    }
}

/// How to judge the result: perplexity on text that nothing before has seen, benchmarks, and what must be kept of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EvalPart {
    /// Text to judge on; left out: the test split of `data.text`.
    pub text: Option<TextSource>,
    /// Images to judge on; left out: the test split of `data.images`.
    pub images: Option<ImageSource>,
    /// Tokens the model sees at once.
    #[schemars(range(min = 2, max = 1_048_576))]
    pub window: usize,
    /// Tokens from one window's start to the next's; left out: half of `window`. Smaller gives more context and is slower.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub stride: Option<usize>,
    /// Whether windows end with their document instead of running on into the next.
    pub by_document: bool,
    /// Tokens to measure on, at most: the first documents. Each of the models of the table reads them all.
    #[schemars(range(min = 2))]
    pub tokens: usize,
    /// Random architectures of the same budget to compare with; the table shows their mean. 0: none.
    #[schemars(range(min = 0, max = 1000))]
    pub random: usize,
    /// Benchmarks for the original and the result, by name of task or group: `[arc_easy, mmlu]`. See `taper tasks`.
    pub tasks: Vec<String>,
    /// Shots; left out: as each task says. A task that says 0 keeps it.
    pub shots: Option<usize>,
    /// Documents of each task: the first so many, or a share of them below 1. Left out: all.
    #[schemars(range(min = 0))]
    pub limit: Option<f64>,
    /// Folder with `<task>/<split>.jsonl`, `.json` or `.parquet`; left out: the Hub.
    #[serde(deserialize_with = "text::some_path")]
    pub data: Option<PathBuf>,
    /// Folders of your own tasks: a `task.yaml`, or folders with one each.
    #[serde(deserialize_with = "text::paths")]
    pub task_path: Vec<PathBuf>,
    /// Seed of few-shot documents.
    pub fewshot_seed: u64,
    /// What the result must keep at least, by task, group or `perplexity`: `{arc_easy: 0.95}`. Exit code 1 if it does not.
    pub recovery: BTreeMap<String, Kept>,
}

/// A share of the original's score that must be kept: `95%` or 0.95.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Kept(
    /// Above 0, at most 1.
    #[serde(deserialize_with = "text::kept")]
    #[schemars(schema_with = "text::kept_schema")]
    pub f64,
);

impl Default for EvalPart {
    fn default() -> Self {
        Self {
            text: None,
            images: None,
            window: 512,
            stride: None,
            by_document: false,
            tokens: 262_144,
            random: 5,
            tasks: Vec::new(),
            shots: None,
            limit: None,
            data: None,
            task_path: Vec::new(),
            fewshot_seed: FEWSHOT_SEED,
            recovery: BTreeMap::new(),
        }
    }
}

impl EvalPart {
    /// Tokens from one window's start to the next's, at least 1.
    pub fn stride(&self) -> usize {
        self.stride.unwrap_or(self.window / 2).max(1)
    }

    /// How the text is cut into windows.
    pub fn settings(&self) -> Settings {
        Settings { window: self.window, stride: self.stride(), by_document: self.by_document }
    }

    /// All tasks there are, the user's own among them; `None` if none is asked for.
    ///
    /// # Errors
    /// If a task file is not one.
    pub fn suite(&self) -> Result<Option<Suite>, PipelineError> {
        if self.tasks.is_empty() { Ok(None) } else { crate::tasks::suite(&self.task_path).map(Some) }
    }
}

/// Which engines must load the result. Their rules narrow the search space, and the result is written for each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportPart {
    /// `transformers`, `vllm`, `onnx` for classifiers of images, `llama.cpp` or, with a type, `gguf:q4_k_m`.
    #[schemars(with = "Vec<String>")]
    pub targets: Vec<Target>,
    /// Fills blocks that differ up with zeros until they are alike: no rule narrows the space then, and what pruning saved of
    /// memory and time is lost. For tools that know no other models.
    #[serde(default)]
    pub uniform_pad: bool,
}

/// How to save the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MaterialisePart {
    /// Type of the saved weights.
    pub dtype: WeightType,
    /// Largest file of weights, such as `5GB`, `500MB` or a number of bytes; a larger model is saved in several.
    #[serde(deserialize_with = "text::bytes")]
    #[schemars(schema_with = "text::bytes_schema")]
    pub shard_size: Bytes,
}

impl Default for MaterialisePart {
    fn default() -> Self {
        Self { dtype: WeightType::AsStored, shard_size: Bytes(5_000_000_000) }
    }
}

impl MaterialisePart {
    /// The type to save in; `None` as stored.
    pub fn stored_type(&self) -> Option<StoredType> {
        match self.dtype {
            WeightType::AsStored => None,
            WeightType::F32 => Some(StoredType::F32),
            WeightType::F16 => Some(StoredType::F16),
            WeightType::Bf16 => Some(StoredType::BF16),
        }
    }
}

/// Type of saved weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WeightType {
    /// The type in which the model's own checkpoint stores them.
    #[default]
    AsStored,
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// 16-bit brain floats.
    Bf16,
}

/// Where to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Device {
    /// The first GPU, if this build has CUDA and the machine one; else the CPU. Says which, where there is a choice.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The first GPU; an error if there is none, or if this build has no CUDA.
    Cuda,
}
