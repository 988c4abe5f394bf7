//! What results are judged on: text, or images, and what is measured of them.

use std::borrow::Cow;

use taper_base::Fingerprint;
use taper_data::{Documents, Split};
use taper_eval::{Classification, Perplexity, Sample, bytes_per_pass, classify, documents_to_ids, perplexity};
use taper_model::Model;

use crate::context::{Context, documents};
use crate::data::{Content, ImageData};
use crate::{PipelineError, machine};

/// Before the name of a text of which the test split is judged on.
pub(crate) const SPLIT: &str = "test split of ";

/// Loss, and of a classifier how often it is right.
pub(super) type Measured = (Perplexity, Option<Classification>);

/// What measures a model.
pub(super) type Measure<'m> = Box<dyn Fn(&Model) -> Result<Measured, PipelineError> + 'm>;

/// What results are judged on.
pub(super) enum Judged<'a> {
    /// The test split of the recipe's text.
    Split(&'a Documents, Fingerprint),
    /// All of another text.
    Own(Documents),
    /// The test split of the recipe's images.
    ImagesOfSplit(&'a ImageData, Fingerprint),
    /// All of other images.
    OwnImages(Box<ImageData>),
}

impl<'a> Judged<'a> {
    pub(super) fn of(context: &'a Context<'_>) -> Result<Self, PipelineError> {
        let (eval, fingerprint) = (&context.recipe.eval, context.data.fingerprint.clone());
        Ok(match (&context.data.content, &eval.text, &eval.images, context.spec.image) {
            (Content::Text(_), Some(source), _, _) => Self::Own(documents(source, context.console)?),
            (Content::Text(documents), None, _, _) => Self::Split(documents, fingerprint),
            (Content::Images(_), _, Some(source), Some(image)) => {
                Self::OwnImages(Box::new(ImageData::open(source, (&context.local.dir, image), context.console)?))
            }
            (Content::Images(images), _, _, _) => Self::ImagesOfSplit(images, fingerprint),
        })
    }

    pub(super) fn fingerprint(&self) -> Result<Fingerprint, PipelineError> {
        let of_split = |fingerprint: &Fingerprint| Fingerprint::of_bytes(format!("test {fingerprint}").as_bytes());
        Ok(match self {
            Self::Own(documents) => documents.fingerprint(),
            Self::OwnImages(images) => images.images.fingerprint()?,
            Self::Split(_, fingerprint) | Self::ImagesOfSplit(_, fingerprint) => of_split(fingerprint),
        })
    }

    pub(super) fn name(&self) -> String {
        match self {
            Self::Own(documents) => documents.name().to_owned(),
            Self::OwnImages(images) => images.images.source().to_owned(),
            Self::Split(documents, _) => format!("{SPLIT}{}", documents.name()),
            Self::ImagesOfSplit(images, _) => format!("{SPLIT}{}", images.images.source()),
        }
    }

    /// What measures a model.
    pub(super) fn measure<'m>(&'m self, context: &'m Context<'_>) -> Result<Measure<'m>, PipelineError> {
        let shares = &context.recipe.data.shares;
        let documents: Cow<'_, [&str]> = match self {
            Self::Own(documents) => documents.all().iter().map(String::as_str).collect(),
            Self::Split(documents, _) => Cow::Owned(documents.of_split(shares, Split::Test)),
            Self::ImagesOfSplit(images, _) => return classifying(context, images, images.judged(Some(shares))?),
            Self::OwnImages(images) => return classifying(context, images, images.judged(None)?),
        };
        let eval = &context.recipe.eval;
        let ids = documents_to_ids(&documents, context.tokenizer()?, true, eval.tokens)?;
        let workers = machine::workers(bytes_per_pass(&context.spec, eval.window));
        let workers = if context.gpu.is_some() { 1 } else { workers };
        Ok(Box::new(move |model| {
            Ok((perplexity(&context.placed(model)?, &ids, eval.settings(), workers, context.console)?, None))
        }))
    }
}

fn classifying<'m>(
    context: &'m Context<'_>,
    data: &'m ImageData,
    (places, labels): (Vec<usize>, Vec<u32>),
) -> Result<Measure<'m>, PipelineError> {
    Ok(Box::new(move |model| {
        let (images, processor) = (&data.images, &data.processor);
        let sample = Sample { images, places: &places, labels: &labels, processor };
        let found = classify(model, sample, context.console)?;
        Ok((as_loss(&found), Some(found)))
    }))
}

/// The loss, in the form that text has.
fn as_loss(found: &Classification) -> Perplexity {
    Perplexity {
        loss: found.loss,
        standard_error: found.loss_error,
        perplexity: found.loss.exp(),
        tokens: found.images,
        windows: found.images,
    }
}

/// The means of `all`, of which `first` is the first; what has none is the first's.
pub(super) fn mean(first: &Measured, all: &[&Measured]) -> Measured {
    let n = all.len() as f64;
    let of = |value: &dyn Fn(&Measured) -> f64| all.iter().map(|one| value(one)).sum::<f64>() / n;
    let alone = all.len() == 1;
    let loss = of(&|(measured, _)| measured.loss);
    let standard_error = first.0.standard_error.filter(|_| alone);
    let classified = first.1.as_ref().filter(|_| !alone).map(|found| {
        let of = |value: fn(&Classification) -> f64| of(&|(_, found)| found.as_ref().map_or(0.0, value));
        Classification {
            loss,
            loss_error: None,
            top1: of(|found| found.top1),
            top1_error: None,
            top5: of(|found| found.top5),
            calibration_error: of(|found| found.calibration_error),
            classes: Vec::new(),
            confusion: Vec::new(),
            ..found.clone()
        }
    });
    let measured = Perplexity { loss, perplexity: loss.exp(), standard_error, ..first.0 };
    (measured, if alone { first.1.clone() } else { classified })
}
