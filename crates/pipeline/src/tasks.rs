//! `taper eval --tasks`: a checkpoint on benchmarks, alone or against another.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Map, Value, json};
use taper_base::Fingerprint;
use taper_data::{TextTokenizer, read_records};
use taper_eval::harness::{
    self, AnswerStore, Chat, ChatTemplate, Comparison, Fields, HarnessError, Options, Subject, Suite, Task, TaskRun,
};
use taper_hub::ModelSource;
use taper_model::{Checkpoint, Model};

use crate::context::REVISION;
use crate::stages::load::fingerprint;
use crate::{Console, PipelineError, machine};

/// What to evaluate, and how.
#[derive(Debug, Clone)]
pub struct TaskRequest {
    /// Which checkpoint.
    pub model: ModelSource,
    /// Against which other.
    pub against: Option<ModelSource>,
    /// Names of tasks and groups.
    pub tasks: Vec<String>,
    /// Folders of the user's own tasks.
    pub task_paths: Vec<PathBuf>,
    /// Folder with the tasks' documents; `None`: the Hub.
    pub data: Option<PathBuf>,
    /// Shots, if not as the tasks say.
    pub shots: Option<usize>,
    /// Documents of each task: a number, or a share below 1.
    pub limit: Option<f64>,
    /// Seed of shots.
    pub seed: u64,
    /// Resamples for standard errors of perplexities.
    pub resamples: usize,
    /// Whether answers kept are forgotten first.
    pub fresh: bool,
    /// Whether every document is in the report.
    pub samples: bool,
    /// File of answers; `None`: in the user's cache.
    pub store: Option<PathBuf>,
    /// How prompts are put to the model.
    pub chat: ChatRequest,
    /// Threads; `None`: as the environment says.
    pub threads: Option<usize>,
}

/// How prompts are put to the model.
#[derive(Debug, Clone, Default)]
pub struct ChatRequest {
    /// Whether the model's chat template is applied.
    pub apply: bool,
    /// Which, if it has several.
    pub name: Option<String>,
    /// What stands before all else; under a template, in the system's name.
    pub system: Option<String>,
    /// Whether shots are turns of their own.
    pub multiturn: bool,
}

/// What came out.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskReport {
    /// In the layout of lm-evaluation-harness; what taper adds is under `taper`.
    pub results: Map<String, Value>,
    /// Against the other checkpoint.
    pub comparisons: Vec<Comparison>,
}

/// All tasks there are, the user's own in `folders` among them.
///
/// # Errors
/// If a task file is not one.
pub fn suite(folders: &[PathBuf]) -> Result<Suite, PipelineError> {
    let mut suite = Suite::builtin()?;
    folders.iter().try_for_each(|folder| suite.add_folder(folder))?;
    Ok(suite)
}

/// Evaluates a checkpoint, taper's or not, on tasks.
///
/// # Errors
/// If model, tasks or documents cannot be had or do not fit; [`HarnessError`] names task, document and field.
pub fn eval_tasks(request: &TaskRequest, console: &dyn Console) -> Result<TaskReport, PipelineError> {
    machine::with_threads(request.threads.unwrap_or(0), || eval_here(request, console))?
}

fn eval_here(request: &TaskRequest, console: &dyn Console) -> Result<TaskReport, PipelineError> {
    let start = Instant::now();
    let suite = suite(&request.task_paths)?;
    let selection = suite.select(&request.tasks)?;
    let path = request.store.clone().unwrap_or_else(default_store);
    let mut store = AnswerStore::open(&path)?;
    let (runs, template) = evaluate(request, &request.model, &selection.tasks, &mut store, console)?;
    let mut results = harness::report(&suite, &runs, &selection.groups, request.resamples, request.samples);
    let mut comparisons = Vec::new();
    if let Some(original) = &request.against {
        let (originals, _) = evaluate(request, original, &selection.tasks, &mut store, console)?;
        comparisons = harness::compare(&runs, &originals, request.seed);
    }
    results.insert("config".to_owned(), config(request));
    results.extend(chat(&request.chat, template.as_deref()));
    results.insert("model_source".to_owned(), "taper".into());
    results.insert("model_name".to_owned(), request.model.to_string().into());
    let seconds = start.elapsed().as_secs_f64();
    results.insert("total_evaluation_time_seconds".to_owned(), seconds.to_string().into());
    let mut own = json!({ "version": env!("CARGO_PKG_VERSION"), "effort": effort(&runs) });
    if request.against.is_some() {
        own["against"] = serde_json::to_value(&comparisons).unwrap_or_default();
    }
    results.insert("taper".to_owned(), own);
    Ok(TaskReport { results, comparisons })
}

fn config(request: &TaskRequest) -> Value {
    json!({
        "model": request.model.to_string(), "against": request.against.as_ref().map(ToString::to_string),
        "device": "cpu", "limit": request.limit, "bootstrap_iters": request.resamples,
        "fewshot_seed": request.seed, "num_fewshot": request.shots,
    })
}

/// How prompts were put to the model, under lm-evaluation-harness's names.
fn chat(request: &ChatRequest, template: Option<&str>) -> [(String, Value); 5] {
    let sha = |text: Option<&str>| text.map(|text| Fingerprint::of_bytes(text.as_bytes()).to_string());
    let system = request.system.as_deref();
    [
        ("system_instruction", system.into()),
        ("system_instruction_sha", sha(system).into()),
        ("fewshot_as_multiturn", request.multiturn.into()),
        ("chat_template", template.into()),
        ("chat_template_sha", sha(template).into()),
    ]
    .map(|(key, value): (&str, Value)| (key.to_owned(), value))
}

/// What answering took, all tasks together.
fn effort(runs: &[TaskRun]) -> Value {
    let sum = |of: fn(&TaskRun) -> usize| runs.iter().map(of).sum::<usize>();
    let seconds: f64 = runs.iter().map(|run| run.effort.time.as_secs_f64()).sum();
    let tokens = sum(|run| run.effort.tokens);
    json!({
        "requests": sum(|run| run.effort.requests), "known": sum(|run| run.effort.known), "tokens": tokens,
        "seconds": seconds, "tokens_per_second": if seconds > 0.0 { tokens as f64 / seconds } else { 0.0 },
    })
}

fn evaluate(
    request: &TaskRequest,
    source: &ModelSource,
    tasks: &[&Task],
    store: &mut AnswerStore,
    console: &dyn Console,
) -> Result<(Vec<TaskRun>, Option<String>), PipelineError> {
    let local = crate::local::model(source, console)?;
    let asked = &request.chat;
    let load = || ChatTemplate::load(&local.dir, asked.name.as_deref());
    let template = asked.apply.then(load).transpose()?;
    let chat = Chat { template: template.as_ref(), system: asked.system.as_deref(), multiturn: asked.multiturn };
    let TaskRequest { shots, limit, seed, fresh, .. } = *request;
    let questions =
        Questions { tasks, data: request.data.as_deref(), options: Options { shots, limit, seed, fresh, chat } };
    let runs = questions.ask_checkpoint(&Checkpoint::open(&local.dir)?, store, console)?;
    Ok((runs, template.map(|template| template.source().to_owned())))
}

/// What a model is asked.
pub(crate) struct Questions<'a> {
    pub(crate) tasks: &'a [&'a Task],
    /// Folder with the documents; `None`: the Hub.
    pub(crate) data: Option<&'a Path>,
    pub(crate) options: Options<'a>,
}

impl Questions<'_> {
    pub(crate) fn ask_checkpoint(
        &self,
        checkpoint: &Checkpoint,
        store: &mut AnswerStore,
        console: &dyn Console,
    ) -> Result<Vec<TaskRun>, PipelineError> {
        let (dir, vocab) = (checkpoint.dir(), checkpoint.spec().vocab);
        let tokenizer = TextTokenizer::load(dir)?;
        if tokenizer.vocabulary() > vocab {
            return Err(PipelineError::Vocabulary { dir: dir.to_owned(), tokens: tokenizer.vocabulary(), vocab });
        }
        let fingerprint = fingerprint(checkpoint)?;
        self.ask((&Model::load(checkpoint)?, &tokenizer, &fingerprint), store, console)
    }

    /// Answers are kept under the model's fingerprint, so they serve every command and run of this revision.
    pub(crate) fn ask(
        &self,
        (model, tokenizer, fingerprint): (&Model, &TextTokenizer, &Fingerprint),
        store: &mut AnswerStore,
        console: &dyn Console,
    ) -> Result<Vec<TaskRun>, PipelineError> {
        let fingerprint = format!("{fingerprint} {REVISION}");
        let subject = Subject { model, tokenizer, fingerprint: &fingerprint };
        let documents = |task: &Task, split: &str| documents(task, split, self.data, console);
        Ok(harness::evaluate(subject, self.tasks, &documents, self.options, (store, console))?)
    }
}

/// The files in `data` that `tasks` read, under `<folder>/<split>`.
///
/// # Errors
/// [`HarnessError::Read`] for the first that is not there.
pub(crate) fn local_files(
    tasks: &[&Task],
    shots: Option<usize>,
    data: &Path,
) -> Result<BTreeMap<String, PathBuf>, HarnessError> {
    let mut files = BTreeMap::new();
    for task in tasks {
        let shots = task.shots_split().filter(|_| task.shots(shots) > 0);
        for split in task.evaluated_split().into_iter().chain(shots) {
            files.insert(format!("{}/{split}", folder(task)), local_file(task, split, data)?);
        }
    }
    Ok(files)
}

/// The documents of a split, from `--data` or the Hub.
fn documents(
    task: &Task,
    split: &str,
    data: Option<&Path>,
    console: &dyn Console,
) -> Result<Vec<Fields>, HarnessError> {
    let files = match data {
        Some(data) => vec![local_file(task, split, data)?],
        None => {
            let files = task.dataset_files.get(split).map_or(&[][..], Vec::as_slice);
            let fetch = |file: &String| {
                taper_hub::fetch_dataset_file(&task.dataset_path, Some(&task.dataset_revision), file, console)
            };
            files.iter().map(fetch).collect::<Result<_, _>>().map_err(|cause| HarnessError::Fetch {
                task: task.task.clone(),
                split: split.to_owned(),
                cause: Box::new(cause),
            })?
        }
    };
    let mut documents = Vec::new();
    for file in files {
        let read = read_records(&file);
        let named = |cause| HarnessError::Documents {
            task: task.task.clone(),
            split: split.to_owned(),
            cause: Box::new(cause),
        };
        documents.extend(read.map_err(named)?);
    }
    let is_of = |document: &Fields| task.dataset_where.iter().all(|(field, value)| document.get(field) == Some(value));
    documents.retain(is_of);
    Ok(documents)
}

/// The folder of `--data` with a task's documents.
fn folder(task: &Task) -> &str {
    task.dataset_folder.as_ref().unwrap_or(&task.task)
}

/// `<data>/<task>/<split>` with the ending that is there.
fn local_file(task: &Task, split: &str, data: &Path) -> Result<PathBuf, HarnessError> {
    let folder = data.join(folder(task));
    let named = |ending| folder.join(format!("{split}.{ending}"));
    let found = ["jsonl", "json", "parquet"].into_iter().map(named).find(|path| path.is_file());
    found.ok_or_else(|| {
        let cause = std::io::Error::new(std::io::ErrorKind::NotFound, "no .jsonl, .json or .parquet file of this name");
        HarnessError::Read { path: folder.join(split), cause }
    })
}

/// `TAPER_EVAL_STORE`, else `taper/answers.db` in the user's cache.
pub(crate) fn default_store() -> PathBuf {
    let set = std::env::var_os("TAPER_EVAL_STORE").filter(|value| !value.is_empty()).map(PathBuf::from);
    set.unwrap_or_else(|| crate::local::user_cache().join("answers.db"))
}
