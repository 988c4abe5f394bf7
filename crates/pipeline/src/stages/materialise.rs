//! Materialise: the architecture found is cut out of the original weights and written as stock engines load it.
//!
//! Beside the weights stand `architecture.json`, `kept_units.json` (which original heads, KV groups and channels) and
//! `taper.lock` (all that is needed to make the same bytes again).

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use taper_arch::Architecture;
use taper_base::{Bytes, Parameters};
use taper_data::{Documents, TextSource};
use taper_export::transformers;
use taper_model::{Calibration, parameter_count, save};

use super::{search, write_json};
use crate::context::{Context, REVISION};
use crate::data::Content;
use crate::stage::StageKey;
use crate::{Outcome, PipelineError, Stage};

pub(crate) fn key(context: &Context<'_>) -> Result<StageKey, PipelineError> {
    Ok(StageKey::new(Stage::Materialise.name())
        .with("search", &search::key(context)?.fingerprint())
        .with_json("lock", &settings(context))?)
}

/// The folder of the pruned checkpoint.
pub(crate) fn materialise(context: &Context<'_>, calibration: &Calibration) -> Result<PathBuf, PipelineError> {
    let (key, stage) = (key(context)?, Stage::Materialise);
    let folder = context.run.path(stage.name());
    context.console.started(stage, &folder.display().to_string());
    let outcome = context.run.run(&key, |dir| write(context, calibration, dir))?;
    let checkpoint = taper_model::Checkpoint::open(&folder)?;
    let count = parameter_count(checkpoint.spec());
    let summary = format!("{} parameters, {} in {}", Parameters(count), Bytes(checkpoint.bytes()), folder.display());
    context.console.finished(stage, &summary, outcome == Outcome::Skipped);
    Ok(folder)
}

fn write(context: &Context<'_>, calibration: &Calibration, dir: &Path) -> Result<(), PipelineError> {
    let architecture = search::best(context)?;
    let kept = calibration.order.select(&architecture)?;
    let model = context.stored()?.cut(&kept.blocks)?.without_empty_blocks();
    let settings = &context.recipe.materialise;
    let stored = settings.stored_type().unwrap_or(context.checkpoint.stored_type());
    save(&model, dir, stored, settings.shard_size.0)?;
    let mut config = context.checkpoint.config().clone();
    for key in ["dtype", "torch_dtype"] {
        if let Some(value) = config.get_mut(key).filter(|value| !value.is_null()) {
            *value = Value::from(stored.name());
        }
    }
    transformers::write(dir, model.spec(), &context.local.dir, &config)?;
    write_json(&dir.join("architecture.json"), &architecture)?;
    write_json(&dir.join("kept_units.json"), &kept)?;
    write_json(&dir.join("taper.lock"), &lock(context, &architecture))
}

/// `taper.lock`: enough to make the same bytes again, nothing that differs between two makings.
fn lock(context: &Context<'_>, architecture: &Architecture) -> Value {
    let mut lock = settings(context);
    lock["architecture"] = json!({"text": architecture.to_string(), "fingerprint": architecture.fingerprint()});
    lock
}

/// What the result was made from.
fn settings(context: &Context<'_>) -> Value {
    let recipe = context.recipe;
    let (data, search) = (&recipe.data, &recipe.search);
    let names = |paths: &[PathBuf]| -> Vec<Option<String>> {
        paths.iter().map(|path| path.file_name().map(|name| name.to_string_lossy().into_owned())).collect()
    };
    let of_text = |documents: &Documents, text: &TextSource| {
        json!({"files": names(&text.paths), "dataset": text.dataset, "field": text.field, "separator": text.separator,
            "documents": documents.all().len(), "fingerprint": context.data.fingerprint})
    };
    let (kind, seen) = match (&context.data.content, &data.text, &data.images) {
        (Content::Text(documents), Some(text), _) => ("text", of_text(documents, text)),
        (Content::Images(images), _, Some(source)) => (
            "images",
            json!({"files": names(&source.paths), "dataset": source.dataset, "images": images.images.len(),
                "fingerprint": context.data.fingerprint}),
        ),
        _ => ("text", Value::Null), // refused by the recipe's check
    };
    json!({
        "taper": env!("CARGO_PKG_VERSION"),
        "revision": REVISION,
        "seed": recipe.seed,
        "model": {
            "source": source(context),
            "revision": context.local.revision,
            "fingerprint": context.fingerprint,
        },
        kind: seen,
        "recipe": {
            "data": {"shares": data.shares, "sequences": data.sequences(), "length": data.length},
            "budget": recipe.budget,
            "space": context.space,
            "search": {"strategy": search.strategy, "proxy": search.proxy},
            "materialise": recipe.materialise,
        },
    })
}

/// A Hub id, or a folder's own name: where the folder lies is another matter on each machine.
fn source(context: &Context<'_>) -> String {
    let name = context.local.dir.file_name().map(|name| name.to_string_lossy().into_owned());
    context.local.id.clone().or(name).unwrap_or_default()
}
