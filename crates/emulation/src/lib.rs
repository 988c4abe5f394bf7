//! For tests: a machine that runs the sources of `kernels/` on the host, compiled by `c++` (or what `CXX` names).
//!
//! Memory starts as NaN and lies between guards: what a kernel reads but nobody wrote turns its result into NaN, and a
//! write outside of an array fails the launch. Each kernel runs twice, its threads taking turns in another order, and has
//! to leave the same bytes: a missing barrier does not. ([`Host::quick`] runs each once: for whole models.)
#![expect(unsafe_code, reason = "it loads what it compiles")]
#![expect(clippy::unwrap_used, reason = "a fault of it fails the test")]

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_void};
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libloading::{Library, Symbol};
use taper_base::{Fingerprint, files};
use taper_kernels::cuda::{
    Argument, Command, CudaError, Launch, Machine, Matrix, Module, Product, Result, Storage, Transfer,
};
use taper_nvrtc::FILES;

/// Bytes before and after each array that must stay as they are; also the alignment.
const GUARD: usize = 256;
/// What memory is filled with: NaN as f32, bf16 and f64, -1 as a whole number.
const FILL: u8 = 0xff;

type Entry = unsafe extern "C" fn(u32, u32, u32, u32, usize, *const *const c_void, usize, i32) -> *const c_char;

/// The source of kernels with faults.
const BROKEN: &str = "broken.cu";

/// A library is loaded once a process, and what a block shares are its globals: one launch at a time.
static LAUNCH: Mutex<()> = Mutex::new(());

/// The host as a machine.
#[derive(Debug)]
pub struct Host {
    state: Mutex<State>,
    /// Orders of the threads besides their own.
    orders: &'static [i32],
    /// Bytes there are.
    room: usize,
}

/// What a machine has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Kernels.
    pub launches: usize,
    /// Products.
    pub products: usize,
    /// Copies to the host, each of which waits for all commands before.
    pub waits: usize,
    /// Bytes held at most, since [`Host::reset`].
    pub peak: usize,
}

#[derive(Debug, Default)]
struct State {
    memory: BTreeMap<u64, Block>,
    libraries: BTreeMap<Module, Library>,
    held: usize,
    counts: Counts,
}

#[derive(Debug)]
struct Block {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Block {
    fn new(length: usize) -> Self {
        let bytes = vec![FILL; length + 3 * GUARD];
        let start = GUARD + bytes.as_ptr().addr().next_multiple_of(GUARD) - bytes.as_ptr().addr();
        Self { bytes, start, length }
    }

    fn address(&self) -> u64 {
        self.bytes.as_ptr().addr() as u64 + self.start as u64
    }

    fn is_intact(&self) -> bool {
        let (before, rest) = self.bytes.split_at(self.start);
        before.iter().chain(&rest[self.length..]).all(|byte| *byte == FILL)
    }
}

impl Host {
    /// One that runs each kernel in three orders of its threads.
    pub fn machine() -> Arc<dyn Machine> {
        Arc::new(Self { state: Mutex::default(), orders: &[1, 5], room: usize::MAX })
    }

    /// One that runs each kernel once.
    pub fn quick() -> Arc<Self> {
        Self::with_room(usize::MAX)
    }

    /// [`Self::quick`] with so many bytes of memory.
    pub fn with_room(room: usize) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), orders: &[], room })
    }

    /// What it has done.
    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    /// Counts from now on; the peak from what is held.
    pub fn reset(&self) {
        let mut state = self.state();
        state.counts = Counts { peak: state.held, ..Counts::default() };
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Machine for Host {
    fn allocate(&self, bytes: usize) -> Result<u64> {
        let block = Block::new(bytes);
        let address = block.address();
        let mut state = self.state();
        let free = self.room.saturating_sub(state.held);
        if bytes > free {
            return Err(CudaError::OutOfMemory { wanted: bytes, free, total: self.room });
        }
        state.held += bytes;
        state.counts.peak = state.counts.peak.max(state.held);
        state.memory.insert(address, block);
        Ok(address)
    }

    fn release(&self, address: u64) {
        let mut state = self.state();
        let block = state.memory.remove(&address).unwrap();
        state.held -= block.length;
    }

    fn copy(&self, transfer: Transfer<'_>) -> Result<()> {
        let mut state = self.state();
        match transfer {
            Transfer::In { from, to } => state.slice(to, from.len()).copy_from_slice(from),
            Transfer::Within { from, to, bytes } => {
                let values = state.slice(from, bytes).to_vec();
                state.slice(to, bytes).copy_from_slice(&values);
            }
            Transfer::Zeros { to, bytes } => state.slice(to, bytes).fill(0),
            Transfer::Out { from, to } => {
                state.counts.waits += 1;
                to.copy_from_slice(state.slice(from, to.len()));
            }
        }
        Ok(())
    }

    fn run(&self, command: &Command) -> Result<()> {
        let mut state = self.state();
        match command {
            Command::Launch(launch) => {
                state.counts.launches += 1;
                state.launch(launch, self.orders)
            }
            Command::Product(product) => {
                state.counts.products += 1;
                state.multiply(product);
                Ok(())
            }
        }
    }
}

impl State {
    /// `length` bytes from `address`, inside one block.
    fn slice(&mut self, address: u64, length: usize) -> &mut [u8] {
        let (start, block) = self.memory.range_mut(..=address).next_back().expect("an address in memory");
        let from = (address - start) as usize;
        assert!(from + length <= block.length, "a copy beyond its array");
        &mut block.bytes[block.start + from..block.start + from + length]
    }

    fn launch(&mut self, launch: &Launch, orders: &[i32]) -> Result<()> {
        if orders.is_empty() {
            return self.launch_in_order(launch, 0);
        }
        let before: Vec<Vec<u8>> = self.memory.values().map(|block| block.bytes.clone()).collect();
        self.launch_in_order(launch, 0)?;
        for order in orders {
            let after: Vec<Vec<u8>> = self.memory.values().map(|block| block.bytes.clone()).collect();
            for (block, bytes) in self.memory.values_mut().zip(&before) {
                block.bytes.copy_from_slice(bytes);
            }
            self.launch_in_order(launch, *order)?;
            let same = self.memory.values().zip(&after).all(|(block, bytes)| block.bytes == *bytes);
            if !same {
                return Err(refused(launch.kernel, "the result depends on the order of the threads"));
            }
        }
        Ok(())
    }

    fn launch_in_order(&mut self, launch: &Launch, order: i32) -> Result<()> {
        let library = self.libraries.entry(launch.module).or_insert_with(|| compile(&launch.module));
        // SAFETY: `compile` makes these functions of the macro `EMULATED`, with this type.
        let entry: Symbol<'_, Entry> =
            unsafe { library.get(format!("emulated_{}", launch.kernel).as_bytes()) }.expect(launch.kernel);
        let pointers: Vec<*const c_void> = launch.arguments.iter().map(pointer).collect();
        let [x, y, z] = launch.grid;
        let _alone = LAUNCH.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: addresses are those of live blocks, and the entry checks the number of arguments.
        let message = unsafe {
            let message = entry(x, y, z, launch.block, launch.shared, pointers.as_ptr(), pointers.len(), order);
            CStr::from_ptr(message).to_string_lossy().into_owned()
        };
        if !message.is_empty() {
            return Err(refused(launch.kernel, &message));
        }
        let intact = self.memory.values().all(Block::is_intact);
        if intact { Ok(()) } else { Err(refused(launch.kernel, "a write outside of an array")) }
    }

    /// The definition, in f64; cuBLAS's conventions of columns.
    fn multiply(&mut self, product: &Product) {
        let Product { a, b, out, m, n, k, add } = *product;
        // What cuBLAS refuses: columns that overlap.
        assert!(a.leading >= if a.transposed { k } else { m } && b.leading >= if b.transposed { n } else { k });
        assert!(out.leading >= m && !out.transposed && a.storage == b.storage);
        let (a, b) = (self.values(&a, [m, k]), self.values(&b, [k, n]));
        let old = if add { self.values(&out, [m, n]) } else { vec![0.0; m * n] };
        for (column, b) in b.chunks(k).enumerate() {
            let mut sums = old[column * m..(column + 1) * m].to_vec();
            for (a, b) in a.chunks(m).zip(b) {
                sums.iter_mut().zip(a).for_each(|(sum, a)| *sum += a * b);
            }
            let bytes: Vec<u8> = match out.storage {
                Storage::F32 => sums.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect(),
                Storage::Bf16 => sums.iter().flat_map(|x| half::bf16::from_f64(*x).to_le_bytes()).collect(),
            };
            let address = out.address + (column * out.leading * out.storage.bytes()) as u64;
            self.slice(address, bytes.len()).copy_from_slice(&bytes);
        }
    }

    /// Column by column, turned if it is to be.
    fn values(&mut self, matrix: &Matrix, [rows, columns]: [usize; 2]) -> Vec<f64> {
        let bytes = matrix.storage.bytes();
        let [along, across] = if matrix.transposed { [columns, rows] } else { [rows, columns] };
        let line = |line: usize, state: &mut Self| -> Vec<f64> {
            let slice = state.slice(matrix.address + (line * matrix.leading * bytes) as u64, along * bytes);
            match matrix.storage {
                Storage::F32 => slice.as_chunks().0.iter().map(|x| f64::from(f32::from_le_bytes(*x))).collect(),
                Storage::Bf16 => slice.as_chunks().0.iter().map(|x| half::bf16::from_le_bytes(*x).to_f64()).collect(),
            }
        };
        let lines: Vec<Vec<f64>> = (0..across).map(|index| line(index, self)).collect();
        if matrix.transposed {
            (0..columns).flat_map(|column| lines.iter().map(move |line| line[column])).collect()
        } else {
            lines.concat()
        }
    }
}

fn refused(kernel: &str, reason: &str) -> CudaError {
    CudaError::Refused { call: kernel.to_owned(), reason: reason.to_owned() }
}

fn pointer(argument: &Argument) -> *const c_void {
    match argument {
        Argument::Pointer(x) => std::ptr::from_ref(x).cast(),
        Argument::Int(x) => std::ptr::from_ref(x).cast(),
        Argument::Long(x) => std::ptr::from_ref(x).cast(),
        Argument::Float(x) => std::ptr::from_ref(x).cast(),
    }
}

/// Compiles a module for the host, or takes what an earlier run compiled from the same sources.
fn compile(module: &Module) -> Library {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let header = std::fs::read_to_string(here.join("src/device.cuh")).unwrap();
    let origin = if module.file == BROKEN { "src" } else { "../../kernels" };
    let origin = here.join(origin).join(module.file);
    let text = std::fs::read_to_string(&origin).unwrap();
    let included: String = FILES.iter().filter(|(name, _)| name.ends_with(".cuh")).map(|(_, text)| *text).collect();
    let hash = Fingerprint::of_bytes([&text, &included, &header].map(String::as_str).concat().as_bytes());
    let folder = folder();
    let path = folder.join(format!("{module}-{}.so", hash.short()));
    if !path.is_file() {
        std::fs::create_dir_all(&folder).unwrap();
        let entries = kernels_of(&text).map(|kernel| format!("EMULATED({kernel})\n")).collect::<String>();
        let source = folder.join(format!("{module}-{}.cpp", hash.short()));
        let include = format!("#include \"{}\"\n{entries}", origin.display());
        files::write(&source, include.as_bytes()).unwrap();
        build(&source, &path, &module.defines());
    }
    // SAFETY: it has no initialisers but those of C++ containers.
    unsafe { Library::new(&path) }.unwrap()
}

/// Beside the program that runs: a test lies in `target/<profile>/deps`.
fn folder() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    program.ancestors().nth(2).unwrap_or(Path::new(".")).join("emulation")
}

fn build(source: &Path, library: &Path, defines: &[String]) {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let temporary = tempfile::NamedTempFile::new_in(library.parent().unwrap()).unwrap();
    let mut process = Process::new(&compiler);
    process.args(["-std=c++17", "-O1", "-fno-strict-aliasing", "-ffp-contract=off", "-Wall", "-Werror=uninitialized"]);
    process.args(["-Wno-unused", "-Wno-unknown-pragmas", "-shared", "-fPIC", "-x", "c++", "-I"]);
    process.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    process.args(defines.iter().map(|define| format!("-D{define}")));
    let output = process.arg(source).arg("-o").arg(temporary.path()).output();
    let output = output.unwrap_or_else(|cause| panic!("the emulation needs a C++ compiler; {compiler}: {cause}"));
    assert!(output.status.success(), "{compiler}: {}", String::from_utf8_lossy(&output.stderr));
    files::persist(temporary.path(), library).unwrap();
}

/// Names after `KERNEL` at the beginning of a line.
fn kernels_of(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.strip_prefix("KERNEL ")?.split('(').next())
}

#[cfg(test)]
mod tests;
