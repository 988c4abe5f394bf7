//! A training from end to end: the teacher's cache, blocks each for itself, then the whole model.

use serde::{Deserialize, Serialize};
use taper_arch::ModelSpec;
use taper_model::{Model, Parameter, Place};

use crate::cache::{Cache, bytes_per_token};
use crate::error::{HealError, Result, file};
use crate::guide::tops;
use crate::material::{Source, loss_of};
use crate::objectives::Teacher;
use crate::plan::{Job, Plan};
use crate::trained::{Trained, Training};
use crate::trainer::{Phase, Trainer};

/// Tokens of one forward pass, unless a sequence has more.
pub const TOKENS: usize = 4096;

/// What a training came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// Numbers that were trained.
    pub trained: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Steps of the whole model.
    pub steps: u64,
    /// Loss of the next token on the validation text before, in nats.
    pub before: f64,
    /// After: of the result.
    pub after: f64,
    /// The teacher's: the line to reach.
    pub teacher: Option<f64>,
    /// The step that the result is of; 0: training brought nothing, and the result is what there was before it.
    pub result: u64,
    /// Times that each text was read through.
    pub epochs: Vec<u64>,
}

/// A healed model.
pub struct Healed {
    /// The result; adapters are merged.
    pub model: Model,
    /// As it was trained, for its adapters.
    trained: Trained,
    /// In numbers.
    pub summary: Summary,
}

impl Healed {
    /// Writes the adapters into the existing folder `dir`, as `peft` loads them; whether there are any.
    ///
    /// # Errors
    /// [`HealError::File`].
    pub fn write_adapters(&self, dir: &std::path::Path, base: &str) -> Result<bool> {
        crate::trained::write_adapters(&self.trained, dir, base)
    }
}

/// Trains `job.student` as `plan` says. What an earlier call in the same folder has done is not done again.
///
/// # Errors
/// [`HealError`]; the last checkpoint stays, and the next call goes on from it.
pub fn heal(job: &Job<'_>, plan: &Plan) -> Result<Healed> {
    plan.check()?;
    let student = (job.student)()?;
    job.material.check(student.spec())?;
    plan.check_models(student.spec(), job.teacher.as_ref().map(Model::spec), &job.origin)?;
    std::fs::create_dir_all(job.folder).map_err(file(job.folder))?;
    own(job)?;
    let before = loss_of(&job.placed(&student)?, job)?;
    let teacher = job.teacher.as_ref().map(|teacher| loss_of(teacher, job)).transpose()?;
    let cache = plan.cache.then(|| fill(job, plan, student.spec().vocab)).transpose()?;
    let mut trainer = Trainer::new(job, plan, (Phase::Global, begin(job, plan, student)?), cache.as_ref())?;
    trainer.run()?;
    let (tokens, epochs) = trainer.progress();
    let (result, trained) = trainer.finish(|| begin(job, plan, (job.student)()?))?;
    let (model, count) = (trained.model().clone(), trained.count());
    let after = loss_of(&job.placed(&model)?, job)?;
    let steps = plan.steps;
    let summary = Summary { trained: count, tokens, steps, before, after, teacher, result, epochs };
    Ok(Healed { model, trained, summary })
}

/// `student` ready for the steps of the whole model: with local steps, after them.
fn begin(job: &Job<'_>, plan: &Plan, student: Model) -> Result<Trained> {
    let begun = |student: Model| -> Result<Trained> {
        let training = Training::Parameters(vec![blocks_of(student.spec())]);
        Trained::new(student, &training, (&*plan.optimizer, plan.seed), job.machine.as_ref())
    };
    let student = if plan.local_steps == 0 {
        student
    } else {
        let mut trainer = Trainer::new(job, plan, (Phase::Local, begun(student)?), None)?;
        trainer.run()?;
        trainer.finish(|| begun((job.student)()?))?.1.model().clone()
    };
    Trained::new(student, &plan.training, (&*plan.optimizer, plan.seed), job.machine.as_ref())
}

/// A pattern of all parameters of blocks.
fn blocks_of(spec: &ModelSpec) -> String {
    let name = Place::of(0, Parameter::Q).name(spec);
    format!("{}.*", name.split_once(".0.").map_or(name.as_str(), |(blocks, _)| blocks))
}

/// Refuses a folder that another training has begun in.
fn own(job: &Job<'_>) -> Result<()> {
    let path = job.folder.join("training.json");
    match std::fs::read(&path) {
        Ok(bytes) if serde_json::from_slice(&bytes).ok().as_ref() == Some(&job.identity) => Ok(()),
        Ok(_) => {
            Err(HealError::Other { path: job.folder.to_owned(), key: "a setting, the text or a model".to_owned() })
        }
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
            taper_base::files::write_json(&path, &job.identity).map_err(file(&path))
        }
        Err(cause) => Err(HealError::File { path, cause }),
    }
}

/// Writes what is missing of the teacher's likeliest tokens.
fn fill(job: &Job<'_>, plan: &Plan, own: usize) -> Result<Cache> {
    let wanted = plan.teachers().into_iter().find_map(|teacher| match teacher {
        Teacher::Original { temperature, top: Some(top) } => Some((temperature, top)),
        _ => None,
    });
    let (Some((temperature, top)), Some(teacher)) = (wanted, &job.teacher) else {
        return Err(HealError::Setting { key: "cache", reason: "no teacher whose tokens could be kept".to_owned() });
    };
    let vocab = teacher.spec().vocab;
    if top == 0 || top > vocab {
        return Err(HealError::Setting { key: "top", reason: format!("{top}, wanted 1 to {vocab}") });
    }
    // predictions of an example
    let sequence = if teacher.spec().image.is_some() { 1 } else { plan.length as u64 };
    let total = plan.steps * plan.sequences as u64;
    let cache = Cache::open(job.folder, &job.identity, top, total * sequence)?;
    let known = cache.known()? / sequence;
    cache.cut(known * sequence)?;
    let bytes = taper_base::Bytes(total * sequence * bytes_per_token(top));
    job.progress.begin(&format!("teacher's {top} likeliest tokens, {bytes}"), total);
    job.progress.advance(known, "");
    let mut source = Source::new(job, plan, own, (None, 0))?;
    source.skip(known)?;
    let together = (TOKENS / plan.length).max(1) as u64;
    let mut at = known;
    while at < total {
        let count = together.min(total - at);
        let examples = source.examples(at, count)?;
        let pass =
            teacher.pass(examples.batch()?, taper_model::PassOptions::to_head(taper_model::Recompute::Insides))?;
        let hidden = teacher.read(&pass)?;
        let head = teacher.output_head()?;
        let mut failed = Ok(());
        taper_kernels::logits_in_pieces(&hidden, &head, |start, logits| {
            let found = tops(logits, vocab, temperature, top);
            if failed.is_ok() {
                failed = cache.append(at * sequence + start as u64, &found);
            }
            Ok(())
        })?;
        failed?;
        at += count;
        job.progress.advance(count, "");
    }
    job.progress.end();
    Ok(cache)
}
