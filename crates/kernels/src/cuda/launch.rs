//! Putting a launch together: arguments in the kernel's order, sizes checked on the way.

use std::sync::Arc;

use taper_nvrtc::{Module, Storage};

use super::{Argument, Array, Command, CudaError, Launch, Machine, Result};

/// Threads of a block where nothing speaks for another number.
pub(crate) const BLOCK: u32 = 256;
/// The most blocks along x, and along y and z.
const MOST: [usize; 3] = [i32::MAX as usize, 65_535, 65_535];

/// Blocks for one thread a piece of work.
pub(crate) fn cover(pieces: usize) -> [usize; 3] {
    [pieces.div_ceil(BLOCK as usize), 1, 1]
}

/// Values a thread takes at once: `AT_ONCE` of `kernels/common.cuh`, 16 bytes.
pub(crate) fn at_once(storage: Storage) -> usize {
    16 / storage.bytes()
}

/// A launch in the making.
#[derive(Debug)]
pub(crate) struct Kernel {
    op: &'static str,
    launch: Launch,
    grid: [usize; 3],
    fault: Option<CudaError>,
}

impl Kernel {
    /// `kernel` of the source `file`, for values of `storage`.
    pub(crate) fn new(op: &'static str, file: &'static str, kernel: &'static str, storage: Storage) -> Self {
        let module = Module { file, storage, d_head: None };
        let launch = Launch { module, kernel, grid: [1; 3], block: BLOCK, shared: 0, arguments: Vec::new() };
        Self { op, launch, grid: [1; 3], fault: None }
    }

    pub(crate) fn array(mut self, array: &Array) -> Self {
        self.fault = self.fault.or(array.adjacent(self.op, "an array").err());
        self.launch.arguments.push(Argument::Pointer(array.address()));
        self
    }

    /// An array, or a null pointer.
    pub(crate) fn maybe(self, array: Option<&Array>) -> Self {
        match array {
            Some(array) => self.array(array),
            None => self.push(Argument::Pointer(0)),
        }
    }

    /// An `int`.
    pub(crate) fn size(mut self, what: &'static str, size: usize) -> Self {
        match i32::try_from(size) {
            Ok(size) => self.push(Argument::Int(size)),
            Err(_) => {
                let most = i32::MAX as usize;
                self.fault = self.fault.or(Some(CudaError::Size { op: self.op, what, got: size, most }));
                self
            }
        }
    }

    /// A number of values, which may pass 2³¹.
    pub(crate) fn count(self, count: usize) -> Self {
        self.push(Argument::Long(count as i64))
    }

    pub(crate) fn flag(self, flag: i32) -> Self {
        self.push(Argument::Int(flag))
    }

    pub(crate) fn float(self, value: f64) -> Self {
        self.push(Argument::Float(value as f32))
    }

    fn push(mut self, argument: Argument) -> Self {
        self.launch.arguments.push(argument);
        self
    }

    /// Compiled for heads of this width.
    pub(crate) fn d_head(mut self, d_head: usize) -> Self {
        self.launch.module.d_head = Some(d_head);
        self
    }

    /// Blocks for `values` of which a thread takes [`at_once`].
    pub(crate) fn covering(self, values: usize) -> Self {
        let pieces = values.div_ceil(at_once(self.launch.module.storage));
        self.grid(cover(pieces))
    }

    /// Blocks; none at all means nothing to do.
    pub(crate) fn grid(mut self, grid: [usize; 3]) -> Self {
        self.grid = grid;
        self
    }

    pub(crate) fn along_y(mut self, blocks: usize) -> Self {
        self.grid[1] = blocks;
        self
    }

    pub(crate) fn block(mut self, threads: u32) -> Self {
        self.launch.block = threads;
        self
    }

    pub(crate) fn shared(mut self, bytes: usize) -> Self {
        self.launch.shared = bytes;
        self
    }

    pub(crate) fn run(mut self, machine: &Arc<dyn Machine>) -> Result<()> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if self.grid.contains(&0) {
            return Ok(());
        }
        for (axis, (blocks, most)) in self.grid.into_iter().zip(MOST).enumerate() {
            if blocks > most {
                return Err(CudaError::Size { op: self.op, what: "the number of blocks", got: blocks, most });
            }
            self.launch.grid[axis] = blocks as u32;
        }
        machine.run(&Command::Launch(self.launch))
    }
}
