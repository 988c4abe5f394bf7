//! `taper heal`: any checkpoint is trained, without a recipe.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;
use taper_arch::Selection;
use taper_data::{Documents, Pack, Split, TextSource, TextTokenizer};
use taper_heal::{HealError, Material};
use taper_hub::{LocalModel, ModelSource};
use taper_model::{Checkpoint, Model, parameter_count};

use crate::context::documents;
use crate::error::io;
use crate::recipe::{HealPart, HealText};
use crate::run_dir::RunDir;
use crate::stage::StageKey;
use crate::stages::heal::{HealReport, HealedCheckpoint, Healing, origin, others, shares, validation_tokens};
use crate::stages::load::fingerprint;
use crate::stages::read_json;
use crate::{Console, PipelineError, Stage, machine};

/// Tokens a sequence, if nothing is said and the model's context is no shorter.
const LENGTH: usize = 512;

/// What is to become of an earlier training with the same folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// It goes on; one that is done is not done again.
    Continue,
    /// It goes on, and there has to be one.
    Resume,
    /// It is thrown away.
    Fresh,
}

/// A checkpoint to train, and how.
#[derive(Debug, Clone)]
pub struct HealRequest {
    /// Which.
    pub student: ModelSource,
    /// The model it was cut from.
    pub teacher: Option<ModelSource>,
    /// Texts to train on, besides those of the settings, of weight 1 each.
    pub data: Vec<TextSource>,
    /// Text to look at on the way; none: 5% of the documents.
    pub validation: Option<TextSource>,
    /// Folder of the result and of progress.
    pub out: PathBuf,
    /// How.
    pub settings: HealPart,
    /// Seed of everything random.
    pub seed: u64,
    /// Which of the teacher's blocks each of the student's was; none: by `kept_units.json` beside it, or one by one.
    pub origin: Option<Vec<usize>>,
    /// Of an earlier one.
    pub start: Start,
    /// Worker threads; 0: as the environment says.
    pub threads: usize,
}

/// What `taper heal` came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HealOutcome {
    /// The healed checkpoint.
    pub checkpoint: PathBuf,
    /// Its numbers.
    #[serde(flatten)]
    pub report: HealReport,
}

/// A model in a folder, its headers read.
struct Opened {
    local: LocalModel,
    checkpoint: Checkpoint,
}

impl Opened {
    fn new(source: &ModelSource, console: &dyn Console) -> Result<Self, PipelineError> {
        let local = crate::local::model(source, console)?;
        let checkpoint = Checkpoint::open(&local.dir)?;
        Ok(Self { local, checkpoint })
    }
}

/// Trains a checkpoint as `request` says.
///
/// # Errors
/// If models, texts and settings do not fit each other, or the training fails; what was done until then stays.
pub fn heal(request: &HealRequest, console: &dyn Console) -> Result<HealOutcome, PipelineError> {
    machine::with_threads(request.threads, || heal_here(request, console))?
}

fn heal_here(request: &HealRequest, console: &dyn Console) -> Result<HealOutcome, PipelineError> {
    console.started(Stage::Load, &request.student.to_string());
    let student = Opened::new(&request.student, console)?;
    let teacher = request.teacher.as_ref().map(|source| Opened::new(source, console)).transpose()?;
    let spec = student.checkpoint.spec();
    if spec.image.is_some() {
        let reason = "texts, and the model reads images: a recipe with `data.images` and `heal` trains it".to_owned();
        return Err(HealError::Setting { key: "data", reason }.into());
    }
    let (part, seed) = (&request.settings, request.seed);
    let plan = part.plan(seed, LENGTH.min(spec.max_tokens), teacher.is_some())?;
    let origin = blocks(request, &student, teacher.as_ref())?;
    plan.check_models(spec, teacher.as_ref().map(|teacher| teacher.checkpoint.spec()), &origin)?;
    let mut key = StageKey::new(Stage::Heal.name())
        .with("student", &fingerprint(&student.checkpoint)?)
        .with_json("settings", &(part.identity(), plan.length, seed, &origin))?;
    if let Some(teacher) = &teacher {
        key = key.with("teacher", &fingerprint(&teacher.checkpoint)?);
    }
    console.finished(Stage::Load, &format!("{} parameters", taper_base::Parameters(parameter_count(spec))), false);
    let given = request.data.iter().map(|text| HealText { text: text.clone(), weight: 1.0 });
    let told: Vec<HealText> = part.texts.iter().cloned().chain(given).collect();
    let own: Vec<Documents> = told.iter().map(|text| documents(&text.text, console)).collect::<Result<_, _>>()?;
    let validation = validation(request, &own, console)?;
    for (index, text) in own.iter().chain([&validation]).enumerate() {
        key = key.with(&format!("text {index}"), &text.fingerprint());
    }
    let kept: HashSet<&str> = validation.all().iter().map(String::as_str).collect();
    let run = open(request, &key)?;
    let pack = Pack {
        shares: taper_data::Shares::new(0.0, 1.0, 0.0)?,
        ..Pack::new(Split::Validation, part.validation.sequences, plan.length, seed)
    };
    let tokenizer = TextTokenizer::load(&student.local.dir)?;
    let (tokens, vocab) = (tokenizer.vocabulary(), spec.vocab);
    if tokens > vocab {
        return Err(PipelineError::Vocabulary { dir: student.local.dir.clone(), tokens, vocab });
    }
    let texts: Vec<_> = own.iter().zip(&told).map(|(text, told)| others(text, told.weight, &kept)).collect();
    let material = || {
        let validation = validation_tokens(&validation, &tokenizer, &pack)?;
        Ok(Material::Text { tokenizer: &tokenizer, texts: texts.clone(), validation })
    };
    let healing = Healing {
        run: &run,
        console,
        plan: &plan,
        student: &student.local.dir,
        origin,
        material: &material,
        shard_bytes: crate::recipe::MaterialisePart::default().shard_size.0,
        settings: json!(part.identity()),
    };
    let load = || teacher.as_ref().map(|teacher| Model::load(&teacher.checkpoint)).transpose();
    let HealedCheckpoint { folder, report, .. } = healing.stage(&key, || Ok(load()?))?;
    Ok(HealOutcome { checkpoint: folder, report })
}

/// Which of the teacher's blocks each of the student's was.
fn blocks(request: &HealRequest, student: &Opened, teacher: Option<&Opened>) -> Result<Vec<usize>, PipelineError> {
    let own = student.checkpoint.spec().blocks.len();
    let (Some(teacher), None) = (teacher, &request.origin) else {
        return Ok(request.origin.clone().unwrap_or_else(|| (0..own).collect()));
    };
    let all = teacher.checkpoint.spec().blocks.len();
    let path = student.local.dir.join("kept_units.json");
    if path.is_file() {
        return Ok(origin(&read_json::<Selection>(&path)?));
    }
    if own == all {
        return Ok((0..own).collect());
    }
    let reason = format!(
        "the model has {own} blocks, its teacher {all}, and there is no {}: which of the teacher's was each? `--origin 0,1,3`",
        path.display()
    );
    Err(HealError::Setting { key: "origin", reason }.into())
}

/// The text to look at: its own, or the validation split of all others together.
fn validation(request: &HealRequest, own: &[Documents], console: &dyn Console) -> Result<Documents, PipelineError> {
    if let Some(text) = &request.validation {
        return documents(text, console);
    }
    let shares = shares()?;
    let all: Vec<String> =
        own.iter().flat_map(|text| text.of_split(&shares, Split::Validation)).map(str::to_owned).collect();
    let names: Vec<&str> = own.iter().map(Documents::name).collect();
    let name = format!("5% of {}", names.join(", "));
    if all.is_empty() {
        let reason = format!("{name} is no document at all; `--validation FILE` names a text of its own");
        return Err(HealError::Setting { key: "validation", reason }.into());
    }
    Ok(Documents::new(name, all)?)
}

/// The folder of the result, as `request.start` says.
fn open(request: &HealRequest, key: &StageKey) -> Result<RunDir, PipelineError> {
    let parent = request.out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = request.out.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let run = RunDir::open(parent, &name)?;
    let (result, work) = (run.path(Stage::Heal.name()), run.root().join("heal.work").join(key.fingerprint().short()));
    let done = run.done(key)?;
    match request.start {
        Start::Fresh => {
            for path in [&work, &result] {
                if path.exists() {
                    std::fs::remove_dir_all(path).map_err(io(path))?;
                }
            }
        }
        Start::Resume if !done && !work.exists() => {
            return Err(PipelineError::NothingToResume { dir: request.out.clone() });
        }
        Start::Continue | Start::Resume if !done && result.exists() => {
            return Err(PipelineError::OtherResult { dir: result });
        }
        _ => {}
    }
    Ok(run)
}
