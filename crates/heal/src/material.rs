//! What is trained on: text, packed and perhaps corrupted, or images; and what losses are told of.

use taper_arch::{ImageSpec, ModelSpec};
use taper_data::images::{ImageExamples, ImageFeed};
use taper_data::{Cursor, Feed, FeedText, TextTokenizer, Tokens};
use taper_model::{Batch, Model};

use crate::corruptors::{Example, Sequence};
use crate::error::{HealError, Result};
use crate::heal::TOKENS;
use crate::plan::{Job, Plan};

/// What a training sees.
pub enum Material<'a> {
    /// Texts, for a language model.
    Text {
        /// The model's tokenizer.
        tokenizer: &'a TextTokenizer,
        /// Texts to train on.
        texts: Vec<FeedText<'a>>,
        /// Text to measure on.
        validation: Tokens,
    },
    /// Images, for a classifier of them.
    Images {
        /// Images to train on.
        feed: ImageFeed<'a>,
        /// Images to measure on: pixels, `[images, channels, height, width]`, and the class of each.
        validation: (Vec<f32>, Vec<u32>),
        /// Their sizes.
        image: ImageSpec,
    },
}

impl Material<'_> {
    /// What losses are told of.
    fn validation(&self) -> Result<Batch<'_>> {
        Ok(match self {
            Self::Text { validation, .. } => Batch::new(validation.ids(), validation.length())?,
            Self::Images { validation: (pixels, labels), image, .. } => Batch::images(pixels, labels, *image)?,
        })
    }

    /// Whether a model of `spec` reads it.
    pub(crate) fn check(&self, spec: &ModelSpec) -> Result<()> {
        let bad = |reason: &str| Err(HealError::Setting { key: "texts", reason: reason.to_owned() });
        match (self, spec.image) {
            (Self::Text { .. }, Some(_)) => bad("text, and the model reads images"),
            (Self::Images { .. }, None) => bad("images, and the model reads text"),
            (Self::Images { image, .. }, Some(own)) if *image != own => bad("images of another size than the model's"),
            _ => Ok(()),
        }
    }
}

/// Mean loss of the next token on the validation text, or of the labels of images, in nats.
pub(crate) fn loss_of(model: &Model, job: &Job<'_>) -> Result<f64> {
    let (mut sum, mut count) = (0.0, 0);
    for piece in job.material.validation()?.pieces(TOKENS) {
        let losses = model.token_losses(piece)?;
        sum += losses.iter().map(|loss| f64::from(*loss)).sum::<f64>();
        count += losses.len();
    }
    Ok(sum / count.max(1) as f64)
}

/// Where examples come from.
pub(crate) struct Source<'a> {
    from: From<'a>,
    plan: &'a Plan,
    vocab: usize,
    seen: u64,
}

enum From<'a> {
    Text(Feed<'a>),
    Images(&'a ImageFeed<'a>, ImageSpec),
}

/// Some examples, as the engine wants them.
pub(crate) struct Examples {
    input: Input,
    /// For each prediction what is to be learnt: one a token, or one an image.
    pub(crate) targets: Vec<Option<u32>>,
    /// What else is, and the first one's share: of images that are mixed, otherwise empty.
    pub(crate) mixed: Vec<(u32, f32)>,
}

enum Input {
    Tokens { ids: Vec<u32>, length: usize, first: Option<Vec<u32>> },
    Images { pixels: Vec<f32>, labels: Vec<u32>, image: ImageSpec },
}

impl Examples {
    fn of(examples: &[Example], length: usize) -> Self {
        let first: Vec<u32> = examples.iter().flat_map(|example| example.first.iter().copied()).collect();
        Self {
            input: Input::Tokens {
                ids: examples.iter().flat_map(|example| example.input.iter().copied()).collect(),
                length,
                first: Some(first).filter(|first| first.iter().any(|place| *place > 0)),
            },
            targets: examples.iter().flat_map(|example| example.targets.iter().copied()).collect(),
            mixed: Vec::new(),
        }
    }

    /// All of them.
    pub(crate) fn batch(&self) -> Result<Batch<'_>> {
        Ok(match &self.input {
            Input::Tokens { ids, length, first } => {
                let batch = Batch::new(ids, *length)?;
                first.as_ref().map_or(batch, |first| batch.seeing_from(first))
            }
            Input::Images { pixels, labels, image } => Batch::images(pixels, labels, *image)?,
        })
    }
}

impl<'a> Source<'a> {
    /// `cursors` are where an earlier one stood, after `seen` examples.
    pub(crate) fn new(
        job: &'a Job<'_>,
        plan: &'a Plan,
        vocab: usize,
        (cursors, seen): (Option<Vec<Cursor>>, u64),
    ) -> Result<Self> {
        let from = match &job.material {
            Material::Text { tokenizer, texts, .. } => {
                From::Text(Feed::new(tokenizer, texts.clone(), (plan.length, plan.seed), cursors)?)
            }
            Material::Images { feed, image, .. } => From::Images(feed, *image),
        };
        Ok(Self { from, plan, vocab, seen })
    }

    /// Passes over the first `count` sequences.
    pub(crate) fn skip(&mut self, count: u64) -> Result<()> {
        self.seen = count;
        if let From::Text(feed) = &mut self.from {
            (0..count).try_for_each(|index| feed.sequence(index).map(|_| ()))?;
        }
        Ok(())
    }

    /// Where texts stand; images need nothing but the number of the example.
    pub(crate) fn cursors(&self) -> Vec<Cursor> {
        match &self.from {
            From::Text(feed) => feed.cursors().to_vec(),
            From::Images(..) => Vec::new(),
        }
    }

    /// Times that each text, or all images, were gone through.
    pub(crate) fn epochs(&self) -> Vec<u64> {
        match &self.from {
            From::Text(feed) => feed.epochs(),
            From::Images(feed, _) => vec![self.seen / feed.len() as u64],
        }
    }

    /// The examples `from..from + count`.
    pub(crate) fn examples(&mut self, from: u64, count: u64) -> Result<Examples> {
        self.seen = from + count;
        let feed = match &mut self.from {
            From::Text(feed) => feed,
            From::Images(feed, image) => {
                let ImageExamples { pixels, labels, mixed } = feed.examples(from, count)?;
                let targets = labels.iter().copied().map(Some).collect();
                return Ok(Examples { input: Input::Images { pixels, labels, image: *image }, targets, mixed });
            }
        };
        let (seed, vocab, length) = (self.plan.seed, self.vocab, self.plan.length);
        let mut one = |index| -> Result<Example> {
            let packed = feed.sequence(index)?;
            let sequence = Sequence { ids: &packed.ids, starts: &packed.starts, vocab, seed, index };
            let mut example = self.plan.corruptor.example(sequence, self.plan.apart);
            example.input.resize(length, packed.ids[0]); // what a corruptor leaves is filled, and not learnt
            example.targets.resize(length, None);
            let last = example.first.last().copied().unwrap_or(0);
            example.first.resize(length, last);
            Ok(example)
        };
        let examples = (from..from + count).map(&mut one).collect::<Result<Vec<_>>>()?;
        Ok(Examples::of(&examples, length))
    }
}
