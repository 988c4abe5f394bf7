//! The operations on a GPU: launchers of `kernels/*.cu`, each with the shapes and the name of its CPU twin.
//!
//! A [`Machine`] holds memory and runs commands. `Device` is the real one (feature `cuda`); the tests bring a second one
//! that runs the same sources on the host, so everything here but `device.rs` is proven without a GPU. Values are stored
//! as bf16 or f32, and summed in f32; statistics in f64. No kernel uses atomics: the same input gives the same bits.

mod array;
#[cfg(feature = "cuda")]
mod device;
mod error;
mod launch;
mod machine;
mod norm;
mod parts;

pub use array::{Array, Kind};
#[cfg(feature = "cuda")]
pub use device::Device;
pub use error::{CudaError, Result};
pub use machine::{Argument, Command, Launch, Machine, Matrix, Product, Transfer};
pub use norm::{
    Norm, layer_norm, layer_norm_backward, norm_weight_gradient, rms_norm, rms_norm_backward,
};
pub use taper_nvrtc::{Module, Storage};
