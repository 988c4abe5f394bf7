//! What the launchers need of a GPU, as data: memory, copies, kernels, matrix products.

use std::fmt;

use taper_nvrtc::{Module, Storage};

use super::Result;

/// Memory and an order of commands. Commands run one after the other, in the order given.
pub trait Machine: fmt::Debug + Send + Sync {
    /// An address of `bytes` bytes, aligned to 256.
    ///
    /// # Errors
    /// [`OutOfMemory`](super::CudaError::OutOfMemory) if there is no room, or what the driver says.
    fn allocate(&self, bytes: usize) -> Result<u64>;

    /// Gives an address back, once the commands before have run.
    fn release(&self, address: u64);

    /// Copies; to the host only after all commands before have run.
    ///
    /// # Errors
    /// What the driver says, also of commands before.
    fn copy(&self, transfer: Transfer<'_>) -> Result<()>;

    /// Runs a command, now or later.
    ///
    /// # Errors
    /// If it cannot be started; what fails later is reported by the next copy to the host.
    fn run(&self, command: &Command) -> Result<()>;
}

/// A copy between host and device.
#[derive(Debug)]
pub enum Transfer<'a> {
    /// To the device.
    In {
        /// What.
        from: &'a [u8],
        /// Where.
        to: u64,
    },
    /// Within the device.
    Within {
        /// Where from.
        from: u64,
        /// Where to.
        to: u64,
        /// How much.
        bytes: usize,
    },
    /// Zeros on the device.
    Zeros {
        /// Where.
        to: u64,
        /// How much.
        bytes: usize,
    },
    /// To the host.
    Out {
        /// Where from.
        from: u64,
        /// Where to.
        to: &'a mut [u8],
    },
}

/// Work for a machine.
#[derive(Debug, Clone)]
pub enum Command {
    /// A kernel of `kernels/`.
    Launch(Launch),
    /// A matrix product.
    Product(Product),
}

/// A kernel with all it is given.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The source it is in, with its constants.
    pub module: Module,
    /// Its name.
    pub kernel: &'static str,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: u32,
    /// Bytes of dynamic shared memory.
    pub shared: usize,
    /// Arguments in order.
    pub arguments: Vec<Argument>,
}

/// An argument of a kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Argument {
    /// A device address; 0 is none.
    Pointer(u64),
    /// `int`.
    Int(i32),
    /// `long long`.
    Long(i64),
    /// `float`.
    Float(f32),
}

/// A matrix as cuBLAS sees it: columns `leading` values apart, transposed before use or not.
#[derive(Debug, Clone, Copy)]
pub struct Matrix {
    /// Address of the first value.
    pub address: u64,
    /// Type of the values.
    pub storage: Storage,
    /// Values from one column to the next.
    pub leading: usize,
    /// Whether its transpose is meant.
    pub transposed: bool,
}

/// `out = a · b` in columns, as cuBLAS counts: `out` `[m, n]`, inner dimension `k`, sums in f32.
#[derive(Debug, Clone, Copy)]
pub struct Product {
    /// Left operand, `[m, k]` once transposed if it is to be.
    pub a: Matrix,
    /// Right operand, `[k, n]` once transposed if it is to be.
    pub b: Matrix,
    /// Result; never transposed.
    pub out: Matrix,
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// Terms of each sum.
    pub k: usize,
    /// Whether the product is added to what `out` holds.
    pub add: bool,
}
