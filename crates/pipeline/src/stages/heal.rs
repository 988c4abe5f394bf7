//! Heal: the pruned checkpoint is trained on text, by the original or by itself, and written as it was read.
//!
//! What the training needs to go on after a kill lies in `heal.work/<key>` beside the stage's folder; checkpoints and the
//! teacher's cache are removed once the result is in its place, metrics stay. The result has, beside the model, `heal.json`
//! (numbers and the curve), `loss.svg`, and with adapters `adapter/` for `peft`.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use taper_arch::Selection;
use taper_base::{Bytes, Fingerprint};
use taper_data::{DataError, Documents, FeedText, Pack, Shares, Split, TextTokenizer, Tokens, pack};
use taper_export::transformers;
use taper_heal::{Job, Material, Metric, Plan, Summary, read_metrics};
use taper_kernels::cuda::Storage;
use taper_model::{Checkpoint, Model, save};

use super::{read_json, write_json};
use crate::context::{Context, documents};
use crate::data::Content;
use crate::device::Gpu;
use crate::error::{finite, io};
use crate::plot::{Curve, loss_plot};
use crate::recipe::HealPart;
use crate::run_dir::RunDir;
use crate::stage::StageKey;
use crate::stages::materialise;
use crate::{Console, Outcome, PipelineError, Stage, machine};

/// What a healing came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealReport {
    /// In numbers.
    pub summary: Summary,
    /// Share of the loss that pruning cost which healing has brought back; none without a teacher, or if pruning cost nothing.
    pub recovered: Option<f64>,
    /// Steps on the objectives and their weighted loss; of long trainings the mean of neighbours, 500 points at most.
    pub curve: Vec<(u64, f64)>,
    /// Steps and loss of the next token on the validation text, that before the first step included.
    pub validation: Vec<(u64, f64)>,
}

/// A pruned model, and what it is to be trained with.
pub(crate) struct Healing<'a> {
    pub(crate) run: &'a RunDir,
    pub(crate) console: &'a dyn Console,
    pub(crate) plan: &'a Plan,
    /// The pruned model's folder.
    pub(crate) student: &'a Path,
    /// Of the teacher's blocks, which each of the student's was.
    pub(crate) origin: Vec<usize>,
    /// What is trained on and what losses are told of, made if there is work.
    pub(crate) material: &'a dyn Fn() -> Result<Material<'a>, PipelineError>,
    /// Where passes run; none is the CPU.
    pub(crate) gpu: Option<&'a Gpu>,
    /// Largest file of weights.
    pub(crate) shard_bytes: u64,
    /// The section, for `taper.lock`.
    pub(crate) settings: Value,
}

/// The healed checkpoint: its folder, and the key it was made for.
pub(crate) struct HealedCheckpoint {
    pub(crate) folder: PathBuf,
    pub(crate) key: Fingerprint,
    pub(crate) report: HealReport,
}

/// The stage of a recipe that has a `heal` section.
pub(crate) fn heal(context: &Context<'_>, part: &HealPart, pruned: &Path) -> Result<HealedCheckpoint, PipelineError> {
    let recipe = context.recipe;
    let length = context.spec.image.map_or(recipe.data.length, |image| image.tokens());
    let plan = part.plan(recipe.seed, length, true)?;
    let key = StageKey::new(Stage::Heal.name())
        .with("materialise", &materialise::key(context)?.fingerprint())
        .with("text", &context.data.fingerprint)
        .with_json("shares", &recipe.data.shares)?
        .with_json("settings", &(part.identity(), plan.length, recipe.seed))?;
    let stage = Staged { context, part, plan: &plan, pruned };
    match &context.data.content {
        Content::Text(text) => stage.texts(text, key),
        Content::Images(images) => stage.run(&key, &|| images.material((&recipe.data.shares, None), (part, &plan))),
    }
}

/// A recipe's healing.
#[derive(Clone, Copy)]
struct Staged<'a> {
    context: &'a Context<'a>,
    part: &'a HealPart,
    plan: &'a Plan,
    pruned: &'a Path,
}

impl Staged<'_> {
    fn run<'m>(
        &'m self,
        key: &StageKey,
        material: &'m dyn Fn() -> Result<Material<'m>, PipelineError>,
    ) -> Result<HealedCheckpoint, PipelineError> {
        let Self { context, part, plan, pruned } = *self;
        let healing = Healing {
            run: context.run,
            console: context.console,
            plan,
            student: pruned,
            origin: origin(&read_json::<Selection>(&pruned.join("kept_units.json"))?),
            material,
            gpu: context.gpu.as_ref(),
            shard_bytes: context.recipe.materialise.shard_size.0,
            settings: json!(part.identity()),
        };
        healing.stage(key, || plan.wants_teacher().then(|| context.stored()).transpose())
    }

    /// Of a language model.
    fn texts(&self, text: &Documents, mut key: StageKey) -> Result<HealedCheckpoint, PipelineError> {
        let Self { context, part, plan, .. } = *self;
        let recipe = context.recipe;
        let own: Vec<Documents> =
            part.texts.iter().map(|text| documents(&text.text, context.console)).collect::<Result<_, _>>()?;
        let judged = recipe.eval.text.as_ref().map(|text| documents(text, context.console)).transpose()?;
        for (index, text) in own.iter().chain(&judged).enumerate() {
            key = key.with(&format!("text {index}"), &text.fingerprint());
        }
        let splits = [Split::Validation, Split::Test].map(|split| text.of_split(&recipe.data.shares, split));
        let kept: HashSet<&str> =
            splits.into_iter().flatten().chain(judged.iter().flat_map(Documents::all).map(String::as_str)).collect();
        let feeds: Vec<FeedText<'_>> = if own.is_empty() {
            let all = text.of_split(&recipe.data.shares, Split::Calibration);
            vec![FeedText { name: text.name().to_owned(), documents: all, weight: 1.0 }]
        } else {
            own.iter().zip(&part.texts).map(|(text, told)| others(text, told.weight, &kept)).collect()
        };
        let wanted =
            Pack { sequences: part.validation.sequences, length: plan.length, ..context.pack(Split::Validation) };
        self.run(&key, &|| {
            let tokenizer = context.tokenizer()?;
            Ok(Material::Text {
                tokenizer,
                texts: feeds.clone(),
                validation: validation_tokens(text, tokenizer, &wanted)?,
            })
        })
    }
}

/// Those documents of `text` to train on that are not in `kept`.
pub(crate) fn others<'a>(text: &'a Documents, weight: f64, kept: &HashSet<&str>) -> FeedText<'a> {
    let documents = text.all().iter().map(String::as_str).filter(|document| !kept.contains(document)).collect();
    FeedText { name: text.name().to_owned(), documents, weight }
}

/// Which blocks are still there: those with one half at least.
pub(crate) fn origin(kept: &Selection) -> Vec<usize> {
    let there = kept.blocks.iter().enumerate().filter(|(_, block)| block.attention.is_some() || block.mlp.is_some());
    there.map(|(index, _)| index).collect()
}

impl Healing<'_> {
    /// Trains, unless that is done, and reads what came of it; `teacher` is asked for only if there is work.
    pub(crate) fn stage(
        &self,
        key: &StageKey,
        teacher: impl FnOnce() -> Result<Option<Model>, PipelineError>,
    ) -> Result<HealedCheckpoint, PipelineError> {
        let (stage, plan) = (Stage::Heal, self.plan);
        let names: Vec<&str> = plan.aims.iter().map(|aim| aim.name.as_str()).collect();
        let tokens = plan.sequences * plan.length;
        let cache = plan.cache_bytes().map(|bytes| format!("; the teacher's cache takes {}", Bytes(bytes)));
        let what = format!("{} steps of {tokens} tokens, {}", plan.steps, names.join(" + "));
        self.console.started(stage, &(what + &cache.unwrap_or_default()));
        let identity = key.fingerprint();
        let work = self.run.root().join("heal.work").join(identity.short());
        let outcome = self.run.run(key, |dir| self.work((&work, &identity), dir, teacher()?))?;
        for name in ["checkpoints", "teacher.bin", "teacher.json"] {
            remove(&work.join(name))?;
        }
        let folder = self.run.path(stage.name());
        let report: HealReport = read_json(&folder.join("heal.json"))?;
        self.console.finished(stage, &report.line(), outcome == Outcome::Skipped);
        Ok(HealedCheckpoint { folder, key: identity, report })
    }

    fn work(
        &self,
        (work, identity): (&Path, &Fingerprint),
        dir: &Path,
        teacher: Option<Model>,
    ) -> Result<(), PipelineError> {
        let checkpoint = Checkpoint::open(self.student)?;
        fs::create_dir_all(work).map_err(io(work))?;
        let storage = Storage::of_bytes(checkpoint.spec().dtype_bytes);
        let memory = match self.gpu {
            None => machine::memory_to_use(),
            Some(gpu) => gpu.memory_to_heal(checkpoint.spec(), &self.plan.training, teacher.as_ref().map(Model::spec)),
        };
        let teacher = match (teacher, self.gpu) {
            (Some(teacher), Some(gpu)) => Some(gpu.hold_as(&teacher, storage)?),
            (teacher, _) => teacher,
        };
        let job = Job {
            student: &|| Model::load(&Checkpoint::open(self.student)?),
            teacher,
            machine: self.gpu.map(|gpu| (Arc::clone(gpu.machine()), storage)),
            origin: self.origin.clone(),
            material: (self.material)()?,
            folder: work,
            identity: identity.clone(),
            memory,
            progress: self.console,
        };
        let healed = taper_heal::heal(&job, self.plan)?;
        finite(healed.summary.after, || "the loss of the healed model".to_owned())?;
        save(&healed.model, dir, checkpoint.stored_type(), self.shard_bytes)?;
        transformers::write(dir, healed.model.spec(), self.student, checkpoint.config())?;
        for name in ["architecture.json", "kept_units.json"] {
            let from = self.student.join(name);
            if from.is_file() {
                let bytes = fs::read(&from).map_err(io(&from))?;
                taper_base::files::write(&dir.join(name), &bytes).map_err(io(dir.join(name)))?;
            }
        }
        let lock = self.student.join("taper.lock");
        let mut lock: Value = if lock.is_file() { read_json(&lock)? } else { json!({}) };
        lock["heal"] = json!({"settings": self.settings, "seed": self.plan.seed, "key": identity});
        write_json(&dir.join("taper.lock"), &lock)?;
        let adapter = dir.join("adapter");
        fs::create_dir(&adapter).map_err(io(&adapter))?;
        if !healed.write_adapters(&adapter, "")? {
            fs::remove_dir(&adapter).map_err(io(&adapter))?;
        }
        let report = HealReport::new(healed.summary, &read_metrics(&work.join("metrics.jsonl"))?);
        write_json(&dir.join("heal.json"), &report)?;
        loss_plot(&dir.join("loss.svg"), &report.curves(), report.summary.teacher)
    }
}

/// As many sequences as wanted, or as there are.
pub(crate) fn validation_tokens(
    documents: &Documents,
    tokenizer: &TextTokenizer,
    wanted: &Pack,
) -> Result<Tokens, PipelineError> {
    match pack(documents, tokenizer, wanted) {
        Err(DataError::TooShort { found, .. }) if found >= wanted.length => {
            Ok(pack(documents, tokenizer, &Pack { sequences: found / wanted.length, ..wanted.clone() })?)
        }
        other => Ok(other?),
    }
}

/// How a text of a healing that has no recipe is split: 95% to train on, 5% to look at on the way.
pub(crate) fn shares() -> Result<Shares, PipelineError> {
    Ok(Shares::new(0.95, 0.05, 0.0)?)
}

fn remove(path: &Path) -> Result<(), PipelineError> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(io(path)),
    }
}

impl HealReport {
    fn new(summary: Summary, metrics: &[Metric]) -> Self {
        const POINTS: usize = 500;
        let of = |value: fn(&Metric) -> Option<f64>| -> Vec<(u64, f64)> {
            let all = metrics.iter().filter(|metric| metric.phase == "global");
            all.filter_map(|metric| Some((metric.step, value(metric)?))).collect()
        };
        let losses = of(|metric| metric.loss);
        let mean = |points: &[(u64, f64)]| {
            let sum: f64 = points.iter().map(|(_, loss)| loss).sum();
            (points.last().map_or(0, |(step, _)| *step), sum / points.len() as f64)
        };
        let together = losses.len().div_ceil(POINTS).max(1);
        let validation = [(0, summary.before)].into_iter().chain(of(|metric| metric.validation)).collect();
        let lost = summary.teacher.map(|teacher| summary.before - teacher).filter(|lost| *lost > 0.0);
        let recovered = lost.map(|lost| (summary.before - summary.after) / lost);
        Self { recovered, curve: losses.chunks(together).map(mean).collect(), validation, summary }
    }

    /// In a line.
    pub fn line(&self) -> String {
        let Summary { before, after, teacher, tokens, result, .. } = &self.summary;
        let line = teacher.map(|teacher| format!(" (original {teacher:.4})")).unwrap_or_default();
        let share =
            self.recovered.map(|share| format!(", {:.1}% of the gap closed", 100.0 * share)).unwrap_or_default();
        format!("validation loss {before:.4} -> {after:.4}{line}{share}; step {result}, {tokens} tokens seen")
    }

    fn curves(&self) -> [Curve<'_>; 2] {
        [
            Curve { name: "objectives", points: &self.curve },
            Curve { name: "validation, next token", points: &self.validation },
        ]
    }
}
