//! Export: the result, healed or pruned, is written for each engine that the recipe names.

use std::path::Path;

use taper_base::Fingerprint;
use taper_model::Checkpoint;

use crate::context::{Context, REVISION};
use crate::export::{Exported, write};
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
        .with_json("targets", &part.targets)?;
    let checkpoint = Checkpoint::open(folder)?;
    let names: Vec<String> = part.targets.iter().map(|target| target.name()).collect();
    context.console.started(stage, &names.join(", "));
    let outcome = context.run.run(&key, |dir| {
        let mut targets = part.targets.iter();
        targets.try_for_each(|target| write(*target, &checkpoint, (dir, name), context.console).map(drop))
    })?;
    let folder = context.run.path(stage.name());
    let there = |target| Exported::of(target, &checkpoint, (&folder, name));
    let exported: Vec<Exported> = part.targets.iter().map(|target| there(*target)).collect::<Result<_, _>>()?;
    let bytes = taper_base::Bytes(exported.iter().map(|one| one.bytes.0).sum());
    context.console.finished(stage, &format!("{bytes} in {}", folder.display()), outcome == Outcome::Skipped);
    Ok(exported)
}
