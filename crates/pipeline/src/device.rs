//! Where a run computes: on the CPU, or on the GPU that the recipe asks for.

use std::sync::Arc;

use taper_arch::ModelSpec;
use taper_heal::Training;
use taper_kernels::cuda::{CudaError, Machine, Storage};
use taper_model::{Model, parameter_count};

use crate::PipelineError;
use crate::recipe::Device;

/// Of the free memory, in percent, what is planned with: the rest is for what allocations lose between each other.
const SHARE: u64 = 90;

/// A GPU that is open.
#[derive(Debug, Clone)]
pub(crate) struct Gpu {
    machine: Arc<dyn Machine>,
    /// What the driver calls it.
    pub(crate) name: String,
    /// Memory that was free when it was opened, in bytes.
    pub(crate) free: u64,
}

impl Gpu {
    /// Memory that passes and gradients of a model of `spec` may fill, in bytes.
    pub(crate) fn memory_to_use(&self, spec: &ModelSpec) -> u64 {
        self.free.saturating_sub(weights(spec)) / 100 * SHARE
    }

    /// Memory that activations may fill while a model of `spec` is trained, in full or by adapters, by a teacher if there is one, in
    /// bytes.
    pub(crate) fn memory_to_heal(&self, spec: &ModelSpec, training: &Training, teacher: Option<&ModelSpec>) -> u64 {
        let [there, gradients] = trained(spec);
        let gradients = if matches!(training, Training::Adapters(_)) { 0 } else { gradients };
        let teacher = teacher.map_or(0, |teacher| trained(teacher)[0]);
        self.free.saturating_sub(there + gradients + teacher) / 100 * SHARE
    }

    /// `model` in its memory.
    pub(crate) fn hold(&self, model: &Model) -> Result<Model, PipelineError> {
        self.hold_as(model, model.storage())
    }

    /// `model` in its memory, values of type `storage`.
    pub(crate) fn hold_as(&self, model: &Model, storage: Storage) -> Result<Model, PipelineError> {
        Ok(model.to_machine(&self.machine, storage)?)
    }

    /// What passes run on.
    pub(crate) fn machine(&self) -> &Arc<dyn Machine> {
        &self.machine
    }
}

/// Bytes of the weights of `spec`.
pub(crate) fn weights(spec: &ModelSpec) -> u64 {
    parameter_count(spec) * spec.dtype_bytes as u64
}

/// Bytes of the weights of `spec` on a GPU, and of the gradients of all of them.
pub(crate) fn trained(spec: &ModelSpec) -> [u64; 2] {
    let (numbers, storage) = (parameter_count(spec), Storage::of_bytes(spec.dtype_bytes));
    [storage, Storage::F32].map(|storage| numbers * storage.bytes() as u64)
}

/// The GPU that `device` asks for; none is the CPU. `auto` says which one it takes, in a build that has a choice.
///
/// # Errors
/// [`PipelineError::Device`] if `device` is `cuda` and there is no GPU to be had.
pub(crate) fn open(device: Device) -> Result<Option<Gpu>, PipelineError> {
    choose(device, cfg!(feature = "cuda"), first)
}

fn choose(
    device: Device,
    in_this_build: bool,
    first: impl FnOnce() -> Result<Gpu, CudaError>,
) -> Result<Option<Gpu>, PipelineError> {
    match device {
        Device::Cpu => Ok(None),
        Device::Auto if !in_this_build => Ok(None), // nothing to choose from
        Device::Cuda => Ok(Some(first().map_err(|cause| PipelineError::Device { cause })?)),
        Device::Auto => match first() {
            Ok(gpu) => {
                tracing::warn!("device: auto takes the GPU, {}", gpu.name);
                Ok(Some(gpu))
            }
            Err(cause) => {
                tracing::warn!("device: auto takes the CPU: {cause}");
                Ok(None)
            }
        },
    }
}

#[cfg(feature = "cuda")]
fn first() -> Result<Gpu, CudaError> {
    let device = taper_kernels::cuda::Device::open(0)?;
    let (free, name) = (device.free_bytes()? as u64, device.name().to_owned());
    Ok(Gpu { machine: Arc::new(device), name, free })
}

#[cfg(not(feature = "cuda"))]
fn first() -> Result<Gpu, CudaError> {
    let help = "build taper with `--features cuda`";
    Err(CudaError::Library { library: "CUDA", tried: "not in this build".to_owned(), help })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error;
    use taper_heal::AdapterSettings;

    fn none() -> Result<Gpu, CudaError> {
        Err(CudaError::NoDevice { ordinal: 0, found: 0 })
    }

    fn one() -> Result<Gpu, CudaError> {
        Ok(Gpu { machine: emulation::Host::quick(), name: "emulated".to_owned(), free: 1000 })
    }

    #[test]
    fn cuda_without_a_gpu_is_an_error_and_auto_takes_what_there_is() {
        let refusal = choose(Device::Cuda, true, none).unwrap_err();
        assert_eq!(refusal.to_string(), "device: cuda");
        assert_eq!(refusal.source().unwrap().to_string(), "no CUDA device 0: the driver reports 0");
        assert!(choose(Device::Auto, true, none).unwrap().is_none());
        assert_eq!(choose(Device::Auto, true, one).unwrap().unwrap().name, "emulated");
        assert!(
            choose(Device::Auto, false, one).unwrap().is_none() && choose(Device::Cpu, true, one).unwrap().is_none()
        );
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_build_without_cuda_says_how_to_get_it() {
        let refusal = open(Device::Cuda).unwrap_err();
        assert!(refusal.source().unwrap().to_string().ends_with("build taper with `--features cuda`"));
    }

    #[test]
    fn weights_are_there_before_passes() {
        let (spec, gpu) = (taper_arch::spec::example(), one().unwrap());
        assert_eq!(Gpu { free: weights(&spec) + 1000, ..gpu.clone() }.memory_to_use(&spec), 900);
        assert_eq!(gpu.memory_to_use(&spec), 0);
        let [there, gradients] = trained(&spec);
        let gpu = Gpu { free: 2 * there + gradients + 1000, ..gpu };
        let full = Training::Parameters(Vec::new());
        assert_eq!(gpu.memory_to_heal(&spec, &full, Some(&spec)), 900);
        let lora = AdapterSettings { rank: 1, alpha: 1.0, targets: Vec::new(), dora: false };
        let least = (gradients + 1000) / 100 * 90;
        assert_eq!(gpu.memory_to_heal(&spec, &Training::Adapters(lora), Some(&spec)), least);
    }
}
