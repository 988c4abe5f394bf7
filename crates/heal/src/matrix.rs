//! Products of matrices that objectives are made of, by the engine's kernels. All row by row.

use candle_core::{Device, Tensor as Host};
use taper_kernels::{KernelError, Result, cpu};

const OP: &str = "objectives";

/// Numbers in rows of `width`.
#[derive(Debug, Clone)]
pub(crate) struct Matrix(Host);

impl Matrix {
    /// `values` in rows of `width`.
    pub(crate) fn new(values: Vec<f32>, width: usize) -> Result<Self> {
        let rows = values.len() / width.max(1);
        let tensor = Host::from_vec(values, (rows, width), &Device::Cpu);
        Ok(Self(tensor.map_err(|cause| KernelError::Tensor { op: OP, cause })?))
    }

    /// Columns `from..from + width` of the rows of `of` in `values`, which are `stride` long.
    pub(crate) fn columns(values: &[f32], stride: usize, (from, width): (usize, usize)) -> Result<Self> {
        let rows = values.chunks_exact(stride);
        Self::new(rows.flat_map(|row| row[from..from + width].iter().copied()).collect(), width)
    }

    /// `self · otherᵀ`.
    pub(crate) fn times_turned(&self, other: &Self) -> Result<Self> {
        cpu::into_units(&self.0, &other.0, None).map(Self)
    }

    /// `self · other`.
    pub(crate) fn times(&self, other: &Self) -> Result<Self> {
        cpu::from_units(None, &[(&self.0, &other.0)], None).map(Self)
    }

    /// `selfᵀ · other`.
    pub(crate) fn turned_times(&self, other: &Self) -> Result<Self> {
        cpu::unit_gradient(&self.0, &other.0).map(Self)
    }

    /// The numbers.
    pub(crate) fn values(&self) -> Result<cpu::Values<'_>> {
        cpu::Values::of(OP, &self.0)
    }
}
