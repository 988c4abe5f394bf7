//! Low-rank adapters of matrices, LoRA and DoRA: `W' = W + s B A`, and `W' = m ∘ (W + s B A) / ‖W + s B A‖` per output.
//!
//! `s = alpha / rank`. `A` `[rank, d_in]` begins uniform in `±1/sqrt(d_in)`, `B` `[d_out, rank]` at 0, `m` at the norms of
//! `W`'s outputs. In memory a matrix lies with units as rows, `[units, d_model]`, so that o and down lie transposed; their
//! adapter is then `Aᵀ`, `Bᵀ`. Both cases are `W + s L R` with `L` `[units, rank]` and `R` `[rank, d_model]`.
//!
//! The engine runs on `W'`, merged once a step: `2 · rank` operations a weight, against as many a token for each token's own
//! product. Gradients come from the two sides of the matrix's product, `G = unitsᵀ · other`, which is not formed:
//! `dL = s · unitsᵀ (other Rᵀ)`, `dR = s · (units L)ᵀ other`. DoRA's norm is a constant in the backward pass, as in the
//! paper (§4.3): with `f = m / ‖·‖` outputs are first multiplied by `f`, and `dm_j = Σ_t δ_tj y_tj / m_j`, `y` the output.
//!
//! Sources: LoRA arXiv:2106.09685, DoRA arXiv:2402.09353.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor as Host};
use rayon::prelude::*;
use taper_base::rng::{RngExt, stream};
use taper_kernels::{KernelError, Tensor, accumulate, add_unit_gradient, column_dots, cpu, from_units, into_units};
use taper_model::{Gradient, Model, Place};

use super::whole::chosen;
use super::{AdapterSettings, Trained, Weight, candle, own, replaced, zeros};
use crate::error::{HealError, Result};
use crate::optimizers::Optimizer;

/// Adapters of a model.
pub(crate) struct Adapters {
    pub(super) settings: AdapterSettings,
    pub(super) all: Vec<Adapter>,
}

/// One matrix's; its numbers are `weights[at..]`: `L`, `R` and, with DoRA, `m`.
pub(super) struct Adapter {
    pub(super) place: Place,
    pub(super) name: String, // of the matrix in checkpoints
    pub(super) at: usize,
    base: Tensor,     // [units, d_model], as stored
    merged: Host,     // W', f32
    factor: Vec<f32>, // DoRA's m / norm, one an output
    passed: Passed,
}

/// What gradients are made with, where passes run.
struct Passed {
    merged: Tensor,
    sides: [Tensor; 2], // `L` and `R`; with DoRA the one of the outputs is multiplied by their factors
}

pub(super) fn begin(
    student: Model,
    settings: &AdapterSettings,
    optimizer: &dyn Optimizer,
    seed: u64,
) -> Result<Trained> {
    let matrices: Vec<Place> = student
        .tensors()
        .into_iter()
        .map(|(place, _)| place)
        .filter(|place| place.parameter.traced().is_some())
        .collect();
    let chosen = chosen("lora.targets", &settings.targets, (student.spec(), &matrices))?;
    let mut weights = Vec::new();
    let mut all = Vec::new();
    for (place, base) in student.tensors() {
        if place.parameter.traced().is_none() || !chosen.is_match(place.name(student.spec())) {
            continue;
        }
        let least = base.dims().iter().copied().min().unwrap_or(0);
        if settings.rank == 0 || settings.rank > least {
            let name = place.name(student.spec());
            let reason = format!("{}, wanted 1 to {least}, the smaller side of {name}", settings.rank);
            return Err(HealError::Setting { key: "lora.rank", reason });
        }
        let (name, merged) = (place.name(student.spec()), own(&base)?);
        let nothing = Tensor::from(zeros(&[0])?); // until they are merged
        let passed = Passed { merged: merged.clone().into(), sides: [nothing.clone(), nothing] };
        let adapter = Adapter { place, name, at: weights.len(), merged, base, factor: Vec::new(), passed };
        adapter.weights(settings, optimizer, seed, &mut weights)?;
        all.push(adapter);
    }
    let model = replaced(&student, &|place, tensor| {
        Ok(all.iter().find(|adapter| adapter.place == place).map_or(tensor, |adapter| adapter.merged.clone().into()))
    })?;
    let mut adapters = Adapters { settings: settings.clone(), all };
    adapters.refresh(&weights, None)?;
    Ok(Trained { model, there: None, weights, adapters: Some(adapters), places: BTreeMap::new() })
}

impl Adapter {
    fn transposed(&self) -> bool {
        self.place.parameter.transposed()
    }

    /// Makes the numbers to be trained.
    fn weights(
        &self,
        settings: &AdapterSettings,
        optimizer: &dyn Optimizer,
        seed: u64,
        weights: &mut Vec<Weight>,
    ) -> Result<()> {
        let (units, d, rank) = (self.merged.dims()[0], self.merged.dims()[1], settings.rank);
        let mut rng = stream(seed, "adapter", self.at as u64, 0);
        let d_in = if self.transposed() { units } else { d };
        let bound = 1.0 / (d_in as f64).sqrt();
        let values: Vec<f32> =
            (0..d_in * rank).map(|_| (rng.random::<f64>() * 2.0 - 1.0) * bound).map(|x| x as f32).collect();
        let random = |shape: [usize; 2]| Host::from_vec(values, &shape[..], &Device::Cpu).map_err(candle("adapter"));
        let [left, right] = match self.transposed() {
            true => [random([units, rank])?, zeros(&[rank, d])?],
            false => [zeros(&[units, rank])?, random([rank, d])?],
        };
        let kind = (true, self.transposed());
        weights.push(Weight::new(format!("{}.left", self.name), left, kind, optimizer)?);
        weights.push(Weight::new(format!("{}.right", self.name), right, kind, optimizer)?);
        if settings.dora {
            let values = cpu::Values::of("adapter", &self.merged)?;
            let norms: Vec<f32> = norms(&values, d, self.transposed()).into_iter().map(|x| x as f32).collect();
            let shape = norms.len();
            let norms = Host::from_vec(norms, shape, &Device::Cpu).map_err(candle("adapter"))?;
            weights.push(Weight::new(format!("{}.magnitude", self.name), norms, (false, false), optimizer)?);
        }
        Ok(())
    }

    /// `W'` of `left`, `right` and `magnitude` into `merged`; DoRA's factors are returned.
    fn merge(
        &self,
        scale: f32,
        [left, right]: [&Host; 2],
        magnitude: Option<&[f32]>,
        merged: &Host,
    ) -> Result<Vec<f32>> {
        let d = merged.dims()[1];
        let scaled = (left * f64::from(scale)).map_err(candle("merge"))?;
        let product = cpu::from_units(None, &[(&scaled, right)], None)?; // [units, d_model]
        let product = cpu::Values::of("merge", &product)?;
        let host = self.base.host("merge")?;
        let (stored, widened);
        let base: &[f32] = if host.dtype() == DType::F32 {
            stored = cpu::Values::of("merge", host)?;
            &stored
        } else {
            widened = self.base.to_vec()?;
            &widened
        };
        let factor = cpu::change("merge", merged, |out| {
            out.par_chunks_mut(d).zip(product.par_chunks(d)).zip(base.par_chunks(d)).for_each(|((out, more), base)| {
                out.iter_mut().zip(base).zip(more).for_each(|((out, base), more)| *out = base + more);
            });
            let Some(magnitude) = magnitude else { return Vec::new() };
            let norms = norms(out, d, self.transposed());
            let factor: Vec<f32> = magnitude
                .iter()
                .zip(norms)
                .map(|(m, norm)| (f64::from(*m) / norm.max(f64::MIN_POSITIVE)) as f32)
                .collect();
            scale_outputs(out, d, &factor, self.transposed());
            factor
        })?;
        Ok(factor)
    }
}

/// Norm of each output of a matrix in rows of `d`: of its rows, or of its columns if it lies transposed.
fn norms(values: &[f32], d: usize, transposed: bool) -> Vec<f64> {
    if !transposed {
        let square = |row: &[f32]| row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        return values.par_chunks(d.max(1)).map(square).collect();
    }
    let mut sums = vec![0.0; d];
    for row in values.chunks(d.max(1)) {
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x).powi(2));
    }
    sums.into_iter().map(f64::sqrt).collect()
}

/// Multiplies each output by its factor.
fn scale_outputs(values: &mut [f32], d: usize, factor: &[f32], transposed: bool) {
    values.par_chunks_mut(d.max(1)).enumerate().for_each(|(unit, row)| {
        if transposed {
            row.iter_mut().zip(factor).for_each(|(x, factor)| *x *= factor);
        } else {
            row.iter_mut().for_each(|x| *x *= factor[unit]);
        }
    });
}

impl Adapters {
    fn scale(&self) -> f32 {
        (self.settings.alpha / self.settings.rank as f64) as f32
    }

    /// Adds what `gradient` of the matrix at `place` is to its adapter, but for factors that [`Self::gather`] brings.
    pub(super) fn take(&self, weights: &[Weight], place: Place, gradient: &Gradient<'_>) -> taper_kernels::Result<()> {
        let Some(adapter) = self.all.iter().find(|adapter| adapter.place == place) else { return Ok(()) };
        let Gradient::Matrix { units, other, .. } = gradient else { return Ok(()) };
        let [left, right] = [&weights[adapter.at], &weights[adapter.at + 1]];
        let Passed { merged, sides: [l, r] } = &adapter.passed;
        if self.settings.dora {
            let products = if adapter.transposed() {
                (other, from_units(None, &[(units, merged)], None)?) // [tokens, d_model]
            } else {
                (units, into_units(other, merged, None)?) // [tokens, units]
            };
            accumulate(&weights[adapter.at + 2].sum(), &column_dots(products.0, &products.1)?)?;
        }
        let narrow = into_units(other, r, None)?; // [tokens, rank]
        add_unit_gradient(&left.sum(), units, &narrow)?;
        let narrow = from_units(None, &[(*units, l)], None)?; // [tokens, rank]
        add_unit_gradient(&right.sum(), &narrow, other)
    }

    /// Multiplies gradients by what they have in common.
    pub(super) fn gather(&self, weights: &[Weight]) -> Result<()> {
        let scale = self.scale();
        for adapter in &self.all {
            for side in 0..2 {
                let gradient = &weights[adapter.at + side].gradient;
                let d = gradient.dims()[1];
                let outputs = side == usize::from(adapter.transposed()); // the side of the outputs
                cpu::change("gather", gradient, |values| {
                    values.iter_mut().for_each(|x| *x *= scale);
                    if self.settings.dora && outputs {
                        scale_outputs(values, d, &adapter.factor, adapter.transposed());
                    }
                })?;
            }
            if self.settings.dora {
                let magnitude = &weights[adapter.at + 2];
                let values = cpu::Values::of("gather", &magnitude.values)?;
                cpu::change("gather", &magnitude.gradient, |gradient| {
                    gradient.iter_mut().zip(values.iter()).for_each(|(g, m)| *g /= m);
                })?;
            }
        }
        Ok(())
    }

    /// Merges all again, also into the model `there` on a machine.
    pub(super) fn refresh(&mut self, weights: &[Weight], there: Option<&Model>) -> Result<()> {
        let (scale, dora) = (self.scale(), self.settings.dora);
        let there: BTreeMap<Place, Tensor> =
            there.map(|model| model.tensors().into_iter().collect()).unwrap_or_default();
        for adapter in &mut self.all {
            let sides = [&weights[adapter.at].values, &weights[adapter.at + 1].values];
            let magnitude = dora.then(|| cpu::Values::of("merge", &weights[adapter.at + 2].values)).transpose()?;
            adapter.factor = adapter.merge(scale, sides, magnitude.as_deref(), &adapter.merged)?;
            adapter.passed.merged = match there.get(&adapter.place) {
                Some(Tensor::Cuda(array)) => {
                    array.write(&cpu::Values::of("merge", &adapter.merged)?).map_err(KernelError::from)?;
                    array.clone().into()
                }
                _ => adapter.merged.clone().into(),
            };
            let outputs = usize::from(adapter.transposed()); // the side that DoRA's factors are on
            let mut passed = sides.map(|side| Tensor::from(side.clone()));
            if dora {
                passed[outputs] = scaled(sides[outputs], &adapter.factor, adapter.transposed())?.into();
            }
            let [l, r] = passed;
            let beside = |side: Tensor| side.beside(&adapter.passed.merged);
            adapter.passed.sides = [beside(l)?, beside(r)?];
        }
        Ok(())
    }

    /// `model` with other `values` of the weights, merged into matrices of its own.
    pub(super) fn merged(&self, model: &Model, weights: &[Weight], values: &[Vec<f32>]) -> Result<Model> {
        replaced(model, &|place, tensor| {
            let Some(adapter) = self.all.iter().find(|adapter| adapter.place == place) else { return Ok(tensor) };
            let side = |side: usize| {
                let index = adapter.at + side;
                Host::from_vec(values[index].clone(), &weights[index].shape[..], &Device::Cpu).map_err(candle("merge"))
            };
            let merged = zeros(tensor.dims())?;
            let magnitude = self.settings.dora.then(|| values[adapter.at + 2].as_slice());
            adapter.merge(self.scale(), [&side(0)?, &side(1)?], magnitude, &merged)?;
            Ok(merged.into())
        })
    }
}

/// A copy of `x` with each output multiplied by its factor.
fn scaled(x: &Host, factor: &[f32], columns: bool) -> taper_kernels::Result<Host> {
    let copy = cpu::Values::of("adapter", x)?.to_vec();
    let tensor = Host::from_vec(copy, x.dims(), &Device::Cpu);
    let tensor = tensor.map_err(|cause| taper_kernels::KernelError::Tensor { op: "adapter", cause })?;
    cpu::change("adapter", &tensor, |values| scale_outputs(values, x.dims()[1], factor, columns))?;
    Ok(tensor)
}
