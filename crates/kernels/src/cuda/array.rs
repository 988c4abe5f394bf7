//! Arrays in device memory.

use std::fmt;
use std::sync::Arc;

use half::bf16;
use rayon::prelude::*;
use taper_nvrtc::Storage;

use super::{CudaError, Machine, Result, Transfer};

/// Type of an array's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What operations read and write.
    Values(Storage),
    /// Statistics.
    F64,
    /// Tokens and tables.
    I32,
}

impl Kind {
    /// `f32` values.
    pub const F32: Self = Self::Values(Storage::F32);

    fn bytes(self) -> usize {
        match self {
            Self::Values(storage) => storage.bytes(),
            Self::F64 => 8,
            Self::I32 => 4,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Values(storage) => storage.fmt(f),
            Self::F64 => f.write_str("f64"),
            Self::I32 => f.write_str("i32"),
        }
    }
}

/// A piece of device memory that goes back when nobody holds it.
#[derive(Debug)]
struct Memory {
    machine: Arc<dyn Machine>,
    address: u64,
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.machine.release(self.address);
    }
}

/// A contiguous array in device memory. Cloning shares the memory.
#[derive(Debug, Clone)]
pub struct Array {
    memory: Arc<Memory>,
    start: usize, // bytes
    shape: Vec<usize>,
    kind: Kind,
    /// Values from one row to the next, if rows are apart: only products take such.
    apart: Option<usize>,
}

impl Array {
    /// With whatever the memory holds: for results of kernels.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn uninitialised(machine: &Arc<dyn Machine>, shape: &[usize], kind: Kind) -> Result<Self> {
        let bytes = shape.iter().product::<usize>() * kind.bytes();
        let address = machine.allocate(bytes.max(1))?;
        let memory = Arc::new(Memory { machine: Arc::clone(machine), address });
        Ok(Self { memory, start: 0, shape: shape.to_vec(), kind, apart: None })
    }

    /// Values from the host, rounded to `storage`.
    ///
    /// # Errors
    /// If their number is not the shape's, or there is no memory.
    pub fn of(machine: &Arc<dyn Machine>, values: &[f32], shape: &[usize], storage: Storage) -> Result<Self> {
        let array = Self::uninitialised(machine, shape, Kind::Values(storage))?;
        array.write(values)?;
        Ok(array)
    }

    /// Takes values from the host, rounded to what the array holds; whoever shares its memory sees them.
    ///
    /// # Errors
    /// If their number is not the array's, these are no values, or what the machine says.
    pub fn write(&self, values: &[f32]) -> Result<()> {
        match self.storage("upload", "values")? {
            Storage::F32 => self.write_bytes(bytemuck::cast_slice(values)), // little-endian, as the machine
            Storage::Bf16 => self.write_bytes(&bytes_of(values, |x| bf16::from_f32(x).to_le_bytes())),
        }
    }

    /// Values from the host as they are.
    pub(crate) fn of_bf16(machine: &Arc<dyn Machine>, values: &[bf16], shape: &[usize]) -> Result<Self> {
        let bytes = bytes_of(values, |x| x.to_le_bytes());
        let array = Self::uninitialised(machine, shape, Kind::Values(Storage::Bf16))?;
        array.write_bytes(&bytes)?;
        Ok(array)
    }

    /// Whole numbers from the host.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn of_numbers(machine: &Arc<dyn Machine>, numbers: &[i32]) -> Result<Self> {
        let array = Self::uninitialised(machine, &[numbers.len()], Kind::I32)?;
        array.write_bytes(&bytes_of(numbers, i32::to_le_bytes))?;
        Ok(array)
    }

    fn write_bytes(&self, bytes: &[u8]) -> Result<()> {
        self.adjacent("upload", "array")?;
        let count = bytes.len() / self.kind.bytes();
        if count != self.count() {
            let want = format!("as many values as {:?}", self.shape);
            return Err(CudaError::Shape { op: "upload", what: "values", got: vec![count], want });
        }
        if bytes.is_empty() {
            return Ok(());
        }
        self.machine().copy(Transfer::In { from: bytes, to: self.address() })
    }

    /// The values on the host, once all commands before have run.
    ///
    /// # Errors
    /// If these are no values, or what the machine says of the commands before.
    pub fn to_host(&self) -> Result<Vec<f32>> {
        match self.kind {
            Kind::Values(Storage::F32) => {
                let mut values = vec![0.0; self.count()];
                self.read(&mut values)?;
                Ok(values)
            }
            Kind::Values(Storage::Bf16) => {
                let bytes = self.bytes()?;
                Ok(bytes.as_chunks().0.par_iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect())
            }
            _ => Err(self.not("download", "array", "f32 or bf16")),
        }
    }

    /// Puts the values of an f32 array into `to`, once all commands before have run.
    ///
    /// # Errors
    /// If it is none, or of another length, or what the machine says of the commands before.
    pub fn read(&self, to: &mut [f32]) -> Result<()> {
        const OP: &str = "download";
        self.adjacent(OP, "array")?;
        self.expect(OP, "array", &self.shape, Kind::F32)?;
        if to.len() != self.count() {
            let want = format!("as many values as {:?}", self.shape);
            return Err(CudaError::Shape { op: OP, what: "values", got: vec![to.len()], want });
        }
        if to.is_empty() {
            return Ok(());
        }
        self.machine().copy(Transfer::Out { from: self.address(), to: bytemuck::cast_slice_mut(to) })
    }

    /// Statistics on the host, once all commands before have run.
    ///
    /// # Errors
    /// If these are no statistics, or what the machine says of the commands before.
    pub fn to_host_f64(&self) -> Result<Vec<f64>> {
        match self.kind {
            Kind::F64 => Ok(chunks(&self.bytes()?).map(f64::from_le_bytes).collect()),
            _ => Err(self.not("download", "array", "f64")),
        }
    }

    /// A copy, in other memory.
    pub(crate) fn copied(&self) -> Result<Self> {
        self.adjacent("copy", "array")?;
        let copy = self.like()?;
        if self.count() > 0 {
            let bytes = self.count() * self.kind.bytes();
            self.machine().copy(Transfer::Within { from: self.address(), to: copy.address(), bytes })?;
        }
        Ok(copy)
    }

    /// Fills it with zeros.
    ///
    /// # Errors
    /// If its rows are apart, or what the machine says.
    pub fn clear(&self) -> Result<()> {
        self.adjacent("clear", "array")?;
        let bytes = self.count() * self.kind.bytes();
        if bytes == 0 { Ok(()) } else { self.machine().copy(Transfer::Zeros { to: self.address(), bytes }) }
    }

    /// The matrix of `[rows, columns]` values of `storage` that begins where this does, its rows `apart` values apart.
    pub(crate) fn apart(&self, shape: [usize; 2], storage: Storage, apart: usize) -> Self {
        let (memory, kind) = (Arc::clone(&self.memory), Kind::Values(storage));
        let apart = (apart != shape[1]).then_some(apart);
        Self { memory, start: self.start, shape: shape.to_vec(), kind, apart }
    }

    /// Values from one row to the next.
    pub(crate) fn pitch(&self) -> usize {
        self.apart.unwrap_or_else(|| self.as_rows().1)
    }

    /// Refuses an array whose rows are apart.
    pub(crate) fn adjacent(&self, op: &'static str, what: &'static str) -> Result<()> {
        match self.apart {
            None => Ok(()),
            Some(apart) => {
                let got = format!("rows {apart} values apart");
                Err(CudaError::Kind { op, what, got, want: "adjacent rows".to_owned() })
            }
        }
    }

    fn bytes(&self) -> Result<Vec<u8>> {
        self.adjacent("download", "array")?;
        let mut bytes = vec![0; self.count() * self.kind.bytes()];
        if !bytes.is_empty() {
            self.machine().copy(Transfer::Out { from: self.address(), to: &mut bytes })?;
        }
        Ok(bytes)
    }

    /// Rows `start..start + count` of the first dimension, without a copy: a prefix of units.
    ///
    /// # Errors
    /// If there are no such rows.
    pub fn rows(&self, start: usize, count: usize) -> Result<Self> {
        let all = self.shape.first().copied().unwrap_or(0);
        if start + count > all {
            let want = format!("at least {} rows", start + count);
            return Err(CudaError::Shape { op: "rows", what: "array", got: self.shape.clone(), want });
        }
        let row: usize = self.apart.unwrap_or_else(|| self.shape.iter().skip(1).product());
        let mut part = self.clone();
        part.start += start * row * self.kind.bytes();
        part.shape[0] = count;
        Ok(part)
    }

    /// The same values in another shape.
    ///
    /// # Errors
    /// If the number of values differs.
    pub fn reshaped(&self, shape: &[usize]) -> Result<Self> {
        self.adjacent("reshape", "array")?;
        if shape.iter().product::<usize>() != self.count() {
            let want = format!("as many values as {shape:?}");
            return Err(CudaError::Shape { op: "reshape", what: "array", got: self.shape.clone(), want });
        }
        Ok(Self { shape: shape.to_vec(), ..self.clone() })
    }

    /// Its shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The type of its values.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The machine it lies on.
    pub fn machine(&self) -> &Arc<dyn Machine> {
        &self.memory.machine
    }

    pub(crate) fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// Where it lies, as kernels are told.
    pub fn address(&self) -> u64 {
        self.memory.address + self.start as u64
    }

    /// The last dimension and the number of rows before it.
    pub(crate) fn as_rows(&self) -> (usize, usize) {
        self.shape.split_last().map_or((1, 1), |(last, rows)| (rows.iter().product(), *last))
    }

    pub(crate) fn like(&self) -> Result<Self> {
        Self::uninitialised(self.machine(), &self.shape, self.kind)
    }

    pub(crate) fn storage(&self, op: &'static str, what: &'static str) -> Result<Storage> {
        match self.kind {
            Kind::Values(storage) => Ok(storage),
            _ => Err(self.not(op, what, "f32 or bf16")),
        }
    }

    /// Refuses another shape or type than these.
    pub(crate) fn expect(&self, op: &'static str, what: &'static str, shape: &[usize], kind: Kind) -> Result<()> {
        if self.shape != shape {
            return Err(CudaError::Shape { op, what, got: self.shape.clone(), want: format!("{shape:?}") });
        }
        if self.kind == kind { Ok(()) } else { Err(self.not(op, what, &kind.to_string())) }
    }

    fn not(&self, op: &'static str, what: &'static str, want: &str) -> CudaError {
        CudaError::Kind { op, what, got: self.kind.to_string(), want: want.to_owned() }
    }
}

/// Values as bytes, on all threads: a model's weights are many.
fn bytes_of<T: Copy + Sync, const N: usize>(values: &[T], bytes: impl Fn(T) -> [u8; N] + Sync) -> Vec<u8> {
    const PIECE: usize = 64 * 1024;
    let mut all = vec![0; N * values.len()];
    all.par_chunks_mut(N * PIECE).zip(values.par_chunks(PIECE)).for_each(|(all, values)| {
        all.as_chunks_mut::<N>().0.iter_mut().zip(values).for_each(|(to, value)| *to = bytes(*value));
    });
    all
}

fn chunks<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied()
}
