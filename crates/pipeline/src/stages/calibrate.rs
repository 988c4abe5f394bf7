//! Calibrate: one forward pass over the calibration batch ranks all units.

use taper_data::Split;
use taper_model::{Calibration, calibrate as pass};

use super::{read_json, write_json};
use crate::context::{Context, REVISION};
use crate::error::finite;
use crate::stage::StageKey;
use crate::{Outcome, PipelineError, Stage};

pub(crate) fn key(context: &Context<'_>) -> Result<StageKey, PipelineError> {
    let key = StageKey::new(Stage::Calibrate.name())
        .with_json("revision", &REVISION)?
        .with("model", &context.fingerprint)
        .with("text", &context.data.fingerprint)
        .with_json("batch", &context.batch(Split::Calibration))?;
    Ok(match &context.gpu {
        Some(gpu) => key.with_json("device", &gpu.name)?, // it rounds in its own way, and all that follows is made of this
        None => key,
    })
}

pub(crate) fn calibrate(context: &Context<'_>) -> Result<Calibration, PipelineError> {
    let (key, stage) = (key(context)?, Stage::Calibrate);
    context.console.started(stage, &context.about_batch());
    let outcome = context.run.run(&key, |dir| {
        let samples = context.samples(Split::Calibration)?;
        let found = pass(&context.placed(&context.stored()?)?, samples.batch()?)?;
        finite(found.loss, || format!("the loss on the calibration {}", context.data.kind()))?;
        for unit in found.importance.iter().flatten().chain(found.units.iter().flatten().flatten()) {
            finite(*unit, || "the importance of a unit".to_owned())?;
        }
        write_json(&dir.join("calibration.json"), &found)
    })?;
    let found: Calibration = read_json(&context.run.path(stage.name()).join("calibration.json"))?;
    found.order.check(context.checkpoint.spec())?;
    context.console.finished(
        stage,
        &format!("loss {:.4} nats per {}", found.loss, context.data.unit()),
        outcome == Outcome::Skipped,
    );
    Ok(found)
}
