//! The command line.

mod heal;

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

pub(crate) use heal::HealArgs;

/// Makes pretrained Llama, Mistral and Qwen checkpoints smaller.
///
/// One recipe file says which model, how small, and how to search. taper ranks heads and channels on calibration text,
/// searches which of them to keep in each block, cuts, heals, evaluates, and writes a checkpoint that stock transformers
/// loads.
#[derive(Debug, Parser)]
#[command(
    name = "taper",
    version,
    max_term_width = 100,
    after_help = "\
Start here:
  taper run recipes/demo.yaml      the whole pipeline on a small model, under a minute
  taper check my.yaml              what is wrong with a recipe, before anything is read
  taper methods                    methods that a recipe may name, for searching and healing

Exit codes: 0 done, 1 ran but a gate was missed, 2 could not run.
Log: TAPER_LOG=info (or debug) on stderr."
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// One JSON document on stdout instead of text.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// How progress is shown on stderr; by default a bar on a terminal, else plain lines.
    #[arg(long, global = true, value_enum, default_value_t = ProgressStyle::Auto)]
    pub(crate) progress: ProgressStyle,
    /// How log lines are written to stderr.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressStyle {
    /// A bar on a terminal, else plain lines.
    Auto,
    /// A bar.
    Bar,
    /// A line when a stage begins and ends, and one every 20 seconds in between.
    Plain,
    /// One JSON object a line.
    Json,
    /// Nothing.
    Silent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a recipe: load, calibrate, search, materialise, heal, eval.
    ///
    /// Stages whose inputs have not changed since the last run are skipped. A run that was killed goes on where it was.
    Run(RecipeArgs),
    /// Check a recipe without reading weights.
    Check {
        /// The recipe.
        #[arg(required_unless_present = "schema")]
        recipe: Option<PathBuf>,
        /// Print the recipe's JSON schema, for editors, instead.
        #[arg(long)]
        schema: bool,
    },
    /// Run a recipe up to the search: which architecture is best.
    Search(RecipeArgs),
    /// Run a recipe up to the pruned checkpoint, without healing and evaluating it.
    Prune(RecipeArgs),
    /// Train a pruned checkpoint, by the model it was cut from or by text or images alone.
    ///
    /// What a recipe's `heal` section does, for any checkpoint. A training that was killed goes on from its last checkpoint,
    /// to the same bits; metrics are below heal.work/: metrics.jsonl, and event files for TensorBoard.
    #[command(after_help = "\
Examples:
  taper heal pruned --teacher original --data train.jsonl --steps 500
  taper heal pruned --data train.txt --set 'lora={rank: 16, dora: true}' --rate 1e-3
  taper heal pruned --teacher original --images ./train --set 'augment={shift: 4, mirror: true}'
`taper methods` lists objectives, optimizers, schedules and corruptors; docs/heal.md describes every setting.")]
    Heal(Box<HealArgs>),
    /// Write a checkpoint for llama.cpp (GGUF), vLLM, transformers, ONNX runtimes.
    ///
    /// An engine that cannot hold the model is told before anything is written, with the rule that forbids it.
    #[command(after_help = "\
Examples:
  taper export runs/demo --to gguf:f16,gguf:q4_k_m
  taper export owner/name --to gguf:q8_0 --out exported")]
    Export(ExportArgs),
    /// Compare a checkpoint and its exports in other engines with taper's numbers.
    ///
    /// Logits and greedy text of the engines that a Python has: transformers for the checkpoint, llama-cpp-python for GGUF
    /// files. An engine that is not installed is said, and how to install it. Exit code 1 if one gives other numbers. Quantized files are told how far they are, and not judged.
    Verify(VerifyArgs),
    /// Publish a run's result, or a checkpoint's folder, on the Hub, with a model card.
    ///
    /// Sends what the repository lacks and makes one commit of it; run it again after a failure. `.gguf` files of the run's
    /// `export` go along. HF_TOKEN, or the token of `hf auth login`, must be allowed to write.
    #[command(after_help = "\
Examples:
  taper publish runs/demo --repo me/llama-4.5b --private
  taper publish runs/demo --repo me/llama-4.5b --dry-run    # the card and the files, nothing is sent")]
    Publish(PublishArgs),
    /// Scores of a checkpoint, taper's or not: benchmarks, or perplexity on text.
    ///
    /// With --tasks: the numbers that lm-evaluation-harness 0.4.13 gives for the same task version, shots and documents. Every
    /// answer is kept on disk, so an interrupted evaluation goes on where it was, and a second one costs nothing.
    /// With --text: perplexity.
    Eval(Box<EvalArgs>),
    /// The tasks there are: what they measure, shots, data, licence.
    Tasks(TasksArgs),
    /// Score given candidates: loss, correlation per sub-block and their sum, gradient norms.
    ///
    /// The numbers anybody can compare with a reference of their own.
    Score(ScoreArgs),
    /// Write a checkpoint's logits to a safetensors file, to compare with another program's.
    Logits(LogitsArgs),
    /// How fast a checkpoint answers here: time to first token, per token, memory.
    ///
    /// Greedy generation by taper's own engine, in f32. Medians over repetitions, with the lowest and the highest.
    Bench(BenchArgs),
    /// What a checkpoint is: blocks, sizes, costs.
    Inspect {
        /// Hub id, id@revision or folder.
        model: String,
    },
    /// The methods that recipes may name.
    Methods,
    /// What this machine and this build can do.
    Doctor,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RecipeArgs {
    /// The recipe, a YAML file.
    pub(crate) recipe: PathBuf,
    /// Folder for results, instead of the recipe's `runs`.
    #[arg(long)]
    pub(crate) runs: Option<PathBuf>,
    /// Worker threads, instead of the recipe's. Results do not depend on it.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    /// A run's folder (its healed or pruned checkpoint), a checkpoint's folder, Hub id or id@revision.
    pub(crate) model: String,
    /// Layouts: transformers, vllm, onnx (classifiers of images), gguf:f32, f16, bf16, q8_0, q6_k, q5_k_m, q5_k_s, q4_k_m, q4_k_s, q4_0; `gguf` is gguf:f16.
    #[arg(long, value_delimiter = ',', required = true, value_name = "TARGETS")]
    pub(crate) to: Vec<taper_pipeline::Target>,
    /// Fill blocks that differ up with zeros until they are alike, for tools that know no other models. Costs what pruning saved.
    #[arg(long)]
    pub(crate) uniform_pad: bool,
    /// Folder for the results; by default `export` in the run's folder, else the model's name and `-export`.
    #[arg(long, short, value_name = "FOLDER")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PublishArgs {
    /// A run's folder (its healed or pruned checkpoint), or a checkpoint's folder.
    pub(crate) model: String,
    /// The repository: owner/name. Created if it is not there.
    #[arg(long)]
    pub(crate) repo: String,
    /// Create it private; refused if it is there and public.
    #[arg(long)]
    pub(crate) private: bool,
    /// Licence of the result, by the Hub's names; by default what the parent's card says.
    #[arg(long, value_name = "NAME")]
    pub(crate) license: Option<String>,
    /// The commit's message.
    #[arg(long, short, value_name = "TEXT")]
    pub(crate) message: Option<String>,
    /// Print the card and the files, and send nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct VerifyArgs {
    /// A run's folder (its healed or pruned checkpoint), a checkpoint's folder, Hub id or id@revision.
    pub(crate) model: String,
    /// Folder with exports (.gguf files, folders for transformers and vLLM); by default `export` in the run's folder.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) exports: Option<PathBuf>,
    /// The Python that has the engines.
    #[arg(long, default_value = "python3", value_name = "PROGRAM")]
    pub(crate) python: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct EvalArgs {
    /// Hub id, id@revision or folder.
    pub(crate) model: String,
    #[command(flatten)]
    pub(crate) tasks: TaskArgs,
    /// Text file or folder: .txt (documents between empty lines), .jsonl or .parquet (field `text`).
    #[arg(long, required_unless_present_any = ["tasks", "images"], conflicts_with = "tasks", help_heading = "Perplexity")]
    pub(crate) text: Option<PathBuf>,
    /// The .jsonl field or .parquet column that holds the text.
    #[arg(long, default_value = "text")]
    pub(crate) field: String,
    /// Read each .txt file as one document.
    #[arg(long)]
    pub(crate) whole: bool,
    /// Tokens fed at once; by default 2048, or the model's context if that is shorter.
    #[arg(long)]
    pub(crate) window: Option<usize>,
    /// Tokens from one window's start to the next; by default the window.
    #[arg(long)]
    pub(crate) stride: Option<usize>,
    /// No window sees two documents.
    #[arg(long)]
    pub(crate) by_document: bool,
    /// Leave out what the tokenizer puts around a text (BOS).
    #[arg(long)]
    pub(crate) no_special: bool,
    /// Use only the first N tokens.
    #[arg(long)]
    pub(crate) tokens: Option<usize>,
    /// Labelled images, for a classifier of them: a folder (one folder a class, or with labels.csv), .parquet or .safetensors.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["tasks", "text"], help_heading = "Images")]
    pub(crate) images: Option<PathBuf>,
    /// Use only the first N images.
    #[arg(long, value_name = "N", requires = "images", help_heading = "Images")]
    pub(crate) first: Option<usize>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Benchmarks")]
pub(crate) struct TaskArgs {
    /// Names of tasks and groups, e.g. `arc_easy,hellaswag,mmlu` or `standard`.
    #[arg(long, value_delimiter = ',')]
    pub(crate) tasks: Vec<String>,
    /// Another checkpoint to compare with: differences with intervals, and answers that flipped. With tasks or images.
    #[arg(long, value_name = "MODEL", conflicts_with = "text")]
    pub(crate) against: Option<String>,
    /// Shots, instead of the tasks' own. A task that says 0 keeps it.
    #[arg(long, requires = "tasks")]
    pub(crate) shots: Option<usize>,
    /// The first N documents of each task, or a share of them below 1.
    #[arg(long, value_name = "N", value_parser = limit, requires = "tasks")]
    pub(crate) limit: Option<f64>,
    /// Put each prompt through the model's chat template; a name picks one of several.
    ///
    /// From chat_template.jinja or tokenizer_config.json, as transformers renders it. A template that asks for the date gets
    /// today's, so its answers differ from day to day.
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true, requires = "tasks")]
    pub(crate) apply_chat_template: Option<Option<String>>,
    /// What stands before all else; under a chat template, in the system's name.
    #[arg(long, value_name = "TEXT", requires = "tasks")]
    pub(crate) system_instruction: Option<String>,
    /// Under a chat template, whether shots are questions and answers of their own, as by default; `false`: all is one question.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", requires = "apply_chat_template")]
    pub(crate) fewshot_as_multiturn: Option<bool>,
    /// Folder with `<task>/<split>.jsonl`, `.json` or `.parquet`, instead of the Hub.
    #[arg(long, value_name = "FOLDER", requires = "tasks")]
    pub(crate) data: Option<PathBuf>,
    /// Folder of your own tasks: a task.yaml, or folders with one each. Repeatable.
    #[arg(long, value_name = "FOLDER", requires = "tasks")]
    pub(crate) task_path: Vec<PathBuf>,
    /// Ask again what is on disk already.
    #[arg(long, requires = "tasks")]
    pub(crate) fresh: bool,
    /// Every document in the JSON, with what was asked and answered; needs --json.
    #[arg(long, requires = "tasks", requires = "json")]
    pub(crate) log_samples: bool,
    /// File of answers, instead of TAPER_EVAL_STORE or the one in the user's cache.
    #[arg(long, value_name = "FILE", requires = "tasks")]
    pub(crate) answers: Option<PathBuf>,
    /// Seed of few-shot documents; lm-evaluation-harness's by default.
    #[arg(long, default_value_t = taper_pipeline::FEWSHOT_SEED)]
    pub(crate) fewshot_seed: u64,
    /// Resamples for the standard error of a perplexity; 0: none.
    #[arg(long, default_value_t = taper_pipeline::BOOTSTRAP)]
    pub(crate) bootstrap: usize,
    /// Worker threads; by default `RAYON_NUM_THREADS`, or one a core.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024), requires = "tasks")]
    pub(crate) threads: Option<u16>,
}

fn limit(text: &str) -> Result<f64, String> {
    let limit: f64 = text.parse().map_err(|cause| format!("{cause}"))?;
    let whole = limit >= 1.0 && limit.fract() == 0.0 && limit < 1e15;
    if whole || (limit > 0.0 && limit < 1.0) {
        Ok(limit)
    } else {
        Err("wanted a number of documents, or a share below 1".to_owned())
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct TasksArgs {
    #[command(subcommand)]
    pub(crate) command: Option<TasksCommand>,
    /// Folder of your own tasks. Repeatable.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) task_path: Vec<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TasksCommand {
    /// Say what is wrong with task files, by line.
    Check {
        /// Folders: a task.yaml, or folders with one each.
        #[arg(required = true)]
        folders: Vec<PathBuf>,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    /// Hub id, id@revision or folder.
    pub(crate) model: String,
    /// Tokens of each prompt.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub(crate) prompt: u32,
    /// Tokens generated after each prompt.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub(crate) generate: u32,
    /// Sequences at once; several, as in `1,8`, are measured one after the other.
    #[arg(long, value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) batch: Vec<u16>,
    /// Times that each is measured, after once to warm up.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) repetitions: u16,
    /// Worker threads; by default `RAYON_NUM_THREADS`, or one a core.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct LogitsArgs {
    /// Hub id, id@revision or folder.
    pub(crate) model: String,
    /// JSON: a list of token ids, or an object with `ids`.
    #[arg(long)]
    pub(crate) tokens: PathBuf,
    /// Sequences to take from the tokens.
    #[arg(long, default_value_t = 2)]
    pub(crate) sequences: usize,
    /// Tokens of each sequence.
    #[arg(long, default_value_t = 64)]
    pub(crate) length: usize,
    /// The file to write: `input_ids` [sequences, length], `logits` [sequences, length, vocab].
    #[arg(long, short)]
    pub(crate) output: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ScoreArgs {
    /// Hub id, id@revision or folder.
    pub(crate) model: String,
    /// JSON: a list of candidates, each a list with `{"attention": [heads] | null, "mlp": [channels] | null}` a block.
    #[arg(long)]
    pub(crate) candidates: PathBuf,
    /// JSON: a list of token ids, or an object with `ids`.
    #[arg(long)]
    pub(crate) tokens: PathBuf,
    /// Sequences to take from the tokens.
    #[arg(long, default_value_t = 4)]
    pub(crate) sequences: usize,
    /// Tokens of each sequence.
    #[arg(long, default_value_t = 128)]
    pub(crate) length: usize,
    /// Parameters of `gradient-trace` as JSON, e.g. '{"sketch_rank": 64}'; by default dense gradients.
    #[arg(long, default_value = r#"{"sketch_rank": "dense"}"#)]
    pub(crate) proxy: String,
    /// Seed of the sketch.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
}
