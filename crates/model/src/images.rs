//! What a model of images has before and after its blocks: pixels become tokens, tokens become what the classifier sees.
//!
//! Token `i` of an image is `W · patch_i + b + position_i`, patches row by row, after the learnt tokens, `token_i + position_i`.
//! Source: arXiv:2010.11929; distillation token arXiv:2012.12877; class token beside the mean of patches arXiv:2304.07193.
//!
//! The classifier's bias is the last column of the head in memory, and what the head sees ends in a 1. Where several tokens have
//! classifiers of their own, the head is all of them side by side, each divided by their number: the mean of their logits.
//! All of this runs on the CPU.

use std::ops::Range;

use candle_core::{Device, Tensor as Host};
use rayon::prelude::*;
use taper_arch::{ImageSpec, ModelSpec, Pool};
use taper_kernels::cpu::Values;
use taper_kernels::{KernelError, Result, Tensor, into_units};

use crate::{Gradient, Parameter, Place, Sink};

/// All but the patches' projection and the (first) classifier's weight.
#[derive(Debug, Clone)]
pub(crate) struct Images {
    spec: ImageSpec,
    patch_bias: Tensor,                     // [d_model]
    learnt: Vec<Tensor>,                    // [1, d_model] each: the tokens before the patches
    positions: Tensor,                      // [tokens, d_model]
    head_bias: Tensor,                      // [classes]
    distillation: Option<(Tensor, Tensor)>, // the second classifier: [classes, d_model], [classes]
}

/// The learnt tokens, in their order.
const LEARNT: [Parameter; 2] = [Parameter::ClassToken, Parameter::DistillationToken];

fn host(op: &'static str, values: Vec<f32>, shape: [usize; 2]) -> Result<Tensor> {
    let tensor = Host::from_vec(values, &shape, &Device::Cpu);
    Ok(tensor.map_err(|cause| KernelError::Tensor { op, cause })?.into())
}

fn values<'a>(op: &'static str, tensor: &'a Tensor) -> Result<Values<'a>> {
    Values::of(op, tensor.host(op)?)
}

impl Images {
    /// Those of a model of images, from its parameters as they are in memory.
    pub(crate) fn assemble<E>(
        spec: &ModelSpec,
        take: &dyn Fn(Parameter) -> std::result::Result<Tensor, E>,
    ) -> std::result::Result<Option<Self>, E> {
        let Some(image) = spec.image else { return Ok(None) };
        let distillation = match image.pool {
            Pool::EachPrefix => Some((take(Parameter::DistillationHead)?, take(Parameter::DistillationHeadBias)?)),
            Pool::First | Pool::FirstAndMean => None,
        };
        Ok(Some(Self {
            spec: image,
            patch_bias: take(Parameter::PatchBias)?,
            learnt: LEARNT.into_iter().take(image.prefix).map(take).collect::<std::result::Result<_, _>>()?,
            positions: take(Parameter::Positions)?,
            head_bias: take(Parameter::HeadBias)?,
            distillation,
        }))
    }

    pub(crate) fn each(&self, to: &dyn Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        let distillation = match &self.distillation {
            Some((weight, bias)) => Some((to(weight)?, to(bias)?)),
            None => None,
        };
        Ok(Self {
            spec: self.spec,
            patch_bias: to(&self.patch_bias)?,
            learnt: self.learnt.iter().map(to).collect::<Result<_>>()?,
            positions: to(&self.positions)?,
            head_bias: to(&self.head_bias)?,
            distillation,
        })
    }

    /// `[tokens, d_model]`.
    pub(crate) fn positions(&self) -> &Tensor {
        &self.positions
    }

    /// The same for images of other sizes, with their positions.
    pub(crate) fn at(&self, spec: ImageSpec, positions: Tensor) -> Self {
        Self { spec, positions, ..self.clone() }
    }

    /// What is before the blocks; `projection` is the patches'.
    pub(crate) fn tensors<'a>(&'a self, projection: &'a Tensor) -> impl Iterator<Item = (Parameter, &'a Tensor)> {
        let learnt = LEARNT.into_iter().zip(&self.learnt);
        let first = [(Parameter::Patches, projection), (Parameter::PatchBias, &self.patch_bias)];
        first.into_iter().chain(learnt).chain([(Parameter::Positions, &self.positions)])
    }

    /// What belongs to the head beside its weight.
    pub(crate) fn heads(&self) -> impl Iterator<Item = (Parameter, &Tensor)> {
        let second = self.distillation.iter().flat_map(|(weight, bias)| {
            [(Parameter::DistillationHead, weight), (Parameter::DistillationHeadBias, bias)]
        });
        [(Parameter::HeadBias, &self.head_bias)].into_iter().chain(second)
    }

    /// Pixels `[images, channels, height, width]` as patches, `[images · patches, channels · patch · patch]`.
    fn patches(&self, pixels: &[f32]) -> Result<Tensor> {
        let ImageSpec { size: [height, width], patch, .. } = self.spec;
        let ([_, columns], width_of) = (self.spec.grid(), self.spec.patch_values());
        let each = self.spec.pixels();
        let mut out = vec![0.0; pixels.len()];
        out.par_chunks_mut(each).zip(pixels.par_chunks(each)).for_each(|(out, image)| {
            for (number, out) in out.chunks_mut(width_of).enumerate() {
                let (top, left) = (number / columns * patch, number % columns * patch);
                for (line, out) in out.chunks_mut(patch).enumerate() {
                    let (channel, row) = (line / patch, top + line % patch);
                    let from = (channel * height + row) * width + left;
                    out.copy_from_slice(&image[from..from + patch]);
                }
            }
        });
        let rows = pixels.len() / width_of.max(1);
        host("patches", out, [rows, width_of])
    }

    /// The residual stream before the first block, `[images · tokens, d_model]`.
    pub(crate) fn embed(&self, projection: &Tensor, pixels: &[f32]) -> Result<Tensor> {
        const OP: &str = "image embedding";
        let projected = into_units(&self.patches(pixels)?, projection, Some(&self.patch_bias))?;
        let (projected, positions) = (values(OP, &projected)?, values(OP, &self.positions)?);
        let learnt = self.learnt.iter().map(|token| values(OP, token)).collect::<Result<Vec<_>>>()?;
        let (tokens, d) = (self.spec.tokens(), self.positions.dims()[1]);
        let images = pixels.len() / self.spec.pixels();
        let mut out = vec![0.0; images * tokens * d];
        let patches = self.spec.patches() * d;
        out.par_chunks_mut(tokens * d).zip(projected.par_chunks(patches)).for_each(|(out, patches)| {
            let rows = learnt.iter().map(|token| &**token).chain(patches.chunks(d));
            for ((out, x), position) in out.chunks_mut(d).zip(rows).zip(positions.chunks(d)) {
                out.iter_mut().zip(x).zip(position).for_each(|((out, x), position)| *out = x + position);
            }
        });
        host(OP, out, [images * tokens, d])
    }

    /// Hands the gradients of what is before the blocks to `sink`; `g` is that of the residual stream there.
    pub(crate) fn embed_backward(&self, pixels: &[f32], g: &Tensor, sink: &mut dyn Sink) -> Result<()> {
        let (tokens, prefix) = (self.spec.tokens() as u32, self.spec.prefix as u32);
        let images = (g.dims()[0] / tokens as usize) as u32;
        let ids: Vec<u32> = (0..images * tokens).map(|row| row % tokens).collect();
        sink.take(Place::global(Parameter::Positions), Gradient::Rows { ids: &ids, dy: g, vocab: tokens as usize })?;
        for (number, parameter) in LEARNT.into_iter().take(self.learnt.len()).enumerate() {
            let rows: Vec<u32> = (0..images).map(|image| image * tokens + number as u32).collect();
            let same = vec![0; rows.len()];
            let gradient = Gradient::Rows { ids: &same, dy: &g.pick(&rows)?, vocab: 1 };
            sink.take(Place::global(parameter), gradient)?;
        }
        let rows: Vec<u32> = (0..images * tokens).filter(|row| row % tokens >= prefix).collect();
        let (g, patches) = (g.pick(&rows)?, self.patches(pixels)?);
        sink.take(Place::global(Parameter::PatchBias), Gradient::Bias { dy: &g })?;
        let gradient = Gradient::Matrix { units: &g, other: &patches, weight: &g };
        sink.take(Place::global(Parameter::Patches), gradient)
    }

    /// The rows of the residual stream that the head reads, of so many images; none if it reads all.
    pub(crate) fn read(&self, images: usize) -> Option<Vec<u32>> {
        let (tokens, read) = (self.spec.tokens(), self.whole(1).len());
        let some = self.spec.pool != Pool::FirstAndMean && read < tokens;
        some.then(|| (0..images * read).map(|row| (row / read * tokens + row % read) as u32).collect())
    }

    /// What the head sees, `[images, pooled · d_model + 1]`, of the normed residual stream; `alone` is whether that has those rows
    /// alone that are read.
    pub(crate) fn pool(&self, x: &Tensor, alone: bool) -> Result<Tensor> {
        const OP: &str = "pool";
        let (input, d) = (values(OP, x)?, x.dims()[1]);
        let tokens = if alone { self.whole(1).len() } else { self.spec.tokens() };
        let width = self.spec.pooled() * d + 1;
        let images = x.dims()[0] / tokens;
        let mut out = vec![1.0; images * width];
        let share = 1.0 / self.spec.patches() as f32;
        out.par_chunks_mut(width).zip(input.par_chunks(tokens * d)).for_each(|(out, x)| {
            let whole = self.whole(d);
            out[whole.clone()].copy_from_slice(&x[whole.clone()]);
            if self.spec.pool == Pool::FirstAndMean {
                let mean = &mut out[whole.end..width - 1];
                mean.fill(0.0);
                for patch in x[self.spec.prefix * d..].chunks(d) {
                    mean.iter_mut().zip(patch).for_each(|(mean, x)| *mean += x);
                }
                mean.iter_mut().for_each(|mean| *mean *= share);
            }
        });
        host(OP, out, [images, width])
    }

    /// Where the tokens lie that are seen as they are.
    fn whole(&self, d: usize) -> Range<usize> {
        0..d * if self.spec.pool == Pool::EachPrefix { self.spec.prefix } else { 1 }
    }

    /// The gradient of the normed residual stream from that of what the head sees.
    pub(crate) fn pool_backward(&self, dy: &Tensor, d: usize, alone: bool) -> Result<Tensor> {
        const OP: &str = "pool_backward";
        let (slopes, [images, width]) = (values(OP, dy)?, [dy.dims()[0], dy.dims()[1]]);
        let tokens = if alone { self.whole(1).len() } else { self.spec.tokens() };
        let mut out = vec![0.0; images * tokens * d];
        let share = 1.0 / self.spec.patches() as f32;
        out.par_chunks_mut(tokens * d).zip(slopes.par_chunks(width)).for_each(|(out, dy)| {
            let whole = self.whole(d);
            out[whole.clone()].copy_from_slice(&dy[whole.clone()]);
            if self.spec.pool == Pool::FirstAndMean {
                for patch in out[self.spec.prefix * d..].chunks_mut(d) {
                    patch.iter_mut().zip(&dy[whole.end..]).for_each(|(out, slope)| *out = slope * share);
                }
            }
        });
        host(OP, out, [images * tokens, d])
    }

    /// The classifiers as one head, `[classes, pooled · d_model + 1]`; `weight` is the first one's.
    pub(crate) fn head(&self, weight: &Tensor) -> Result<Tensor> {
        const OP: &str = "classifier";
        let mut all = vec![(weight, &self.head_bias)];
        all.extend(self.distillation.iter().map(|(weight, bias)| (weight, bias)));
        let share = 1.0 / all.len() as f32;
        let parts: Vec<(Vec<f32>, Vec<f32>)> =
            all.into_iter().map(|(weight, bias)| Ok((weight.to_vec()?, bias.to_vec()?))).collect::<Result<_>>()?;
        let (classes, d) = (weight.dims()[0], weight.dims()[1]);
        let width = d * parts.len() + 1;
        let mut out = vec![0.0; classes * width];
        for (class, out) in out.chunks_mut(width).enumerate() {
            for (part, (weight, bias)) in parts.iter().enumerate() {
                let row = &weight[class * d..(class + 1) * d];
                out[part * d..(part + 1) * d].iter_mut().zip(row).for_each(|(out, w)| *out = w * share);
                out[width - 1] += bias[class] * share;
            }
        }
        host(OP, out, [classes, width])
    }

    /// Hands the gradients of all classifiers to `sink`: `input` is what the head saw, `slopes` the gradient of the logits.
    pub(crate) fn head_gradients(
        &self,
        weight: &Tensor,
        (input, slopes): (&Tensor, &Tensor),
        sink: &mut dyn Sink,
    ) -> Result<()> {
        const OP: &str = "classifier";
        let candle = |cause| KernelError::Tensor { op: OP, cause };
        let parts = 1 + self.distillation.iter().count();
        let scaled = (slopes.host(OP)? * (1.0 / parts as f64)).map_err(candle)?.into();
        let slopes = if parts == 1 { slopes } else { &scaled };
        let places = [
            (Parameter::Head, Parameter::HeadBias, Some(weight)),
            (Parameter::DistillationHead, Parameter::DistillationHeadBias, self.distillation.as_ref().map(|d| &d.0)),
        ];
        for (part, (matrix, bias, weight)) in places.into_iter().enumerate() {
            let Some(weight) = weight else { continue };
            let width = weight.dims()[1];
            let seen = input.host(OP)?.narrow(1, part * width, width).and_then(|seen| seen.contiguous());
            let other = seen.map_err(candle)?.into();
            sink.take(Place::global(matrix), Gradient::Matrix { units: slopes, other: &other, weight })?;
            sink.take(Place::global(bias), Gradient::Bias { dy: slopes })?;
        }
        Ok(())
    }
}
