//! What the engine's operations take and return: values on the CPU, or on a GPU.

use std::sync::Arc;

use candle_core::{DType, Tensor as Host};
use half::bf16;

use crate::cuda::{self, Array, Machine, Storage};
use crate::{KernelError, Result};

/// Values somewhere. Cloning shares them.
///
/// On the CPU matrices of weights may be f16 or bf16, all else is f32. On a GPU values are bf16 or f32, one of the two
/// through a whole model, and gradients of parameters are f32.
#[derive(Debug, Clone)]
pub enum Tensor {
    /// In the memory of the CPU.
    Host(Host),
    /// In a GPU's memory, or in that of a machine that stands in for one.
    Cuda(Array),
}

impl From<Host> for Tensor {
    fn from(host: Host) -> Self {
        Self::Host(host)
    }
}

impl From<Array> for Tensor {
    fn from(array: Array) -> Self {
        Self::Cuda(array)
    }
}

/// For `map_err`: candle refused `op`.
pub(crate) fn candle(op: &'static str) -> impl FnOnce(candle_core::Error) -> KernelError {
    move |cause| KernelError::Tensor { op, cause }
}

impl Tensor {
    /// Its shape.
    pub fn dims(&self) -> &[usize] {
        match self {
            Self::Host(host) => host.dims(),
            Self::Cuda(array) => array.shape(),
        }
    }

    /// How many values it has.
    pub fn elem_count(&self) -> usize {
        self.dims().iter().product()
    }

    /// The machine it lies on; none is the CPU.
    pub fn machine(&self) -> Option<&Arc<dyn Machine>> {
        match self {
            Self::Host(_) => None,
            Self::Cuda(array) => Some(array.machine()),
        }
    }

    /// All values in the order of rows, once a machine has computed them.
    ///
    /// # Errors
    /// What the machine says of the commands before.
    pub fn to_vec(&self) -> Result<Vec<f32>> {
        match self {
            Self::Host(host) => {
                let values = host.flatten_all().and_then(|flat| flat.to_dtype(DType::F32)?.to_vec1());
                values.map_err(candle("to_vec"))
            }
            Self::Cuda(array) => Ok(array.to_host()?),
        }
    }

    /// The same on the CPU; from a machine as f32.
    ///
    /// # Errors
    /// What the machine says of the commands before.
    pub fn to_host(&self) -> Result<Host> {
        match self {
            Self::Host(host) => Ok(host.clone()),
            Self::Cuda(array) => {
                let host = Host::from_vec(array.to_host()?, array.shape(), &candle_core::Device::Cpu);
                host.map_err(candle("to_host"))
            }
        }
    }

    /// The same on `machine`, rounded to `storage`.
    ///
    /// # Errors
    /// If it lies on a machine already, or there is no room for it.
    pub fn to_machine(&self, machine: &Arc<dyn Machine>, storage: Storage) -> Result<Self> {
        const OP: &str = "to_machine";
        let host = self.host(OP)?;
        let flat = host.flatten_all().map_err(candle(OP))?;
        let array = match (storage, host.dtype()) {
            (Storage::Bf16, DType::BF16) => {
                let values: Vec<bf16> = flat.to_vec1().map_err(candle(OP))?;
                Array::of_bf16(machine, &values, host.dims())?
            }
            _ => Array::of(machine, &self.to_vec()?, host.dims(), storage)?,
        };
        Ok(Self::Cuda(array))
    }

    /// The same where `other` lies, in the type that values have there.
    ///
    /// # Errors
    /// If the two lie on different machines, or there is no room.
    pub fn beside(&self, other: &Self) -> Result<Self> {
        const OP: &str = "beside";
        match (self, other) {
            (Self::Host(_), Self::Cuda(other)) => self.to_machine(other.machine(), other.storage(OP, "values")?),
            (Self::Cuda(_), Self::Cuda(other)) => self.array(OP, other).map(|array| array.clone().into()),
            _ => self.host(OP).map(|host| host.clone().into()),
        }
    }

    /// `count` entries of the first dimension from `start` on, without a copy.
    ///
    /// # Errors
    /// If there are none such.
    pub fn rows(&self, start: usize, count: usize) -> Result<Self> {
        match self {
            Self::Host(host) => Ok(host.narrow(0, start, count).map_err(candle("rows"))?.into()),
            Self::Cuda(array) => Ok(array.rows(start, count)?.into()),
        }
    }

    /// The entries of the first dimension that `rows` names, copied.
    ///
    /// # Errors
    /// If there are none such, or there is no room.
    pub fn pick(&self, rows: &[u32]) -> Result<Self> {
        match self {
            Self::Host(host) => {
                let rows = Host::from_slice(rows, rows.len(), host.device());
                Ok(rows.and_then(|rows| host.index_select(&rows, 0)).map_err(candle("pick"))?.into())
            }
            Self::Cuda(array) => {
                let (first, rest) = array.shape().split_first().unwrap_or((&1, &[]));
                let table = array.reshaped(&[*first, rest.iter().product()])?;
                let shape: Vec<usize> = [rows.len()].iter().chain(rest).copied().collect();
                Ok(cuda::gather_rows(&table, rows)?.reshaped(&shape)?.into())
            }
        }
    }

    /// The same values in another shape.
    ///
    /// # Errors
    /// If their number differs.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        match self {
            Self::Host(host) => Ok(host.reshape(shape).map_err(candle("reshape"))?.into()),
            Self::Cuda(array) => Ok(array.reshaped(shape)?.into()),
        }
    }

    /// The tensor of the CPU, for what `op` does there alone or with others there.
    ///
    /// # Errors
    /// [`KernelError::Places`] if it lies on a machine.
    pub fn host(&self, op: &'static str) -> Result<&Host> {
        match self {
            Self::Host(host) => Ok(host),
            Self::Cuda(_) => Err(KernelError::Places { op }),
        }
    }

    /// The array, on the same machine as `other`.
    pub(crate) fn array(&self, op: &'static str, other: &Array) -> Result<&Array> {
        match self {
            Self::Cuda(array) if Arc::ptr_eq(array.machine(), other.machine()) => Ok(array),
            _ => Err(KernelError::Places { op }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_side_is_candle() {
        let t: Tensor = Host::arange(0.0_f32, 6.0, &candle_core::Device::Cpu).unwrap().into();
        let t = t.reshape(&[3, 2]).unwrap();
        assert_eq!((t.dims(), t.elem_count(), t.machine().is_none()), (&[3, 2][..], 6, true));
        assert_eq!(t.rows(1, 2).unwrap().to_vec().unwrap(), [2.0, 3.0, 4.0, 5.0]);
        assert_eq!(t.pick(&[2, 0]).unwrap().to_vec().unwrap(), [4.0, 5.0, 0.0, 1.0]);
        assert_eq!(t.beside(&t).unwrap().to_host().unwrap().dims(), [3, 2]);
        assert!(t.rows(2, 2).is_err() && t.pick(&[3]).is_err() && t.reshape(&[4]).is_err());
    }
}
