//! From a tensor to its slice and back.

use std::ops::Deref;

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};

use crate::{KernelError, Result};

/// Read access to a contiguous `f32` tensor in host memory.
pub(crate) struct Host<'a> {
    storage: candle_core::StorageRef<'a>,
    start: usize,
    len: usize,
}

impl<'a> Host<'a> {
    pub(crate) fn of(op: &'static str, tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        if !matches!(&*storage, Storage::Cpu(_)) {
            return Err(KernelError::Device { op, device: tensor.device().clone() });
        }
        match layout.contiguous_offsets() {
            Some((start, end)) if tensor.dtype() == DType::F32 => Ok(Self { storage, start, len: end - start }),
            Some(_) => Err(KernelError::Layout { op, got: format!("{:?}", tensor.dtype()) }),
            None => {
                Err(KernelError::Layout { op, got: format!("strides {:?} of {:?}", layout.stride(), layout.dims()) })
            }
        }
    }
}

impl Deref for Host<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.start..self.start + self.len],
            _ => &[], // `of` let nothing else through
        }
    }
}

pub(crate) fn tensor(op: &'static str, values: Vec<f32>, shape: &[usize]) -> Result<Tensor> {
    Tensor::from_vec(values, shape, &Device::Cpu).map_err(|cause| KernelError::Tensor { op, cause })
}

/// The last dimension and the number of rows before it.
pub(crate) fn rows(op: &'static str, what: &'static str, tensor: &Tensor) -> Result<(usize, usize)> {
    match tensor.dims() {
        [] => Err(shape(op, what, tensor, "at least one dimension".to_owned())),
        [.., last] => Ok((tensor.elem_count() / (*last).max(1), *last)),
    }
}

pub(crate) fn shape(op: &'static str, what: &'static str, tensor: &Tensor, want: String) -> KernelError {
    KernelError::Shape { op, what, got: tensor.dims().to_vec(), want }
}

pub(crate) fn same_shape(op: &'static str, what: &'static str, tensor: &Tensor, as_: &Tensor) -> Result<()> {
    if tensor.dims() == as_.dims() { Ok(()) } else { Err(shape(op, what, tensor, format!("{:?}", as_.dims()))) }
}
