//! The `heal` section of a recipe: how the pruned model is trained. Its docs are the schema's.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use taper_data::TextSource;
use taper_data::images::Augment;
use taper_heal::{
    AdapterSettings, Aim, HealError, Noise, Plan, Training, corruptors, objectives, optimizers, schedules,
};

use super::error::Source;
use super::{Method, RecipeError, locate, read_text};
use crate::PipelineError;

/// How the pruned model is trained before it is judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HealPart {
    /// Steps on the objectives.
    pub steps: u64,
    /// Sequences a step.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub sequences: usize,
    /// Tokens a sequence; left out: `data.length`.
    #[schemars(range(min = 2, max = 1_048_576))]
    pub length: Option<usize>,
    /// What is to be made small, each with a `weight` (1 if left out): `[{logit-kl: {temperature: 2}}, {cross-entropy:
    /// {weight: 0.5}}]`. Left out: `logit-kl` and half of `cross-entropy`, or that alone where there is no teacher.
    pub objectives: Vec<Method>,
    /// How gradients change weights: `adamw`, `muon: {momentum: 0.95}`.
    pub optimizer: Method,
    /// Learning rate at its peak.
    pub rate: f64,
    /// Course of the learning rate: `cosine: {warmup: 0.05}`.
    pub schedule: Method,
    /// What is trained: patterns of parameter names, such as `model.layers.*`. Not with `lora`.
    pub train: Vec<String>,
    /// Low-rank adapters are trained instead of the weights, and merged at the end.
    pub lora: Option<LoraPart>,
    /// Before all else, blocks learn the original's blocks, each for itself.
    pub local: Option<LocalPart>,
    /// Texts to train on by their weights; left out: the calibration split of `data`. Documents that the result is
    /// judged on are left out of them.
    pub texts: Vec<HealText>,
    /// What becomes of a sequence: `causal`, or `ul2`.
    pub corruptor: Method,
    /// What is done to an image at random: `{shift: 4, mirror: true, mixup: 0.2}`.
    #[serde(skip_serializing_if = "nothing")]
    pub augment: Augment,
    /// Whether documents packed into one sequence do not see one another.
    pub apart: bool,
    /// Largest norm of the gradient; a longer one is shortened. null: none.
    pub clip: Option<f64>,
    /// Noise added to gradients.
    #[schemars(with = "Option<NoisePart>")]
    pub noise: Option<NoisePart>,
    /// Probability with which a sub-block's output is left out at the last step; it rises from 0.
    #[schemars(range(min = 0, max = 1))]
    pub drop_path: f64,
    /// Looks at the validation split.
    pub validation: ValidationPart,
    /// What is kept on the way.
    pub checkpoints: CheckpointsPart,
    /// Whether the result is the checkpoint with the smallest validation loss, rather than the last.
    pub best: bool,
    /// Whether the teacher's likeliest tokens are written to disk once, so that no step runs it; for one objective with `top`.
    pub cache: bool,
}

impl Default for HealPart {
    fn default() -> Self {
        Self {
            steps: 300,
            sequences: 16,
            length: None,
            objectives: Vec::new(),
            optimizer: Method::new("adamw"),
            rate: 3e-4,
            schedule: Method::new("cosine"),
            train: vec!["*".to_owned()],
            lora: None,
            local: None,
            texts: Vec::new(),
            corruptor: Method::new("causal"),
            augment: Augment::default(),
            apart: true,
            clip: Some(1.0),
            noise: None,
            drop_path: 0.0,
            validation: ValidationPart::default(),
            checkpoints: CheckpointsPart::default(),
            best: true,
            cache: false,
        }
    }
}

fn nothing(augment: &Augment) -> bool {
    *augment == Augment::default()
}

/// Low-rank adapters: `W + alpha / rank · B A`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoraPart {
    /// Rank of the adapters.
    #[schemars(range(min = 1))]
    pub rank: usize,
    /// Their weight, times the rank.
    pub alpha: f64,
    /// Patterns of the matrices that have one.
    pub targets: Vec<String>,
    /// `DoRA`: each output's magnitude is trained, too.
    pub dora: bool,
}

impl Default for LoraPart {
    fn default() -> Self {
        Self { rank: 16, alpha: 32.0, targets: vec!["*_proj.weight".to_owned()], dora: false }
    }
}

/// Blocks that learn the original's blocks, each for itself.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LocalPart {
    /// Steps.
    #[schemars(range(min = 1))]
    pub steps: u64,
    /// Learning rate at its peak.
    pub rate: f64,
}

impl Default for LocalPart {
    fn default() -> Self {
        Self { steps: 100, rate: 1e-3 }
    }
}

/// A text to train on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HealText {
    /// Where it is; relative paths start at the recipe's folder.
    pub text: TextSource,
    /// Its share of the sequences, relative to the others'.
    #[serde(default = "one")]
    pub weight: f64,
}

fn one() -> f64 {
    1.0
}

/// Noise of variance `eta / (1 + step)^gamma`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoisePart {
    /// Variance at the first step.
    pub eta: f64,
    /// How fast it falls.
    #[serde(default = "gamma")]
    pub gamma: f64,
}

fn gamma() -> f64 {
    0.55
}

/// Looks at the validation split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ValidationPart {
    /// Steps from one to the next.
    #[schemars(range(min = 1))]
    pub every: u64,
    /// Sequences, or as many as there are.
    #[schemars(range(min = 1))]
    pub sequences: usize,
}

impl Default for ValidationPart {
    fn default() -> Self {
        Self { every: 50, sequences: 32 }
    }
}

/// What is kept on the way; the result does not depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointsPart {
    /// Steps from one checkpoint to the next.
    #[schemars(range(min = 1))]
    pub every: u64,
    /// Minutes after which one is written in any case. null: never.
    pub minutes: Option<f64>,
    /// Newest ones kept, besides the best.
    #[schemars(range(min = 1))]
    pub keep: usize,
}

impl Default for CheckpointsPart {
    fn default() -> Self {
        Self { every: 100, minutes: Some(10.0), keep: 2 }
    }
}

/// The weight of an objective, and its parameters without it.
pub(crate) fn weighted(objective: &Method) -> Result<(f64, Value), String> {
    let mut params = objective.params.clone();
    let weight = params.as_object_mut().and_then(|params| params.remove("weight"));
    match weight.as_ref().map(Value::as_f64) {
        None => Ok((1.0, params)),
        Some(Some(weight)) if weight.is_finite() && weight > 0.0 => Ok((weight, params)),
        Some(_) => Err(format!("weight is {}, wanted a number above 0", weight.unwrap_or_default())),
    }
}

impl HealPart {
    /// The objectives, those of a section that names none included.
    pub(crate) fn objectives(&self, teacher: bool) -> Vec<Method> {
        match (&self.objectives[..], teacher) {
            ([], true) => {
                // the best of four on two models at two budgets: docs/LOG.md
                let params = serde_json::json!({"weight": 0.5});
                vec![Method::new("logit-kl"), Method { name: "cross-entropy".to_owned(), params }]
            }
            ([], false) => vec![Method::new("cross-entropy")],
            (given, _) => given.to_vec(),
        }
    }

    /// The section in the YAML file `path`, if there is one, with `overrides`: keys and their values as YAML.
    ///
    /// # Errors
    /// [`RecipeError`] with the place in the file; of an override with its key.
    pub fn from_settings(path: Option<&Path>, overrides: &[(String, String)]) -> Result<Self, RecipeError> {
        let mut part = Self::default();
        if let Some(path) = path {
            let text = read_text(path)?;
            let mut found: Self = locate::yaml(&Source { path, text: &text })?;
            let folder = path.parent().unwrap_or(Path::new(""));
            found.texts.iter_mut().for_each(|text| text.text = text.text.clone().based_at(folder));
            part = found;
        }
        let place = Path::new("--set");
        for (key, value) in overrides {
            let text = format!("{key}: {value}\n");
            let source = Source { path: place, text: &text };
            locate::yaml::<Self>(&source)?; // a fault has its place
            let one: serde_json::Map<String, Value> = locate::yaml(&source)?;
            let fault = |cause: serde_json::Error| source.fault(None, cause.to_string());
            let mut all = serde_json::to_value(&part).map_err(fault)?;
            for (key, value) in one {
                all[key] = value;
            }
            part = serde_json::from_value(all).map_err(fault)?;
        }
        Ok(part)
    }

    /// A key that belongs to text where there are images, or the other way round, and what it is.
    pub(crate) fn misplaced(&self, images: bool) -> Option<(&'static str, &'static str)> {
        match self {
            Self { texts, .. } if images && !texts.is_empty() => Some(("texts", "texts")),
            Self { length: Some(_), .. } if images => Some(("length", "a length of text")),
            Self { corruptor, .. } if images && corruptor.name != "causal" => Some(("corruptor", "it changes text")),
            Self { augment, .. } if !images && *augment != Augment::default() => Some(("augment", "it changes images")),
            _ => None,
        }
    }

    /// The section without what the result does not depend on.
    pub(crate) fn identity(&self) -> Self {
        Self { checkpoints: CheckpointsPart::default(), ..self.clone() }
    }

    fn training(&self) -> Training {
        match &self.lora {
            None => Training::Parameters(self.train.clone()),
            Some(LoraPart { rank, alpha, targets, dora }) => Training::Adapters(AdapterSettings {
                rank: *rank,
                alpha: *alpha,
                targets: targets.clone(),
                dora: *dora,
            }),
        }
    }

    /// What is to be done, checked as far as no model is needed for it.
    ///
    /// # Errors
    /// If a method cannot be built, or settings do not fit one another.
    pub(crate) fn plan(&self, seed: u64, length: usize, teacher: bool) -> Result<Plan, PipelineError> {
        let aim = |method: &Method| -> Result<Aim, PipelineError> {
            let (weight, params) =
                weighted(method).map_err(|reason| HealError::Setting { key: "objectives", reason })?;
            Ok(Aim { name: method.name.clone(), weight, objective: objectives::build(&method.name, &params)? })
        };
        if self.lora.is_some() && self.train != Self::default().train {
            let reason = "`train` and `lora`, wanted one of them".to_owned();
            return Err(HealError::Setting { key: "train", reason }.into());
        }
        if !(0.0..=1.0).contains(&self.augment.mixup) {
            let reason = format!("mixup is {}, wanted a number from 0 to 1", self.augment.mixup);
            return Err(HealError::Setting { key: "augment", reason }.into());
        }
        let plan = Plan {
            steps: self.steps,
            local_steps: self.local.map_or(0, |local| local.steps),
            sequences: self.sequences,
            length: self.length.unwrap_or(length),
            seed,
            aims: self.objectives(teacher).iter().map(aim).collect::<Result<_, _>>()?,
            training: self.training(),
            optimizer: optimizers::build(&self.optimizer.name, &self.optimizer.params)?,
            rate: self.rate,
            local_rate: self.local.map_or(self.rate, |local| local.rate),
            schedule: schedules::build(&self.schedule.name, &self.schedule.params)?,
            corruptor: corruptors::build(&self.corruptor.name, &self.corruptor.params)?,
            apart: self.apart,
            clip: self.clip,
            noise: self.noise.map(|NoisePart { eta, gamma }| Noise { eta, gamma }),
            drop_path: self.drop_path,
            validate_every: self.validation.every,
            checkpoint_every: self.checkpoints.every,
            checkpoint_minutes: self.checkpoints.minutes,
            keep: self.checkpoints.keep,
            best: self.best,
            cache: self.cache,
        };
        plan.check()?;
        Ok(plan)
    }
}
