//! What is trained: parameters of the model itself, or adapters beside them; their gradients and their optimizer's state.
//!
//! The engine runs on a [`Model`] whose trained tensors are f32 and are changed in place: the next pass sees them. Frozen
//! ones are shared with the model it was made of, in the type they are stored in.
//!
//! On a GPU passes run on a second model there, and gradients are summed there in f32; the weights in f32 and the optimizer's
//! state stay on the host, as in arXiv:2101.06840 (ZeRO-Offload): a step ends with the gradients' way to the host, the
//! optimizer, and the way back of what changed, rounded to the type there. So a GPU holds 6 bytes a parameter that is trained in
//! bf16, where AdamW's state there would make 18 of it.

mod adapters;
mod peft;
mod whole;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{DType, Device, Tensor as Host};
use serde::{Deserialize, Serialize};
use taper_kernels::cuda::{Array, Kind as Type, Machine, Storage};
use taper_kernels::{KernelError, Tensor, cpu, set_unit_gradient};
use taper_model::{Gradient, Model, Place, Sink};

use crate::error::{HealError, Result};
use crate::optimizers::{Kind, Optimizer, Slot};
use adapters::Adapters;

pub use peft::write_adapters;

/// What is trained of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Training {
    /// The parameters that one of these patterns names, in full.
    Parameters(Vec<String>),
    /// Low-rank adapters.
    Adapters(AdapterSettings),
}

/// Adapters of matrices: `W + (alpha / rank) · B A`, with DoRA `m · (W + …) / ‖W + …‖` per output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdapterSettings {
    /// Rank of the product.
    pub rank: usize,
    /// Its weight is `alpha / rank`.
    pub alpha: f64,
    /// Patterns of the matrices that have one.
    pub targets: Vec<String>,
    /// Whether each output's magnitude is trained, too.
    pub dora: bool,
}

/// One array of numbers that is trained.
pub(crate) struct Weight {
    /// Its name in checkpoints of the training.
    pub(crate) name: String,
    pub(crate) values: Host,
    gradient: Host,
    /// Where the passes run on a machine: its gradient there, in f32.
    there: Option<Array>,
    /// Whether the gradient holds nothing yet of this step, but what the last one left.
    stale: AtomicBool,
    /// The optimizer's buffers.
    pub(crate) state: Vec<Vec<f32>>,
    shape: Vec<usize>,
    hidden: bool,
    transposed: bool,
}

impl Weight {
    fn new(name: String, values: Host, (hidden, transposed): (bool, bool), optimizer: &dyn Optimizer) -> Result<Self> {
        let shape = values.dims().to_vec();
        let gradient = zeros(&shape)?;
        let buffers = optimizer.buffers(Kind { shape: &shape, hidden, transposed });
        let state = vec![vec![0.0; values.elem_count()]; buffers];
        let stale = AtomicBool::new(false);
        Ok(Self { name, values, gradient, there: None, stale, state, shape, hidden, transposed })
    }

    /// What gradients are added to.
    fn sum(&self) -> Tensor {
        self.there.clone().map_or_else(|| self.gradient.clone().into(), Tensor::from)
    }

    fn clear(&self) -> taper_kernels::Result<()> {
        match &self.there {
            Some(there) => Ok(there.clear()?),
            None => cpu::change("clear", &self.gradient, |values| values.fill(0.0)),
        }
    }

    /// Brings the gradient from where it was summed to the host.
    fn bring(&self) -> taper_kernels::Result<()> {
        let Some(there) = &self.there else { return Ok(()) };
        Ok(cpu::change("bring", &self.gradient, |to| there.read(to))??)
    }

    /// Adds to the gradient, or puts it in the place of what the last step left.
    fn add(&self, gradient: &Gradient<'_>) -> taper_kernels::Result<()> {
        let stale = self.stale.swap(false, Ordering::Relaxed);
        match gradient {
            Gradient::Matrix { units, other, .. } if stale => set_unit_gradient(&self.sum(), units, other),
            _ => {
                if stale {
                    self.clear()?;
                }
                gradient.add_to(&self.sum())
            }
        }
    }

    fn update(&mut self, optimizer: &dyn Optimizer, (step, rate, scale): (u64, f64, f32)) -> Result<()> {
        let gradient = cpu::Values::of("update", &self.gradient)?;
        let kind = Kind { shape: &self.shape, hidden: self.hidden, transposed: self.transposed };
        let state = &mut self.state;
        cpu::change("update", &self.values, |weight| {
            optimizer.update(Slot { kind, weight, gradient: &gradient, scale, state }, step, rate);
        })?;
        Ok(())
    }
}

pub(crate) fn zeros(shape: &[usize]) -> Result<Host> {
    Host::zeros(shape, DType::F32, &Device::Cpu).map_err(candle("zeros"))
}

/// A copy in f32 that nobody shares.
fn own(tensor: &Tensor) -> Result<Host> {
    let values = tensor.to_vec()?;
    Host::from_vec(values, tensor.dims(), &Device::Cpu).map_err(candle("copy"))
}

fn candle(op: &'static str) -> impl FnOnce(candle_core::Error) -> HealError {
    move |cause| HealError::Kernel(KernelError::Tensor { op, cause })
}

/// Fills a weight's values, or one of its buffers.
pub(crate) type Filler<'a> = dyn FnMut(&str, Option<usize>, &mut [f32]) -> Result<()> + 'a;

/// A model in training.
pub(crate) struct Trained {
    model: Model,
    there: Option<Model>, // the same on a machine, where passes run
    weights: Vec<Weight>,
    adapters: Option<Adapters>,
    places: BTreeMap<Place, usize>, // of whole parameters: their place among `weights`
}

impl Trained {
    /// `student`, with what `training` says ready to be trained by `optimizer`, its passes on `machine` if there is one; adapters
    /// begin at numbers drawn from `seed`.
    pub(crate) fn new(
        student: Model,
        training: &Training,
        (optimizer, seed): (&dyn Optimizer, u64),
        machine: Option<&(Arc<dyn Machine>, Storage)>,
    ) -> Result<Self> {
        let mut trained = match training {
            Training::Parameters(patterns) => whole::begin(student, patterns, optimizer)?,
            Training::Adapters(settings) => adapters::begin(student, settings, optimizer, seed)?,
        };
        if let Some((machine, storage)) = machine {
            trained.there = Some(trained.model.to_machine(machine, *storage)?);
            for weight in &mut trained.weights {
                let gradient = Array::uninitialised(machine, &weight.shape, Type::F32).map_err(KernelError::from)?;
                weight.there = Some(gradient);
                weight.stale = AtomicBool::new(true);
            }
            trained.refresh()?;
        }
        Ok(trained)
    }

    /// The model as it is now, on the host.
    pub(crate) fn model(&self) -> &Model {
        &self.model
    }

    /// The same where passes run.
    pub(crate) fn running(&self) -> &Model {
        self.there.as_ref().unwrap_or(&self.model)
    }

    pub(crate) fn weights(&self) -> &[Weight] {
        &self.weights
    }

    /// How many numbers are trained.
    pub(crate) fn count(&self) -> u64 {
        self.weights.iter().map(|weight| weight.values.elem_count() as u64).sum()
    }

    /// Whether the head's gradient is wanted.
    pub(crate) fn wants_head(&self) -> bool {
        let tied = self.model.spec().tied_head;
        let head = if tied { taper_model::Parameter::Embedding } else { taper_model::Parameter::Head };
        self.places.contains_key(&Place::global(head))
    }

    /// Sets all gradients to 0.
    pub(crate) fn clear(&mut self) -> Result<()> {
        self.weights.iter().for_each(|weight| weight.stale.store(true, Ordering::Relaxed));
        if self.adapters.is_some() { self.settle() } else { Ok(()) }
    }

    /// Sets those gradients to 0 that nothing was added to.
    fn settle(&self) -> Result<()> {
        let mut stale = self.weights.iter().filter(|weight| weight.stale.swap(false, Ordering::Relaxed));
        Ok(stale.try_for_each(Weight::clear)?)
    }

    /// What gradients of a pass go to.
    pub(crate) fn sink(&self) -> Gradients<'_> {
        Gradients { trained: self, tied: self.model.spec().tied_head }
    }

    /// Completes the gradients after the last pass of a step.
    pub(crate) fn gather(&self) -> Result<()> {
        self.settle()?;
        self.weights.iter().try_for_each(Weight::bring)?;
        self.adapters.as_ref().map_or(Ok(()), |adapters| adapters.gather(&self.weights))
    }

    /// `‖g‖₂` of all gradients together.
    pub(crate) fn norm(&self) -> Result<f64> {
        let squares: std::result::Result<Vec<f64>, _> =
            self.weights.iter().map(|weight| cpu::square_sum(&weight.gradient)).collect();
        Ok(squares?.into_iter().sum::<f64>().sqrt())
    }

    /// `f` for each gradient and its number.
    pub(crate) fn each_gradient(&self, f: &mut dyn FnMut(usize, &mut [f32])) -> Result<()> {
        let mut weights = self.weights.iter().enumerate();
        let done = weights
            .try_for_each(|(index, weight)| cpu::change("gradients", &weight.gradient, |gradient| f(index, gradient)));
        Ok(done?)
    }

    /// One step of the optimizer, `step` from 1 on, at learning rate `rate`; gradients are multiplied with `scale`.
    pub(crate) fn update(&mut self, optimizer: &dyn Optimizer, (step, rate, scale): (u64, f64, f32)) -> Result<()> {
        self.weights.iter_mut().try_for_each(|weight| weight.update(optimizer, (step, rate, scale)))?;
        self.refresh()
    }

    /// Lets the model see weights that were changed, also the one on a machine.
    fn refresh(&mut self) -> Result<()> {
        if let Some(adapters) = &mut self.adapters {
            return adapters.refresh(&self.weights, self.there.as_ref());
        }
        let Some(there) = &self.there else { return Ok(()) };
        for (place, tensor) in there.tensors() {
            let (Some(index), Tensor::Cuda(array)) = (self.places.get(&place), tensor) else { continue };
            let values = cpu::Values::of("refresh", &self.weights[*index].values)?;
            array.write(&values).map_err(KernelError::from)?;
        }
        Ok(())
    }

    /// Copies of all weights' values.
    pub(crate) fn snapshot(&self) -> Result<Vec<Vec<f32>>> {
        let copy = |weight: &Weight| cpu::Values::of("snapshot", &weight.values).map(|values| values.to_vec());
        Ok(self.weights.iter().map(copy).collect::<std::result::Result<_, _>>()?)
    }

    /// Lets `read` fill the values of each weight, by its name, and if `state` the optimizer's buffers, by number.
    pub(crate) fn restore(&mut self, state: bool, read: &mut Filler<'_>) -> Result<()> {
        for weight in &mut self.weights {
            cpu::change("restore", &weight.values, |to| read(&weight.name, None, to))??;
            for (number, buffer) in weight.state.iter_mut().enumerate().filter(|_| state) {
                read(&weight.name, Some(number), buffer)?;
            }
        }
        self.refresh()
    }

    /// Gives back the memory of what only training needs.
    pub(crate) fn rest(&mut self) -> Result<()> {
        for weight in &mut self.weights {
            weight.gradient = zeros(&[0])?;
            weight.there = None;
            weight.state.clear();
        }
        self.there = None;
        Ok(())
    }

    /// A model of its own with `values` as the weights, where passes run.
    pub(crate) fn with_values(&self, values: &[Vec<f32>]) -> Result<Model> {
        let taken = |place: Place, tensor: Tensor| -> Result<Tensor> {
            let Some(index) = self.places.get(&place) else { return Ok(tensor) };
            let weight = &self.weights[*index];
            let copy = Host::from_vec(values[*index].clone(), &weight.shape[..], &Device::Cpu);
            Ok(copy.map_err(candle("copy"))?.into())
        };
        let model = match &self.adapters {
            None => replaced(&self.model, &taken)?,
            Some(adapters) => adapters.merged(&self.model, &self.weights, values)?,
        };
        match self.there.as_ref().and_then(|there| Some((there.machine()?, there.storage()))) {
            Some((machine, storage)) => Ok(model.to_machine(machine, storage)?),
            None => Ok(model),
        }
    }

    pub(crate) fn adapters(&self) -> Option<&Adapters> {
        self.adapters.as_ref()
    }
}

/// `model` with other tensors; `with` is given each and its place.
fn replaced(model: &Model, with: &dyn Fn(Place, Tensor) -> Result<Tensor>) -> Result<Model> {
    let mut tensors = BTreeMap::new();
    for (place, tensor) in model.tensors() {
        tensors.insert(place, with(place, tensor)?);
    }
    let take = |place: Place| {
        let missing =
            || taper_model::ModelError::Selection { place: place.name(model.spec()), reason: "is missing".to_owned() };
        tensors.get(&place).cloned().ok_or_else(missing)
    };
    Ok(Model::assemble(model.spec().clone(), &take)?)
}

/// Sums the gradients of what is trained and lets the others pass.
pub(crate) struct Gradients<'a> {
    trained: &'a Trained,
    tied: bool,
}

impl Sink for Gradients<'_> {
    fn take(&mut self, mut place: Place, gradient: Gradient<'_>) -> taper_kernels::Result<()> {
        if self.tied && place.parameter == taper_model::Parameter::Head {
            place.parameter = taper_model::Parameter::Embedding;
        }
        if let Some(index) = self.trained.places.get(&place) {
            return self.trained.weights[*index].add(&gradient);
        }
        match &self.trained.adapters {
            Some(adapters) => adapters.take(&self.trained.weights, place, &gradient),
            None => Ok(()),
        }
    }
}
