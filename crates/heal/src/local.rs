//! Blocks that learn the original's blocks, each for itself.
//!
//! Student block `i` was block `o(i)` of the teacher. Its input is the teacher's residual stream after block `o(i − 1)`, its
//! target that after block `o(i)`, so that it takes over what removed blocks before it did; the last one also what those after
//! it did. Loss of a block: `Σ (y − t)² / Σ (t − x)²` over a piece, `x` the input: the share of the teacher's update that is
//! missing. Blocks that equal the teacher's and span no other are left alone. The loss of a step is the mean over blocks.
//!
//! Sources: blockwise distillation as in arXiv:1911.13053 (DNA) and arXiv:2411.19146 (Puzzle), which normalise by `Σ t²`;
//! deviation: by the update, since residual streams carry most of their size past a block.

use std::collections::BTreeMap;

use rayon::prelude::*;
use taper_kernels::{Tensor, cpu};
use taper_model::{Model, PassOptions, Recompute, Sink, Slopes};

use crate::error::{HealError, Result};
use crate::losses::Piece;

/// Values handled as one task.
const PIECE: usize = 16 * 1024;

/// The loss of a piece's blocks; gradients go to `sink`.
pub(crate) fn piece(
    (model, teacher, origin): (&Model, Option<&Model>, &[usize]),
    piece: Piece<'_>,
    recompute: Recompute,
    sink: &mut dyn Sink,
) -> Result<Vec<f64>> {
    let Some(teacher) = teacher else {
        return Err(HealError::Setting { key: "teacher", reason: "none, and blocks are to learn from it".to_owned() });
    };
    let changed = changed(model, teacher, origin);
    if changed.is_empty() {
        let reason = "no block differs from the teacher's, so that there is nothing to learn from it".to_owned();
        return Err(HealError::Setting { key: "local", reason });
    }
    let whole = teacher.pass(piece.batch, PassOptions::new(Recompute::Insides))?;
    let begin = teacher.embedded(piece.batch)?;
    let share = piece.share / changed.len() as f64;
    let mut sum = 0.0;
    for (block, [from, upto]) in changed {
        let input = if from == 0 { &begin } else { whole.stream(from - 1) };
        let pass = model.pass_over(piece.batch, (block..block + 1, input.clone()), PassOptions::new(recompute))?;
        let (loss, slopes) = missing(pass.end(), whole.stream(upto), input, share)?;
        sum += loss * share;
        let slopes = model.beside(&slopes)?;
        pass.backward(model, Slopes { end: Some(slopes), streams: BTreeMap::new(), projections: None }, sink)?;
    }
    Ok(vec![sum])
}

/// Blocks to be trained, each with the teacher's blocks that it stands for: the first and the last.
fn changed(model: &Model, teacher: &Model, origin: &[usize]) -> Vec<(usize, [usize; 2])> {
    let (own, all) = (&model.spec().blocks, &teacher.spec().blocks);
    let span = |block: usize| {
        let from = if block == 0 { 0 } else { origin[block - 1] + 1 };
        [from, if block + 1 == own.len() { all.len() - 1 } else { origin[block] }]
    };
    let same = |block: usize| own[block] == all[origin[block]] && span(block) == [origin[block]; 2];
    (0..own.len()).filter(|block| !same(*block)).map(|block| (block, span(block))).collect()
}

/// `Σ (y − t)² / Σ (t − x)²` and `share` times its gradient.
fn missing(y: &Tensor, t: &Tensor, x: &Tensor, share: f64) -> Result<(f64, Tensor)> {
    const OP: &str = "local";
    let [y, t, x] = [y.to_host()?, t.to_host()?, x.to_host()?];
    let shape = y.dims();
    let (y, t, x) = (cpu::Values::of(OP, &y)?, cpu::Values::of(OP, &t)?, cpu::Values::of(OP, &x)?);
    let square = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
    let sums = |a: &[f32], b: &[f32]| -> f64 {
        let parts: Vec<f64> = a.par_chunks(PIECE).zip(b.par_chunks(PIECE)).map(|(a, b)| square(a, b)).collect();
        parts.into_iter().sum()
    };
    let update = sums(&t, &x).max(f64::MIN_POSITIVE);
    let loss = sums(&y, &t) / update;
    let scale = (2.0 * share / update) as f32;
    let mut slopes = vec![0.0; y.len()];
    slopes.par_chunks_mut(PIECE).zip(y.par_chunks(PIECE)).zip(t.par_chunks(PIECE)).for_each(|((slopes, y), t)| {
        slopes.iter_mut().zip(y).zip(t).for_each(|((slope, y), t)| *slope = scale * (y - t));
    });
    let tensor = candle_core::Tensor::from_vec(slopes, shape, &candle_core::Device::Cpu);
    Ok((loss, tensor.map_err(|cause| taper_kernels::KernelError::Tensor { op: OP, cause })?.into()))
}
