//! `taper heal`: any checkpoint is trained, without a recipe.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;
use taper_arch::Selection;
use taper_data::images::ImageSource;
use taper_data::{Documents, Pack, Split, TextSource, TextTokenizer};
use taper_heal::{HealError, Material, Plan};
use taper_hub::{LocalModel, ModelSource};
use taper_model::{Checkpoint, Model, parameter_count};

use crate::context::documents;
use crate::data::ImageData;
use crate::device::{self, Gpu};
use crate::error::io;
use crate::recipe::{Device, HealPart, HealText};
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

/// What to train on, and what to look at on the way; none of that: 5% of the documents or images.
#[derive(Debug, Clone)]
pub enum HealData {
    /// Texts, besides those of the settings, of weight 1 each.
    Texts(Vec<TextSource>, Option<TextSource>),
    /// Images.
    Images(ImageSource, Option<ImageSource>),
}

/// A checkpoint to train, and how.
#[derive(Debug, Clone)]
pub struct HealRequest {
    /// Which.
    pub student: ModelSource,
    /// The model it was cut from.
    pub teacher: Option<ModelSource>,
    /// On what.
    pub data: HealData,
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
    /// Where passes run; of classifiers of images on the CPU.
    pub device: Device,
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
    let (part, seed) = (&request.settings, request.seed);
    if let (HealData::Texts(..), Some(_)) = (&request.data, spec.image) {
        return Err(PipelineError::OtherData { reads: "images", given: "--data" });
    }
    if let Some((key, what)) = part.misplaced(spec.image.is_some()) {
        let reads = if spec.image.is_some() { "images" } else { "text" };
        let reason = format!("{what}, but the model reads {reads}");
        return Err(HealError::Setting { key, reason }.into());
    }
    let length = spec.image.map_or(LENGTH.min(spec.max_tokens), |image| image.tokens());
    let plan = part.plan(seed, length, teacher.is_some())?;
    let origin = blocks(request, &student, teacher.as_ref())?;
    plan.check_models(spec, teacher.as_ref().map(|teacher| teacher.checkpoint.spec()), &origin)?;
    let mut key = StageKey::new(Stage::Heal.name())
        .with("student", &fingerprint(&student.checkpoint)?)
        .with_json("settings", &(part.identity(), plan.length, seed, &origin))?;
    if let Some(teacher) = &teacher {
        key = key.with("teacher", &fingerprint(&teacher.checkpoint)?);
    }
    let gpu = match (spec.image, request.device) {
        (Some(_), Device::Cuda) => {
            let reason = "cuda, but classifiers of images are trained on the CPU".to_owned();
            return Err(HealError::Setting { key: "device", reason }.into());
        }
        (Some(_), _) => None,
        (None, device) => device::open(device)?,
    };
    if let Some(gpu) = &gpu {
        key = key.with_json("device", &gpu.name)?; // it rounds in its own way
    }
    let on = gpu.as_ref().map(|gpu| format!("; on the {}", gpu.name)).unwrap_or_default();
    let loaded = format!("{} parameters{on}", taper_base::Parameters(parameter_count(spec)));
    console.finished(Stage::Load, &loaded, false);
    let work = Work { request, console, plan: &plan, student: &student, teacher: teacher.as_ref(), origin, gpu };
    match &request.data {
        HealData::Texts(data, validation) => work.texts(key, data, validation.as_ref()),
        HealData::Images(data, validation) => work.images(key, (data, validation.as_ref())),
    }
}

/// A training that is about to begin.
struct Work<'a> {
    request: &'a HealRequest,
    console: &'a dyn Console,
    plan: &'a Plan,
    student: &'a Opened,
    teacher: Option<&'a Opened>,
    origin: Vec<usize>,
    gpu: Option<Gpu>,
}

impl Work<'_> {
    /// Trains on `material`, unless that is done.
    fn run<'m>(
        &'m self,
        (key, run): (&StageKey, &'m RunDir),
        material: &'m dyn Fn() -> Result<Material<'m>, PipelineError>,
    ) -> Result<HealOutcome, PipelineError> {
        let healing = Healing {
            run,
            console: self.console,
            plan: self.plan,
            student: &self.student.local.dir,
            origin: self.origin.clone(),
            material,
            gpu: self.gpu.as_ref(),
            shard_bytes: crate::recipe::MaterialisePart::default().shard_size.0,
            settings: json!(self.request.settings.identity()),
        };
        let load = || self.teacher.map(|teacher| Model::load(&teacher.checkpoint)).transpose();
        let HealedCheckpoint { folder, report, .. } = healing.stage(key, || Ok(load()?))?;
        Ok(HealOutcome { checkpoint: folder, report })
    }

    fn images(
        &self,
        mut key: StageKey,
        (data, validation): (&ImageSource, Option<&ImageSource>),
    ) -> Result<HealOutcome, PipelineError> {
        let Opened { local, checkpoint } = self.student;
        let open = |source| match checkpoint.spec().image {
            Some(image) => ImageData::open(source, (&local.dir, image), self.console),
            None => Err(PipelineError::OtherData { reads: "text", given: "--images" }),
        };
        let (own, looked) = (open(data)?, validation.map(open).transpose()?);
        for (index, images) in [&own].into_iter().chain(&looked).enumerate() {
            key = key.with(&format!("images {index}"), &images.images.fingerprint()?);
        }
        let run = open_folder(self.request, &key)?;
        let material = || own.material((&shares()?, looked.as_ref()), (&self.request.settings, self.plan));
        self.run((&key, &run), &material)
    }

    fn texts(
        &self,
        mut key: StageKey,
        data: &[TextSource],
        validation: Option<&TextSource>,
    ) -> Result<HealOutcome, PipelineError> {
        let Self { request, console, plan, student, .. } = *self;
        let part = &request.settings;
        let given = data.iter().map(|text| HealText { text: text.clone(), weight: 1.0 });
        let told: Vec<HealText> = part.texts.iter().cloned().chain(given).collect();
        let own: Vec<Documents> = told.iter().map(|text| documents(&text.text, console)).collect::<Result<_, _>>()?;
        let validation = match validation {
            Some(text) => documents(text, console)?,
            None => some_of(&own)?,
        };
        for (index, text) in own.iter().chain([&validation]).enumerate() {
            key = key.with(&format!("text {index}"), &text.fingerprint());
        }
        let kept: HashSet<&str> = validation.all().iter().map(String::as_str).collect();
        let run = open_folder(request, &key)?;
        let pack = Pack {
            shares: taper_data::Shares::new(0.0, 1.0, 0.0)?,
            ..Pack::new(Split::Validation, part.validation.sequences, plan.length, request.seed)
        };
        let tokenizer = TextTokenizer::load(&student.local.dir)?;
        let (tokens, vocab) = (tokenizer.vocabulary(), student.checkpoint.spec().vocab);
        if tokens > vocab {
            return Err(PipelineError::Vocabulary { dir: student.local.dir.clone(), tokens, vocab });
        }
        let texts: Vec<_> = own.iter().zip(&told).map(|(text, told)| others(text, told.weight, &kept)).collect();
        let material = || {
            let validation = validation_tokens(&validation, &tokenizer, &pack)?;
            Ok(Material::Text { tokenizer: &tokenizer, texts: texts.clone(), validation })
        };
        self.run((&key, &run), &material)
    }
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

/// The validation split of all texts together, to look at.
fn some_of(own: &[Documents]) -> Result<Documents, PipelineError> {
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
fn open_folder(request: &HealRequest, key: &StageKey) -> Result<RunDir, PipelineError> {
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
