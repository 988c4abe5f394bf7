//! From a tensor to its slice and back.

use std::cell::Cell;
use std::ops::{Deref, Range};

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Storage, Tensor};
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use crate::matrix::View;
use crate::{KernelError, Result};

/// Values of a weight of f16 or bf16 that are widened at once, at most: 2 MiB of f32. Fixed, so that sums have one order.
pub const TILE: usize = 512 << 10;

/// Read access to a contiguous `f32` tensor in host memory.
pub struct Host<'a> {
    storage: candle_core::StorageRef<'a>,
    start: usize,
    len: usize,
}

impl<'a> Host<'a> {
    /// To the values of `tensor`.
    ///
    /// # Errors
    /// If layout or device do not fit.
    pub fn of(op: &'static str, tensor: &'a Tensor) -> Result<Self> {
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

/// Read access to a contiguous weight in host memory, of any type that widens to `f32` without loss.
pub(crate) struct Weight<'a> {
    storage: candle_core::StorageRef<'a>,
    start: usize,
}

impl<'a> Weight<'a> {
    pub(crate) fn of(op: &'static str, tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        let got = match (&*storage, layout.contiguous_offsets()) {
            (Storage::Cpu(CpuStorage::F32(_) | CpuStorage::BF16(_) | CpuStorage::F16(_)), Some((start, _))) => {
                return Ok(Self { storage, start });
            }
            (Storage::Cpu(_), Some(_)) => format!("{:?}", tensor.dtype()),
            (Storage::Cpu(_), None) => format!("strides {:?} of {:?}", layout.stride(), layout.dims()),
            _ => return Err(KernelError::Device { op, device: tensor.device().clone() }),
        };
        Err(KernelError::Layout { op, got })
    }

    /// Hands out `[units, d]` in tiles of units: the first unit of each, and its values. A stored `f32` is one tile.
    pub(crate) fn tiles(&self, units: usize, d: usize, mut each: impl FnMut(usize, View<'_>)) {
        if let Storage::Cpu(CpuStorage::F32(values)) = &*self.storage {
            return each(0, View::new(&values[self.start..], [units, d], d));
        }
        let step = (TILE / d.max(1)).max(1);
        let mut tile = vec![0.0; step.min(units) * d];
        for first in (0..units).step_by(step) {
            let rows = step.min(units - first);
            self.widen(self.start + first * d, &mut tile[..rows * d]);
            each(first, View::new(&tile, [rows, d], d));
        }
    }

    /// Rows and columns of `[units, d]`; widened into `tile` if they are of 16 bits.
    pub(crate) fn window<'v>(
        &'v self,
        d: usize,
        rows: Range<usize>,
        columns: Range<usize>,
        tile: &'v mut [f32],
    ) -> View<'v> {
        let (start, shape) = (self.start + rows.start * d + columns.start, [rows.len(), columns.len()]);
        if let Storage::Cpu(CpuStorage::F32(values)) = &*self.storage {
            return View::new(&values[start..], shape, d);
        }
        for (row, out) in tile.chunks_mut(shape[1].max(1)).take(shape[0]).enumerate() {
            self.widen_piece(start + row * d, out);
        }
        View::new(tile, shape, shape[1])
    }

    /// Row `row` of `[units, d]`.
    pub(crate) fn row(&self, d: usize, row: usize, out: &mut [f32]) {
        self.widen_piece(self.start + row * d, out);
    }

    fn widen(&self, start: usize, out: &mut [f32]) {
        const PIECE: usize = 16 * 1024;
        out.par_chunks_mut(PIECE).enumerate().for_each(|(piece, out)| self.widen_piece(start + piece * PIECE, out));
    }

    fn widen_piece(&self, start: usize, out: &mut [f32]) {
        match &*self.storage {
            Storage::Cpu(CpuStorage::BF16(values)) => values[start..start + out.len()].convert_to_f32_slice(out),
            Storage::Cpu(CpuStorage::F16(values)) => values[start..start + out.len()].convert_to_f32_slice(out),
            Storage::Cpu(CpuStorage::F32(values)) => out.copy_from_slice(&values[start..start + out.len()]),
            _ => {} // `of` let nothing else through
        }
    }
}

/// Changes a contiguous `f32` tensor in place: whoever shares it sees it.
pub(crate) fn update(op: &'static str, tensor: &Tensor, f: impl Fn(&mut [f32]) -> Result<()>) -> Result<()> {
    struct Update<F> {
        f: F,
        op: &'static str,
    }
    impl<F: Fn(&mut [f32]) -> Result<()>> InplaceOp1 for Update<F> {
        fn name(&self) -> &'static str {
            self.op
        }

        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
            match (storage, layout.contiguous_offsets()) {
                (CpuStorage::F32(values), Some((start, end))) => {
                    (self.f)(&mut values[start..end]).map_err(candle_core::Error::wrap)
                }
                _ => Err(candle_core::Error::Msg("wanted contiguous f32 to change in place".to_owned())),
            }
        }
    }
    Host::of(op, tensor)?; // says what is wrong with it, if anything is
    if tensor.elem_count() == 0 {
        return Ok(()); // candle takes an empty tensor's strides for repeated entries
    }
    tensor.inplace_op1(&Update { f, op }).map_err(|cause| KernelError::Tensor { op, cause })
}

/// Changes a contiguous `f32` tensor in place: whoever shares it sees it.
///
/// # Errors
/// If layout or device do not fit, or what `f` returns.
pub fn change<R>(op: &'static str, tensor: &Tensor, f: impl FnOnce(&mut [f32]) -> R) -> Result<R> {
    let (f, result) = (Cell::new(Some(f)), Cell::new(None));
    update(op, tensor, |values| {
        result.set(f.take().map(|f| f(values)));
        Ok(())
    })?;
    let left = f.take(); // of an empty tensor
    let got = result.take().or_else(|| left.map(|f| f(&mut [])));
    got.ok_or(KernelError::Places { op })
}

pub(crate) fn tensor(op: &'static str, values: Vec<f32>, shape: &[usize]) -> Result<Tensor> {
    Tensor::from_vec(values, shape, &Device::Cpu).map_err(|cause| KernelError::Tensor { op, cause })
}

/// The last dimension and the number of rows before it.
pub(crate) fn rows(op: &'static str, what: &'static str, tensor: &Tensor) -> Result<(usize, usize)> {
    match tensor.dims() {
        [] => Err(shape(op, what, tensor, "at least one dimension".to_owned())),
        [before @ .., last] => Ok((before.iter().product(), *last)),
    }
}

pub(crate) fn shape(op: &'static str, what: &'static str, tensor: &Tensor, want: String) -> KernelError {
    KernelError::Shape { op, what, got: tensor.dims().to_vec(), want }
}

pub(crate) fn same_shape(op: &'static str, what: &'static str, tensor: &Tensor, as_: &Tensor) -> Result<()> {
    if tensor.dims() == as_.dims() { Ok(()) } else { Err(shape(op, what, tensor, format!("{:?}", as_.dims()))) }
}
