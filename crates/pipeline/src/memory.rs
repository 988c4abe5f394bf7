//! What a search will need, said before it is run.

use std::fmt;

use serde::Serialize;
use taper_arch::ModelSpec;
use taper_base::Bytes;
use taper_kernels::cuda::Storage;
use taper_model::{PassMemory, Recompute};
use taper_proxies::{Load, Plan};

use crate::device::{self, Gpu};
use crate::machine;
use crate::recipe::HealPart;
use crate::{PipelineError, Recipe};

/// Memory that a search takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MemoryNeed {
    /// In all.
    pub total: u64,
    /// Of the weights.
    pub weights: u64,
    /// Of the whole model's gradients.
    pub base: u64,
    /// Of one candidate, at most.
    pub each: u64,
    /// Candidates at once on this machine.
    pub workers: usize,
    /// Whether activations are computed again in the backward pass.
    pub recompute: bool,
    /// Free on this machine now.
    pub free: u64,
    /// Whether all this is the memory of a GPU.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub gpu: bool,
}

impl MemoryNeed {
    /// Of `recipe` for a model of `spec`, on this machine, or its `gpu`.
    pub(crate) fn of(recipe: &Recipe, spec: &ModelSpec, gpu: Option<&Gpu>) -> Result<Self, PipelineError> {
        let proxy = taper_proxies::build(&recipe.search.proxy.name, &recipe.search.proxy.params)?;
        let parts = crate::stages::search::parts(recipe)?;
        let load = Load::new(proxy.needs(), [recipe.data.sequences(), length(recipe, spec)], parts.len());
        let threads = recipe.search.threads.unwrap_or_else(rayon::current_num_threads);
        let weights = device::weights(spec);
        let memory = match gpu {
            None => machine::memory_to_use().saturating_sub(weights / 2), // not loaded yet
            Some(gpu) => gpu.memory_to_use(spec),
        };
        let load = gpu.map_or(load, |_| load.on_machine(Storage::of_bytes(spec.dtype_bytes)));
        let plan = Plan::new(spec, load, memory, threads);
        Ok(Self {
            total: weights + plan.base_bytes + plan.workers as u64 * plan.bytes_each,
            weights,
            base: plan.base_bytes,
            each: plan.bytes_each,
            workers: plan.workers,
            recompute: plan.recompute == Recompute::Insides,
            free: gpu.map_or_else(machine::available_bytes, |gpu| gpu.free),
            gpu: gpu.is_some(),
        })
    }

    /// What to say if there is too little.
    pub(crate) fn note(&self) -> Option<String> {
        let short = self.total > self.free;
        short.then(|| {
            format!("memory: needs {}, {} is free: less data.length helps", Bytes(self.total), Bytes(self.free))
        })
    }
}

/// Tokens of a sequence, or of an image.
fn length(recipe: &Recipe, spec: &ModelSpec) -> usize {
    spec.image.map_or(recipe.data.length, |image| image.tokens())
}

/// Tokens of one of its passes.
fn tokens(part: &HealPart, length: usize) -> usize {
    let length = part.length.unwrap_or(length);
    (part.sequences * length).min(length.max(taper_heal::TOKENS))
}

/// Bytes that training takes at most, if nothing were pruned of a model of `spec`: weights as stored, of teacher and student;
/// what is trained, its gradients and the optimizer's buffers; activations, computed again.
fn healing(part: &HealPart, spec: &ModelSpec, length: usize) -> u64 {
    let numbers = taper_model::parameter_count(spec);
    let buffers = if part.optimizer.name == "lion" { 1 } else { 2 };
    let trained = if part.lora.is_some() { 4 } else { 4 * (2 + buffers) };
    2 * device::weights(spec)
        + trained * numbers
        + PassMemory::of(spec, tokens(part, length)).backward(Recompute::Insides)
}

/// Bytes of a GPU that training takes at most, if nothing were pruned: weights of teacher and student, gradients of what is
/// trained, activations, computed again. What else [`healing`] counts stays on the host.
fn healing_there(part: &HealPart, spec: &ModelSpec, length: usize) -> u64 {
    let [weights, gradients] = device::trained(spec);
    let storage = Storage::of_bytes(spec.dtype_bytes);
    let gradients = if part.lora.is_some() { 0 } else { gradients };
    2 * weights + gradients + PassMemory::on_machine(spec, tokens(part, length), storage).backward(Recompute::Insides)
}

/// What to say if healing could take more memory than is free, on this machine or its `gpu`.
pub(crate) fn healing_note(recipe: &Recipe, spec: &ModelSpec, gpu: Option<&Gpu>) -> Option<String> {
    let part = recipe.heal.as_ref()?;
    let length = length(recipe, spec);
    let here = (healing(part, spec, length), machine::available_bytes(), "", "`lora`, or the optimizer `lion`");
    let there = gpu.map(|gpu| (healing_there(part, spec, length), gpu.free, " on the GPU", "`lora`"));
    let (need, free, on, less) = [Some(here), there].into_iter().flatten().find(|(need, free, ..)| need > free)?;
    let help = if part.lora.is_some() { "a smaller `length`" } else { less };
    Some(format!("heal: needs up to {}{on}, {} is free: {help} helps", Bytes(need), Bytes(free)))
}

impl fmt::Display for MemoryNeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { weights, base, each, workers, recompute, free, .. } = *self;
        let activations = if recompute { "computed again" } else { "kept" };
        let on = if self.gpu { " on the GPU" } else { "" };
        write!(f, "{} of {} free{on}: ", Bytes(self.total), Bytes(free))?;
        write!(f, "weights {}, gradients {}, ", Bytes(weights), Bytes(base))?;
        write!(f, "{workers} at a time with {} each, activations {activations}", Bytes(each))
    }
}
