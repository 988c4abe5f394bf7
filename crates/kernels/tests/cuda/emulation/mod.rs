//! A machine that runs the sources of `kernels/` on the host, compiled by `c++` (or what `CXX` names).
//!
//! Memory starts as NaN and lies between guards: what a kernel reads but nobody wrote turns its result into NaN, and a
//! write outside of an array fails the launch. Each kernel runs twice, its threads taking turns in another order, and has
//! to leave the same bytes: a missing barrier does not.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_void};
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libloading::{Library, Symbol};
use taper_base::{Fingerprint, files};
use taper_kernels::cuda::{
    Argument, Array, Command, CudaError, Kind, Launch, Machine, Matrix, Module, Product, Result, Storage, Transfer,
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
#[derive(Debug, Default)]
pub struct Host {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    memory: BTreeMap<u64, Block>,
    libraries: BTreeMap<Module, Library>,
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
    pub fn machine() -> Arc<dyn Machine> {
        Arc::new(Self::default())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Machine for Host {
    fn allocate(&self, bytes: usize) -> Result<u64> {
        let block = Block::new(bytes);
        let address = block.address();
        self.state().memory.insert(address, block);
        Ok(address)
    }

    fn release(&self, address: u64) {
        self.state().memory.remove(&address).unwrap();
    }

    fn copy(&self, transfer: Transfer<'_>) -> Result<()> {
        let mut state = self.state();
        match transfer {
            Transfer::In { from, to } => state.slice(to, from.len()).copy_from_slice(from),
            Transfer::Out { from, to } => to.copy_from_slice(state.slice(from, to.len())),
        }
        Ok(())
    }

    fn run(&self, command: &Command) -> Result<()> {
        let mut state = self.state();
        match command {
            Command::Launch(launch) => state.launch(launch),
            Command::Product(product) => {
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

    fn launch(&mut self, launch: &Launch) -> Result<()> {
        let before: Vec<Vec<u8>> = self.memory.values().map(|block| block.bytes.clone()).collect();
        self.launch_in_order(launch, 0)?;
        for order in [1, 5] {
            let after: Vec<Vec<u8>> = self.memory.values().map(|block| block.bytes.clone()).collect();
            for (block, bytes) in self.memory.values_mut().zip(&before) {
                block.bytes.copy_from_slice(bytes);
            }
            self.launch_in_order(launch, order)?;
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
        let mut at = |matrix: &Matrix, row: usize, column: usize| {
            let (row, column) = if matrix.transposed { (column, row) } else { (row, column) };
            let bytes = matrix.storage.bytes();
            let slice = self.slice(matrix.address + ((column * matrix.leading + row) * bytes) as u64, bytes);
            match matrix.storage {
                Storage::F32 => f64::from(f32::from_le_bytes(slice.try_into().unwrap())),
                Storage::Bf16 => half::bf16::from_le_bytes(slice.try_into().unwrap()).to_f64(),
            }
        };
        let mut values = Vec::new();
        for column in 0..n {
            for row in 0..m {
                let sum: f64 = (0..k).map(|i| at(&a, row, i) * at(&b, i, column)).sum();
                values.push(sum + if add { at(&out, row, column) } else { 0.0 });
            }
        }
        for (index, value) in values.into_iter().enumerate() {
            let (row, column) = (index % m, index / m);
            let bytes = out.storage.bytes();
            let slice = self.slice(out.address + ((column * out.leading + row) * bytes) as u64, bytes);
            match out.storage {
                Storage::F32 => slice.copy_from_slice(&(value as f32).to_le_bytes()),
                Storage::Bf16 => slice.copy_from_slice(&half::bf16::from_f64(value).to_le_bytes()),
            }
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
    let header = std::fs::read_to_string(here.join("tests/cuda/emulation/device.cuh")).unwrap();
    let origin = if module.file == BROKEN { "tests/cuda/emulation" } else { "../../kernels" };
    let origin = here.join(origin).join(module.file);
    let text = std::fs::read_to_string(&origin).unwrap();
    let included: String = FILES.iter().filter(|(name, _)| name.ends_with(".cuh")).map(|(_, text)| *text).collect();
    let hash = Fingerprint::of_bytes([&text, &included, &header].map(String::as_str).concat().as_bytes());
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("emulation");
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

fn build(source: &Path, library: &Path, defines: &[String]) {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let temporary = tempfile::NamedTempFile::new_in(library.parent().unwrap()).unwrap();
    let mut process = Process::new(&compiler);
    process.args(["-std=c++17", "-O1", "-fno-strict-aliasing", "-ffp-contract=off", "-Wall", "-Werror=uninitialized"]);
    process.args(["-Wno-unused", "-Wno-unknown-pragmas", "-shared", "-fPIC", "-x", "c++", "-I"]);
    process.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda/emulation"));
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

/// What running a kernel of `broken.cu` on 64 threads says, and what it leaves.
fn run_broken(kernel: &'static str) -> (String, Vec<f32>) {
    let machine = Host::machine();
    let array = Array::uninitialised(&machine, &[64], Kind::F32).unwrap();
    let module = Module { file: BROKEN, storage: Storage::F32, d_head: None };
    let address = array.address();
    let launch =
        Launch { module, kernel, grid: [2, 1, 1], block: 64, shared: 256, arguments: vec![Argument::Pointer(address)] };
    let said = machine.run(&Command::Launch(launch)).err().map(|refusal| refusal.to_string());
    (said.unwrap_or_default(), array.to_host().unwrap())
}

#[test]
fn faults_are_found() {
    let found = |kernel| run_broken(kernel).0;
    assert_eq!(found("missing_barrier"), "missing_barrier: the result depends on the order of the threads");
    assert_eq!(found("across_blocks"), "across_blocks: the result depends on the order of the threads");
    assert_eq!(found("parted"), "parted: threads wait for others that have ended or wait elsewhere");
    assert!(found("two_collectives").starts_with("two_collectives: threads part: "));
    assert_eq!(found("beyond"), "beyond: a write outside of an array");
    assert_eq!(found("beyond_shared"), "beyond_shared: a write beyond dynamic shared memory");
    let (said, left) = run_broken("unwritten");
    assert!(said.is_empty() && left[0].is_nan() && left[1..].iter().all(|x| *x == 1.0), "{said} {left:?}");
}
