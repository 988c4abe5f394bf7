//! Classification of images: how often the right class is first or among the first five, and how well probabilities are meant.
//!
//! Loss: mean of `−log p(label)`. Calibration error: images in 15 bins of equal width by the first class's probability,
//! `Σ_bins n_bin / n · |accuracy − mean probability|` (arXiv:1706.04599, §2). Standard errors: of a mean over images; of a share
//! `√(p(1−p)/(n−1))`.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use taper_base::progress::Progress;
use taper_data::images::{Images, Processor};
use taper_kernels::rows;
use taper_model::{Batch, Model};

use crate::EvalError;

/// Bins of the calibration error.
const BINS: usize = 15;
/// Images decoded at once: their pixels are in memory.
const TOGETHER: usize = 256;
/// Tokens of one forward pass.
const TOKENS: usize = 8192;
/// The classes among which a label is looked for.
const FIRST: usize = 5;

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Classification {
    /// Images.
    pub images: usize,
    /// Mean cross-entropy in nats.
    pub loss: f64,
    /// Its standard error; none for one image.
    pub loss_error: Option<f64>,
    /// Share of images whose class has the largest logit.
    pub top1: f64,
    /// Its standard error.
    pub top1_error: Option<f64>,
    /// Share of images whose class is among the five with the largest.
    pub top5: f64,
    /// Expected calibration error, 15 bins.
    pub calibration_error: f64,
    /// Of each class: images, and those that were found, `[images, found]`.
    pub classes: Vec<[u32; 2]>,
    /// `[label, found, images]` of each pair that occurs, the confusion matrix without zeros.
    pub confusion: Vec<[u32; 3]>,
}

/// Images to measure on.
#[derive(Debug, Clone, Copy)]
pub struct Sample<'a> {
    /// All there are.
    pub images: &'a Images,
    /// Which of them.
    pub places: &'a [usize],
    /// The model's class of each.
    pub labels: &'a [u32],
    /// What makes pixels of them.
    pub processor: &'a Processor,
}

/// One image's part.
struct Outcome {
    loss: f64,
    found: u32,
    confidence: f64,
    among_first: bool,
}

/// The logits of the images at `places`, as `each` is given some of them: the number of the first, and logits, `[images, classes]`.
///
/// # Errors
/// If an image cannot be read, or is of another size than the model's.
pub fn logits_of(
    model: &Model,
    (images, places, processor): (&Images, &[usize], &Processor),
    progress: &dyn Progress,
    mut each: impl FnMut(usize, &[f32]),
) -> Result<(), EvalError> {
    let image = model.spec().image.ok_or(EvalError::NotImages)?;
    progress.begin("images", places.len() as u64);
    let mut at = 0;
    for places in places.chunks(TOGETHER) {
        let pixels = images.batch(places, processor)?;
        let labels = vec![0; places.len()]; // what they are is compared later
        for piece in Batch::images(&pixels, &labels, image)?.pieces(TOKENS) {
            let logits = model.logits(piece)?;
            let logits: Vec<f32> = logits.flatten_all().and_then(|flat| flat.to_vec1()).map_err(|cause| {
                let cause = taper_kernels::KernelError::Tensor { op: "logits", cause };
                taper_model::ModelError::Compute { place: "head".to_owned(), cause: Box::new(cause) }
            })?;
            each(at, &logits);
            at += piece.sequences();
        }
        progress.advance(places.len() as u64, "");
    }
    progress.end();
    Ok(())
}

/// Measures `model`.
///
/// # Errors
/// As [`answers`].
pub fn classify(model: &Model, sample: Sample<'_>, progress: &dyn Progress) -> Result<Classification, EvalError> {
    Ok(answers(model, sample, progress)?.0)
}

/// Measures `model`, and tells of each image whether its answer is right.
///
/// # Errors
/// [`EvalError::NoImages`], [`EvalError::NoLabel`] naming an image whose label is no class of the model; as [`logits_of`].
pub fn answers(
    model: &Model,
    sample: Sample<'_>,
    progress: &dyn Progress,
) -> Result<(Classification, Vec<bool>), EvalError> {
    let Sample { images, places, labels, processor } = sample;
    let classes = model.spec().vocab;
    if let Some((place, label)) = places.iter().zip(labels).find(|(_, label)| **label as usize >= classes) {
        return Err(EvalError::NoLabel { image: images.name(*place).to_owned(), label: Some(*label), classes });
    }
    if places.is_empty() {
        return Err(EvalError::NoImages);
    }
    let mut all: Vec<(u32, Outcome)> = Vec::with_capacity(places.len());
    logits_of(model, (images, places, processor), progress, |first, logits| {
        let rows = labels[first..].par_iter().zip(logits.par_chunks(classes));
        all.par_extend(rows.map(|(label, row)| (*label, outcome(row, *label as usize))));
    })?;
    let right = all.iter().map(|(label, outcome)| outcome.found == *label).collect();
    Ok((summed(&all, classes), right))
}

/// The class with the largest logit, the smaller of two equal ones.
pub fn likeliest(row: &[f32]) -> u32 {
    (1..row.len()).fold(0, |best, class| if row[class] > row[best] { class } else { best }) as u32
}

/// The larger logit wins, the smaller class of two equal ones.
fn outcome(row: &[f32], label: usize) -> Outcome {
    let log_sum = f64::from(rows::log_sum(row, 1.0));
    let before = |class: usize, other: usize| row[class] > row[other] || row[class] == row[other] && class < other;
    let found = likeliest(row);
    let ahead = (0..row.len()).filter(|class| before(*class, label)).count();
    Outcome {
        loss: log_sum - f64::from(row[label]),
        found,
        confidence: (f64::from(row[found as usize]) - log_sum).exp(),
        among_first: ahead < FIRST,
    }
}

fn summed(all: &[(u32, Outcome)], classes: usize) -> Classification {
    let n = all.len() as f64;
    let share = |count: usize| count as f64 / n;
    let error = |variance: f64| (all.len() > 1).then(|| (variance / (n - 1.0)).sqrt());
    let mut by_class = vec![[0_u32; 2]; classes];
    let mut confusion = std::collections::BTreeMap::<[u32; 2], u32>::new();
    let mut bins = vec![[0.0_f64; 2]; BINS]; // found, confidence
    for (label, outcome) in all {
        let right = outcome.found == *label;
        let class = &mut by_class[*label as usize];
        *class = [class[0] + 1, class[1] + u32::from(right)];
        *confusion.entry([*label, outcome.found]).or_default() += 1;
        let bin = &mut bins[((outcome.confidence * BINS as f64) as usize).min(BINS - 1)];
        *bin = [bin[0] + f64::from(u8::from(right)), bin[1] + outcome.confidence];
    }
    let loss = all.iter().map(|(_, outcome)| outcome.loss).sum::<f64>() / n;
    let spread = all.iter().map(|(_, outcome)| (outcome.loss - loss).powi(2)).sum::<f64>() / n;
    let top1 = share(all.iter().filter(|(label, outcome)| outcome.found == *label).count());
    Classification {
        images: all.len(),
        loss,
        loss_error: error(spread),
        top1,
        top1_error: error(top1 * (1.0 - top1)),
        top5: share(all.iter().filter(|(_, outcome)| outcome.among_first).count()),
        calibration_error: bins.iter().map(|[found, confidence]| (found - confidence).abs()).sum::<f64>() / n,
        classes: by_class,
        confusion: confusion.into_iter().map(|([label, found], count)| [label, found, count]).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_the_hand_computed_ones() {
        let half = 0.5_f32.ln();
        let rows: [(&[f32], u32); 3] = [(&[half, half], 1), (&[0.9_f32.ln(), 0.1_f32.ln()], 0), (&[0.0, -100.0], 0)];
        let all: Vec<_> = rows.iter().map(|(row, label)| (*label, outcome(row, *label as usize))).collect();
        let found = summed(&all, 2);
        assert_eq!(
            (found.images, found.classes, found.confusion),
            (3, vec![[2, 2], [1, 0]], vec![[0, 0, 2], [1, 0, 1]])
        );
        assert!((found.loss - (0.5_f64.ln() + 0.9_f64.ln()) / -3.0).abs() < 1e-6, "{}", found.loss);
        assert!((found.top1 - 2.0 / 3.0).abs() < 1e-12 && (found.top5 - 1.0).abs() < 1e-12);
        // bins: 0.5 wrong, 0.9 right, 1 right
        assert!((found.calibration_error - (0.5 + 0.1) / 3.0).abs() < 1e-6, "{}", found.calibration_error);
        assert!((found.top1_error.unwrap() - (2.0_f64 / 9.0 / 2.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn the_first_five_are_counted_by_logits_and_then_by_number() {
        let row = [1.0, 5.0, 4.0, 3.0, 1.0, 2.0, 1.0];
        let among = |label| outcome(&row, label).among_first;
        assert_eq!([0, 4, 6].map(among), [true, false, false]);
        assert_eq!(outcome(&row, 0).found, 1);
    }
}
