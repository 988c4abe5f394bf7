//! What the types of a recipe cannot say: ranges, what fits together, and whether every method can be built.

mod heal;
mod tasks;

use std::ops::RangeInclusive;
use std::path::Path;

use serde_json::Value;
use taper_arch::ArchError;
use taper_arch::budget::Counted;
use taper_base::registry::MethodError;
use taper_data::Split;

use super::{Device, Method, Recipe};

/// What this build offers; the recipe names methods, and only their own crates can tell whether they can be built.
#[derive(Debug, Clone, Copy)]
pub struct Methods {
    /// Whether a proxy of this name takes these parameters.
    pub check_proxy: fn(&str, &Value) -> Result<(), MethodError>,
    /// Whether a search strategy of this name takes these parameters.
    pub check_strategy: fn(&str, &Value) -> Result<(), MethodError>,
    /// Whether a fidelity of this name takes these parameters.
    pub check_fidelity: fn(&str, &Value) -> Result<(), MethodError>,
    /// Whether an objective of healing of this name takes these parameters.
    pub check_objective: fn(&str, &Value) -> Result<(), MethodError>,
    /// Whether an optimizer of this name takes these parameters.
    pub check_optimizer: fn(&str, &Value) -> Result<(), MethodError>,
    /// Whether a schedule of this name takes these parameters.
    pub check_schedule: fn(&str, &Value) -> Result<(), MethodError>,
    /// Whether a corruptor of this name takes these parameters.
    pub check_corruptor: fn(&str, &Value) -> Result<(), MethodError>,
    /// Whether this build has CUDA.
    pub cuda: bool,
}

impl Methods {
    /// The methods of this build.
    pub fn of_this_build() -> Self {
        Self {
            check_proxy: |name, params| taper_proxies::build(name, params).map(drop),
            check_strategy: |name, params| taper_search::build(name, params).map(drop),
            check_fidelity: |name, params| taper_search::fidelity(name, params).map(drop),
            check_objective: |name, params| taper_heal::objectives::build(name, params).map(drop),
            check_optimizer: |name, params| taper_heal::optimizers::build(name, params).map(drop),
            check_schedule: |name, params| taper_heal::schedules::build(name, params).map(drop),
            check_corruptor: |name, params| taper_heal::corruptors::build(name, params).map(drop),
            cuda: cfg!(feature = "cuda"),
        }
    }
}

/// Something wrong with the value at a path of keys.
#[derive(Debug)]
pub(super) struct Finding {
    pub path: Vec<String>,
    pub reason: String,
}

impl Finding {
    fn new(path: &[&str], reason: String) -> Self {
        Self { path: path.iter().map(|&key| key.to_owned()).collect(), reason }
    }
}

/// The first thing wrong with `recipe`, in the order of its sections; folders start at `base`.
pub(super) fn all(recipe: &Recipe, methods: &Methods, base: &Path) -> Result<(), Finding> {
    budget(recipe)?;
    data(recipe)?;
    ranges(recipe)?;
    splits(recipe)?;
    space(recipe)?;
    method(&recipe.search.strategy, &["search", "strategy"], methods.check_strategy)?;
    method(&recipe.search.proxy, &["search", "proxy"], methods.check_proxy)?;
    if let Some(fidelity) = &recipe.search.fidelity {
        method(fidelity, &["search", "fidelity"], methods.check_fidelity)?;
    }
    heal::heal(recipe, methods)?;
    tasks::tasks(&recipe.eval, base)?;
    export(recipe)?;
    if recipe.device == Device::Cuda && recipe.data.images.is_some() {
        let reason = "classifiers of images are computed on the CPU; use `cpu` or `auto`";
        return Err(Finding::new(&["device"], reason.to_owned()));
    }
    if recipe.device == Device::Cuda && !methods.cuda {
        let reason = "this taper computes on the CPU only; use `cpu` or `auto`, or build it with `--features cuda`";
        return Err(Finding::new(&["device"], reason.to_owned()));
    }
    Ok(())
}

fn budget(recipe: &Recipe) -> Result<(), Finding> {
    let budget = &recipe.budget;
    let refuse = |key: &[&str], reason: &str| Err(Finding::new(&[&["budget"], key].concat(), reason.to_owned()));
    match (budget.params, budget.latency) {
        (None, None) => refuse(&[], "missing field `params` or `latency`: what may the result cost?"),
        (Some(_), Some(_)) => refuse(&["latency"], "a budget of `params` and of `latency`; wanted one of them"),
        (Some(_), None) if budget.workload.is_some() => {
            refuse(&["workload"], "a workload belongs to a budget of `latency`, this one is of `params`")
        }
        (None, Some(_)) if budget.counted != Counted::Total => {
            refuse(&["counted"], "`counted` belongs to a budget of `params`, this one is of `latency`")
        }
        _ => Ok(()),
    }
}

/// Text or images, and what belongs to either.
fn data(recipe: &Recipe) -> Result<(), Finding> {
    let refuse = |path: &[&str], reason: &str| Err(Finding::new(path, reason.to_owned()));
    let (text, images) = (recipe.data.text.is_some(), recipe.data.images.is_some());
    let eval = &recipe.eval;
    match (text, images) {
        (false, false) => refuse(&["data"], "missing field `text` or `images`: what is the model to see?"),
        (true, true) => refuse(&["data", "images"], "`text` and `images`; wanted one of them"),
        (true, false) if eval.images.is_some() => refuse(&["eval", "images"], "images, but `data` is of text"),
        (false, true) if eval.text.is_some() => refuse(&["eval", "text"], "a text, but `data` is of images"),
        (false, true) if !eval.tasks.is_empty() => refuse(&["eval", "tasks"], "tasks of text, but `data` is of images"),
        (false, true) if recipe.budget.latency.is_some() => {
            refuse(&["budget", "latency"], "latency is that of generated text, and `data` is of images")
        }
        _ => Ok(()),
    }
}

fn ranges(recipe: &Recipe) -> Result<(), Finding> {
    const MOST: usize = 1 << 20;
    let within = |path: &[&str], value: usize, range: RangeInclusive<usize>| {
        if range.contains(&value) {
            return Ok(());
        }
        let name = path.last().copied().unwrap_or_default();
        let reason = format!("{name} is {value}, wanted {} to {}", range.start(), range.end());
        Err(Finding::new(path, reason))
    };
    within(&["data", "sequences"], recipe.data.sequences(), 1..=MOST)?;
    within(&["data", "length"], recipe.data.length, 2..=MOST)?;
    let tokens = recipe.data.sequences() * recipe.data.length; // at most 2^40
    if u32::try_from(tokens).is_err() {
        let reason = format!("sequences · length is {tokens} tokens, wanted at most {}", u32::MAX);
        return Err(Finding::new(&["data", "sequences"], reason));
    }
    let generation = recipe.budget.workload();
    within(&["budget", "workload", "prompt"], generation.prompt, 1..=MOST)?;
    within(&["budget", "workload", "generate"], generation.generate, 1..=MOST)?;
    within(&["budget", "workload", "batch"], generation.batch, 1..=1024)?;
    within(&["search", "threads"], recipe.search.threads.unwrap_or(1), 1..=1024)?;
    within(&["eval", "tokens"], recipe.eval.tokens, 2..=usize::MAX)?;
    within(&["eval", "random"], recipe.eval.random, 0..=1000)?;
    within(&["eval", "window"], recipe.eval.window, 2..=MOST)?;
    within(&["eval", "stride"], recipe.eval.stride.unwrap_or(1), 1..=recipe.eval.window)
}

fn splits(recipe: &Recipe) -> Result<(), Finding> {
    let shares = &recipe.data.shares;
    if shares.of(Split::Calibration) == 0.0 {
        let reason = "a calibration share of 0 leaves nothing to calibrate on".to_owned();
        return Err(Finding::new(&["data", "shares", "calibration"], reason));
    }
    if shares.of(Split::Validation) == 0.0 {
        let reason = "a validation share of 0 leaves nothing to score candidates on".to_owned();
        return Err(Finding::new(&["data", "shares", "validation"], reason));
    }
    if shares.of(Split::Test) == 0.0 && recipe.eval.text.is_none() && recipe.eval.images.is_none() {
        let reason = "a test share of 0 leaves nothing to judge on; or name another text in `eval.text`".to_owned();
        return Err(Finding::new(&["data", "shares", "test"], reason));
    }
    Ok(())
}

fn space(recipe: &Recipe) -> Result<(), Finding> {
    recipe.space.validate().map_err(|error| {
        let field = match &error {
            ArchError::Dimension { what, .. } => what.as_str(),
            _ => "",
        };
        Finding::new(&["space", field], error.to_string())
    })
}

fn export(recipe: &Recipe) -> Result<(), Finding> {
    let Some(part) = &recipe.export else { return Ok(()) };
    let refuse = |reason: String| Err(Finding::new(&["export", "targets"], reason));
    let twice = part.targets.iter().enumerate().find(|(index, target)| part.targets[..*index].contains(target));
    match twice {
        _ if part.targets.is_empty() => refuse("no targets; leave `export` out, or name an engine".to_owned()),
        Some((_, target)) => refuse(format!("`{}` is there twice", target.name())),
        None => Ok(()),
    }
}

fn method(method: &Method, role: &[&str], check: fn(&str, &Value) -> Result<(), MethodError>) -> Result<(), Finding> {
    let Err(error) = check(&method.name, &method.params) else { return Ok(()) };
    let mut reason = error.to_string();
    let mut path = role.to_vec();
    if matches!(error, MethodError::Parameters { .. }) {
        path.push(&method.name);
        // serde says what is wrong, but not always at which key: that one which gives the same error on its own.
        let alone = |key: &str, value: &Value| check(&method.name, &Value::from_iter([(key, value.clone())]));
        let mut params = method.params.as_object().into_iter().flatten();
        let culprit = params.find(|(key, value)| alone(key, value).is_err_and(|error| error.to_string() == reason));
        if let Some((key, _)) = culprit {
            path.push(key);
            if !reason.contains(&format!("`{key}`")) {
                reason.push_str(&format!(" (`{key}`)"));
            }
        }
    }
    Err(Finding::new(&path, reason))
}
