//! What a search will need, said before it is run.

use std::fmt;

use serde::Serialize;
use taper_arch::ModelSpec;
use taper_base::Bytes;
use taper_kernels::cuda::Storage;
use taper_model::Recompute;
use taper_proxies::{Load, Plan};

use crate::device::{self, Gpu};
use crate::machine;
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
        let load = Load::new(proxy.needs(), [recipe.data.sequences, recipe.data.length], parts.len());
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
