//! What a training is to do, and with what.

use std::path::Path;
use std::sync::Arc;

use taper_arch::ModelSpec;
use taper_base::Fingerprint;
use taper_base::progress::Progress;
use taper_kernels::cuda::{Machine, Storage};
use taper_model::{Model, ModelError};

use crate::error::{HealError, Result};
use crate::losses::Aim;
use crate::material::Material;
use crate::noise::Noise;
use crate::objectives::{Teacher, View};
use crate::trained::Training;
use crate::{Corruptor, Optimizer, Schedule};

/// How to train.
pub struct Plan {
    /// Steps on the objectives.
    pub steps: u64,
    /// Steps before them in which blocks learn the original's blocks, each for itself; 0: none.
    pub local_steps: u64,
    /// Sequences a step.
    pub sequences: usize,
    /// Tokens a sequence, or an image.
    pub length: usize,
    /// Seed of everything random.
    pub seed: u64,
    /// What is to be made small.
    pub aims: Vec<Aim>,
    /// What is trained.
    pub training: Training,
    /// How gradients change parameters.
    pub optimizer: Box<dyn Optimizer>,
    /// Learning rate at its peak.
    pub rate: f64,
    /// That of the local steps.
    pub local_rate: f64,
    /// Its course.
    pub schedule: Box<dyn Schedule>,
    /// What becomes of a sequence.
    pub corruptor: Box<dyn Corruptor>,
    /// Whether documents of one sequence do not see one another.
    pub apart: bool,
    /// Largest norm of the gradient; a longer one is shortened.
    pub clip: Option<f64>,
    /// Noise added to the gradient.
    pub noise: Option<Noise>,
    /// Probability with which a sub-block's branch is dropped at the last step; it rises from 0.
    pub drop_path: f64,
    /// Steps from one look at the validation text to the next.
    pub validate_every: u64,
    /// Steps from one checkpoint to the next.
    pub checkpoint_every: u64,
    /// Minutes after which a checkpoint is written in any case.
    pub checkpoint_minutes: Option<f64>,
    /// Newest checkpoints kept.
    pub keep: usize,
    /// Whether the result is the checkpoint with the smallest validation loss, not the last.
    pub best: bool,
    /// Whether the teacher's likeliest tokens are written to disk before.
    pub cache: bool,
}

/// What a training works on.
pub struct Job<'a> {
    /// Reads the pruned model. It is asked for again if training brings nothing, so that no copy of it is kept.
    pub student: &'a (dyn Fn() -> std::result::Result<Model, ModelError> + Sync),
    /// The model it was cut from, where it is to run.
    pub teacher: Option<Model>,
    /// The machine that passes of the student run on, and the type of values there, which is the teacher's too; none is the CPU.
    pub machine: Option<(Arc<dyn Machine>, Storage)>,
    /// Which block of the teacher each block of the student was.
    pub origin: Vec<usize>,
    /// What is trained on, and what losses are told of.
    pub material: Material<'a>,
    /// Folder of progress: checkpoints, metrics, the teacher's cache. Made if it is not there.
    pub folder: &'a Path,
    /// Of all that the result depends on.
    pub identity: Fingerprint,
    /// Bytes of memory that activations may fill where passes run.
    pub memory: u64,
    /// Where progress is told.
    pub progress: &'a dyn Progress,
}

impl Job<'_> {
    /// `model` where passes run.
    pub(crate) fn placed(&self, model: &Model) -> Result<Model> {
        match &self.machine {
            Some((machine, storage)) => Ok(model.to_machine(machine, *storage)?),
            None => Ok(model.clone()),
        }
    }
}

impl Plan {
    /// What objectives compare with, each once.
    pub(crate) fn teachers(&self) -> Vec<Teacher> {
        let mut all: Vec<Teacher> = Vec::new();
        for aim in &self.aims {
            if let View::Logits(objective) = aim.objective.view()
                && !all.contains(&objective.teacher())
            {
                all.push(objective.teacher());
            }
        }
        all
    }

    /// Whether an objective looks into the teacher.
    pub(crate) fn looks_inside(&self) -> bool {
        self.aims.iter().any(|aim| !matches!(aim.objective.view(), View::Logits(_)))
    }

    /// Whether the original model has to be there.
    pub fn wants_teacher(&self) -> bool {
        let original = |teacher: &Teacher| matches!(teacher, Teacher::Original { .. });
        self.local_steps > 0 || self.looks_inside() || self.teachers().iter().any(original)
    }

    /// Bytes of the teacher's cache on disk, if there is to be one.
    pub fn cache_bytes(&self) -> Option<u64> {
        let top = self.teachers().into_iter().find_map(|teacher| match teacher {
            Teacher::Original { top, .. } => top,
            _ => None,
        });
        let tokens = self.steps * (self.sequences * self.length) as u64;
        top.filter(|_| self.cache).map(|top| tokens * crate::cache::bytes_per_token(top))
    }

    /// Checks what no single setting says.
    ///
    /// # Errors
    /// [`HealError::Setting`] naming the key.
    pub fn check(&self) -> Result<()> {
        let bad = |key, reason: String| Err(HealError::Setting { key, reason });
        if self.aims.is_empty() {
            return bad("objectives", "none, wanted one at least".to_owned());
        }
        if self.length < 2 || self.sequences == 0 {
            return bad(
                "length",
                format!("{} sequences of {} tokens, wanted 1 of 2 at least", self.sequences, self.length),
            );
        }
        for (key, rate) in [("rate", self.rate), ("local.rate", self.local_rate)] {
            if !(rate.is_finite() && rate > 0.0) {
                return bad(key, format!("{rate}, wanted more than 0"));
            }
        }
        if !(0.0..1.0).contains(&self.drop_path) {
            return bad("drop_path", format!("{}, wanted 0 or more and less than 1", self.drop_path));
        }
        if self.clip.is_some_and(|clip| !(clip.is_finite() && clip > 0.0)) {
            return bad("clip", "not above 0".to_owned());
        }
        if self.steps == 0 && self.local_steps == 0 {
            return bad("steps", "0, wanted 1 at least".to_owned());
        }
        for (key, every) in [("validation.every", self.validate_every), ("checkpoints.every", self.checkpoint_every)] {
            if every == 0 {
                return bad(key, "0 steps, wanted 1 at least".to_owned());
            }
        }
        let tops = |teacher: &Teacher| matches!(teacher, Teacher::Original { top: Some(_), .. });
        let originals = self.teachers().into_iter().filter(|teacher| matches!(teacher, Teacher::Original { .. }));
        let originals: Vec<Teacher> = originals.collect();
        if self.cache && !(originals.len() == 1 && originals.iter().all(tops)) {
            let reason = "wanted exactly one objective with `top: K`, whose K likeliest tokens can be kept".to_owned();
            return bad("cache", reason);
        }
        let voters = self.teachers().into_iter().filter(|teacher| matches!(teacher, Teacher::Voters { .. })).count();
        if voters > 1 {
            return bad("objectives", "self-distill twice with other settings, wanted once".to_owned());
        }
        Ok(())
    }

    /// Checks what depends on the models: the student's `spec`, the `teacher`'s if there is one, and which of its blocks each
    /// of the student's was.
    ///
    /// # Errors
    /// [`HealError::Setting`] naming the key.
    pub fn check_models(&self, spec: &ModelSpec, teacher: Option<&ModelSpec>, origin: &[usize]) -> Result<()> {
        let bad = |key, reason: String| Err(HealError::Setting { key, reason });
        if self.length > spec.max_tokens {
            return bad("length", format!("{}, the model knows positions of {} tokens", self.length, spec.max_tokens));
        }
        let Some(teacher) = teacher else {
            let none = "none, and an objective or `local` compares with it".to_owned();
            return if self.wants_teacher() { bad("teacher", none) } else { Ok(()) };
        };
        if teacher.vocab != spec.vocab {
            let (own, other) = (spec.vocab, teacher.vocab);
            return bad("teacher", format!("a vocabulary of {other} tokens, the model has {own}"));
        }
        let (own, other) = (spec.blocks.len(), teacher.blocks.len());
        if origin.len() != own || !origin.is_sorted_by(|a, b| a < b) || origin.iter().any(|block| *block >= other) {
            let wanted =
                format!("wanted {own} ascending numbers below {other}: which of the teacher's blocks each was");
            return bad("origin", format!("{origin:?}, {wanted}"));
        }
        Ok(())
    }
}
