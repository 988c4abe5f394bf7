//! `taper eval MODEL --images`: how often a classifier is right, beside another one if that is wanted.

use std::time::Instant;

use serde::Serialize;
use taper_data::images::ImageSource;
use taper_eval::{Classification, Sample, answers};
use taper_hub::ModelSource;
use taper_model::{Checkpoint, Model};

use crate::data::ImageData;
use crate::error::finite;
use crate::{Console, PipelineError};

/// A classifier to measure.
#[derive(Debug, Clone)]
pub struct ClassifyRequest {
    /// Which.
    pub model: ModelSource,
    /// Labelled images.
    pub images: ImageSource,
    /// Another one to compare with.
    pub against: Option<ModelSource>,
    /// Only the first so many images.
    pub limit: Option<usize>,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassifyReport {
    /// Which checkpoint.
    pub model: String,
    /// On what.
    pub images_of: String,
    /// What came out.
    #[serde(flatten)]
    pub found: Classification,
    /// Images a second, decoding included.
    pub images_per_second: f64,
    /// Beside the other one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against: Option<Against>,
}

/// Two classifiers on the same images.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Against {
    /// The other one.
    pub model: String,
    /// Its numbers.
    pub found: Classification,
    /// Share of right answers less the other's.
    pub difference: f64,
    /// Its 95% interval, `d ± 1.96 √((b + c)/n − d²) / √n`, `b` and `c` the answers that turned right and wrong.
    pub interval: [f64; 2],
    /// Answers that are right here and wrong there.
    pub gained: usize,
    /// Answers that are wrong here and right there.
    pub lost: usize,
}

/// Measures a classifier, and another on the same images.
///
/// # Errors
/// If a model is no classifier of images, an image has no label, or they cannot be had.
pub fn classify(request: &ClassifyRequest, console: &dyn Console) -> Result<ClassifyReport, PipelineError> {
    let (model, data) = open(&request.model, &request.images, console)?;
    let places: Vec<usize> = (0..request.limit.unwrap_or(usize::MAX).min(data.images.len())).collect();
    let missing = places.iter().find(|place| data.label(**place).is_none());
    if let Some(place) = missing {
        let (image, classes) = (data.images.name(*place).to_owned(), model.spec().vocab);
        return Err(taper_eval::EvalError::NoLabel { image, label: None, classes }.into());
    }
    let start = Instant::now();
    let (found, own) = of(&model, (&data, &places), console)?;
    let images_per_second = places.len() as f64 / start.elapsed().as_secs_f64();
    finite(found.loss, || format!("the loss of {}", request.model))?;
    let against = request.against.as_ref().map(|other| {
        let (model, data) = open(other, &request.images, console)?;
        let (found, theirs) = of(&model, (&data, &places), console)?;
        Ok::<_, PipelineError>(compare(other.to_string(), found, &own, &theirs))
    });
    Ok(ClassifyReport {
        model: request.model.to_string(),
        images_of: data.images.source().to_owned(),
        found,
        images_per_second,
        against: against.transpose()?,
    })
}

fn open(
    source: &ModelSource,
    images: &ImageSource,
    console: &dyn Console,
) -> Result<(Model, ImageData), PipelineError> {
    let local = crate::local::model(source, console)?;
    let checkpoint = Checkpoint::open(&local.dir)?;
    let Some(image) = checkpoint.spec().image else {
        return Err(PipelineError::OtherData { reads: "text", given: "--images" });
    };
    let data = ImageData::open(images, (&local.dir, image), console)?;
    Ok((Model::load(&checkpoint)?, data))
}

/// What was measured, and whether each answer is right.
fn of(
    model: &Model,
    (data, places): (&ImageData, &[usize]),
    console: &dyn Console,
) -> Result<(Classification, Vec<bool>), PipelineError> {
    let (places, labels) = data.labelled(places.to_vec());
    let sample = Sample { images: &data.images, places: &places, labels: &labels, processor: &data.processor };
    Ok(answers(model, sample, console)?)
}

fn compare(model: String, found: Classification, own: &[bool], theirs: &[bool]) -> Against {
    let turned = |to: bool| own.iter().zip(theirs).filter(|(own, other)| **own == to && **other != to).count();
    let (gained, lost, n) = (turned(true), turned(false), own.len() as f64);
    let difference = (gained as f64 - lost as f64) / n;
    let spread = 1.96 * (((gained + lost) as f64 / n - difference * difference) / n).max(0.0).sqrt();
    Against { model, found, difference, interval: [difference - spread, difference + spread], gained, lost }
}
