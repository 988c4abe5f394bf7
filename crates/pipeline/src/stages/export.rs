//! Export: the result, healed or pruned, is written for each engine that the recipe names.

use std::path::Path;

use taper_base::Fingerprint;
use taper_model::Checkpoint;

use crate::context::{Context, REVISION};
use crate::export::{Exported, Form};
use crate::recipe::ExportPart;
use crate::stage::StageKey;
use crate::{Outcome, PipelineError, Stage};

/// Writes the checkpoint in `folder`, made for the key `made_for`, for the targets of `part`.
pub(crate) fn export(
    context: &Context<'_>,
    part: &ExportPart,
    (folder, made_for): (&Path, &Fingerprint),
) -> Result<Vec<Exported>, PipelineError> {
    let (stage, name) = (Stage::Export, &context.recipe.name);
    let key = StageKey::new(stage.name())
        .with_json("revision", &REVISION)?
        .with("checkpoint", made_for)
        .with_json("name", name)?
        .with_json("targets", &part.targets)?
        .with_json("uniform_pad", &part.uniform_pad)?;
    let checkpoint = Checkpoint::open(folder)?;
    let names: Vec<String> = part.targets.iter().map(|target| target.name()).collect();
    context.console.started(stage, &names.join(", "));
    let form = Form::of(&checkpoint, name.clone(), part.uniform_pad);
    let outcome =
        context.run.run(&key, |dir| form.write(&checkpoint, &part.targets, dir, context.console).map(drop))?;
    let folder = context.run.path(stage.name());
    let there = |target| form.exported(target, checkpoint.config(), &folder);
    let exported: Vec<Exported> = part.targets.iter().map(|target| there(*target)).collect::<Result<_, _>>()?;
    let bytes = taper_base::Bytes(exported.iter().map(|one| one.bytes.0).sum());
    context.console.finished(stage, &format!("{bytes} in {}", folder.display()), outcome == Outcome::Skipped);
    Ok(exported)
}
