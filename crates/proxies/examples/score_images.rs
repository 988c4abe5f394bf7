//! Measures the engine on images by orders from stdin, for `scripts/bench_vs_vit.py`: the model is loaded once, each line is
//! done once, so that another program can be measured in turns with it.
//!
//! Argument: a [`Setting`] as JSON. Lines: `{"evaluation": {"batch": 8}}`, `{"scoring": {"rank": 64, "candidates": 4}}`; no rank
//! compares dense gradients, and candidates are scored as a search does it, as many at once as the plan says; seconds are of one. Answers: a [`Done`] as JSON each. `RAYON_NUM_THREADS` sets the threads.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::error::Error;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};
use taper_arch::SelectedBlock;
use taper_base::workers::for_each;
use taper_model::{Batch, Checkpoint, Model};
use taper_proxies::methods::gradient_trace::GradientTrace;
use taper_proxies::{Base, Needs, Projection, Proxy, Settings};

#[expect(dead_code, reason = "FLOPs are those of language models")]
mod shared;
use shared::first_units;

/// What all orders share. Files of images hold `pixel_values` and `labels`.
#[derive(Deserialize)]
struct Setting {
    model: PathBuf,
    images: PathBuf,
    score_images: PathBuf,
    /// Ratio of heads and of channels kept in each block, the first ones.
    kept: f64,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Order {
    /// Logits of all images, so many at once.
    Evaluation { batch: usize },
    /// Score so many candidates, all the same.
    Scoring { rank: Option<usize>, candidates: usize },
}

#[derive(Serialize)]
struct Done {
    seconds: f64,
    flops: f64,
    /// Mean cross-entropy.
    loss: f64,
    /// Share of images whose label is first, or the candidate's score.
    value: f64,
}

struct Images {
    pixels: Vec<f32>,
    labels: Vec<u32>,
}

impl Images {
    fn read(path: &Path) -> Result<Self, Box<dyn Error>> {
        let tensors = candle_core::safetensors::load(path, &Device::Cpu)?;
        let labels = tensors["labels"].to_dtype(DType::U32)?.to_vec1()?;
        Ok(Self { pixels: tensors["pixel_values"].flatten_all()?.to_vec1()?, labels })
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    taper_base::heap::keep_freed(); // as taper does
    let argument = std::env::args().nth(1).ok_or("usage: score_images SETTING, see the top of its source")?;
    let setting: Setting = serde_json::from_str(&argument)?;
    let model = Model::load(&Checkpoint::open(&setting.model)?)?;
    let (judged, scored) = (Images::read(&setting.images)?, Images::read(&setting.score_images)?);
    let kept: Vec<SelectedBlock> = model.spec().blocks.iter().map(|block| first_units(block, setting.kept)).collect();
    let mut bases: HashMap<Option<usize>, Base<'_>> = HashMap::new();
    for line in std::io::stdin().lock().lines() {
        let done = match serde_json::from_str(&line?)? {
            Order::Evaluation { batch } => evaluate(&model, &judged, batch)?,
            Order::Scoring { rank, candidates } => {
                let projection = rank.map_or(Projection::Dense, Projection::Rank);
                let proxy = GradientTrace { sketch_rank: projection, ..GradientTrace::default() };
                let base = match bases.entry(rank) {
                    Entry::Occupied(made) => made.into_mut(),
                    Entry::Vacant(place) => {
                        let needs = Needs { loss: true, ..proxy.needs() };
                        let image = model.spec().image.ok_or("no model of images")?;
                        let batch = Batch::images(&scored.pixels, &scored.labels, image)?;
                        place.insert(Base::new(&model, batch, Settings { needs, seed: 0, memory: u64::MAX })?)
                    }
                };
                let start = Instant::now();
                let seen = for_each(&vec![&kept; candidates], base.plan().workers, |kept| base.observe(kept))?;
                let seen = seen.first().ok_or("no candidate is to be scored")?;
                let value = proxy.score(seen)?;
                let seconds = start.elapsed().as_secs_f64() / candidates as f64;
                Done { seconds, flops: 0.0, loss: seen.loss.unwrap_or(f64::NAN), value }
            }
        };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", serde_json::to_string(&done)?)?;
        out.flush()?;
    }
    Ok(())
}

fn evaluate(model: &Model, images: &Images, batch: usize) -> Result<Done, Box<dyn Error>> {
    let image = model.spec().image.ok_or("no model of images")?;
    let (classes, start) = (model.spec().vocab, Instant::now());
    let mut logits: Vec<f32> = Vec::new();
    for piece in Batch::images(&images.pixels, &images.labels, image)?.pieces(batch * image.tokens()) {
        logits.extend(model.logits(piece)?.flatten_all()?.to_vec1::<f32>()?);
    }
    let seconds = start.elapsed().as_secs_f64();
    let (mut loss, mut right) = (0.0, 0);
    for (row, label) in logits.chunks(classes).zip(&images.labels) {
        loss += f64::from(taper_kernels::rows::log_sum(row, 1.0) - row[*label as usize]);
        right += usize::from(row.iter().all(|logit| *logit <= row[*label as usize]));
    }
    let n = images.labels.len() as f64;
    Ok(Done { seconds, flops: 0.0, loss: loss / n, value: right as f64 / n })
}
