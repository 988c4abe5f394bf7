//! `eval`, `score` and `logits`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use taper_pipeline::{ClassifyRequest, Console, EvalRequest, ImageSource, ScoreRequest};

use super::print;
use crate::args::{Args, EvalArgs, LogitsArgs, ScoreArgs};
use crate::render;

pub(crate) fn eval(args: &Args, given: &EvalArgs, console: &dyn Console) -> anyhow::Result<ExitCode> {
    if let Some(images) = &given.images {
        return classify(args, (given, images), console);
    }
    let Some(text) = given.text.clone() else { return super::tasks::eval(args, given, console) };
    let request = EvalRequest {
        model: given.model.parse()?,
        text,
        field: given.field.clone(),
        whole: given.whole,
        window: given.window,
        stride: given.stride,
        by_document: given.by_document,
        special: !given.no_special,
        tokens: given.tokens,
    };
    let report = taper_pipeline::eval(&request, console)?;
    print(args, &report, || render::perplexity(&report))
}

fn classify(args: &Args, (given, images): (&EvalArgs, &Path), console: &dyn Console) -> anyhow::Result<ExitCode> {
    let request = ClassifyRequest {
        model: given.model.parse()?,
        images: ImageSource::new(images),
        against: given.tasks.against.as_ref().map(|other| other.parse()).transpose()?,
        limit: given.first,
    };
    let report = taper_pipeline::classify(&request, console)?;
    print(args, &report, || render::images::classified(&report))
}

pub(crate) fn score(args: &Args, given: &ScoreArgs, console: &dyn Console) -> anyhow::Result<ExitCode> {
    let model = given.model.parse()?;
    let request = ScoreRequest {
        model: &model,
        candidates: &given.candidates,
        tokens: &given.tokens,
        sequences: given.sequences,
        length: given.length,
        trace: serde_json::from_str(&given.proxy).context("--proxy")?,
        seed: given.seed,
    };
    let report = taper_pipeline::score(&request, console)?;
    print(args, &report, || render::scores(&report))
}

pub(crate) fn logits(args: &Args, given: &LogitsArgs, console: &dyn Console) -> anyhow::Result<ExitCode> {
    let shape = (given.sequences, given.length);
    let report = taper_pipeline::logits(&given.model.parse()?, &given.tokens, shape, &given.output, console)?;
    print(args, &report, || {
        format!("{}: {} x {} tokens, {} logits each", given.output.display(), shape.0, shape.1, report.vocab)
    })
}
