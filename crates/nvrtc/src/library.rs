//! NVRTC by its C interface. Source: the NVRTC 13 manual, docs.nvidia.com/cuda/nvrtc.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;

use libloading::{Library, Symbol};

use crate::source::FILES;
use crate::{Module, NvrtcError, Result, source_of};

/// Names of the library, newest first.
#[cfg(not(windows))]
const NAMES: [&str; 3] = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];
#[cfg(windows)]
const NAMES: [&str; 2] = ["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"];

/// What its helper's file name begins with: the library finds it only beside others on the loader's path.
const BUILTINS: &str = "libnvrtc-builtins.so.";

/// The names of the environment and of the arguments are NVRTC's.
type Program = *mut c_void;

/// A loaded NVRTC.
#[derive(Debug)]
pub struct Nvrtc {
    library: Library,
    name: String,
    version: (i32, i32),
    _builtins: Option<Library>,
}

/// What came of one source.
#[derive(Debug, Clone)]
pub struct Compiled {
    /// Assembly that every driver of the same or a later release can load.
    pub ptx: String,
    /// Bytes of machine code: the assembler, too, has accepted the source.
    pub binary: usize,
}

impl Nvrtc {
    /// From `folder` if there is one, else from where the loader looks.
    ///
    /// # Errors
    /// If there is no such library, or one that lacks a function.
    pub fn open(folder: Option<&Path>) -> Result<Self> {
        let path = |name: &str| folder.map_or_else(|| name.into(), |folder| folder.join(name));
        let builtins = folder.and_then(builtins_of);
        #[expect(unsafe_code, reason = "loading a library runs its initialisers")]
        // SAFETY: NVRTC's initialisers have no preconditions.
        let mut found = NAMES.iter().filter_map(|name| unsafe { Library::new(path(name)) }.ok().map(|l| (l, *name)));
        let Some((library, name)) = found.next() else {
            let tried: Vec<String> = NAMES.iter().map(|name| path(name).display().to_string()).collect();
            return Err(NvrtcError::Missing { tried: tried.join(", ") });
        };
        let mut nvrtc = Self { library, name: name.to_owned(), version: (0, 0), _builtins: builtins };
        nvrtc.version = nvrtc.ask_version()?;
        Ok(nvrtc)
    }

    /// Major and minor release.
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    /// Compiles `module` for compute capability `architecture`, as 90.
    ///
    /// # Errors
    /// [`NvrtcError::Compile`] with file and line if the source is refused.
    pub fn compile(&self, module: &Module, architecture: u32) -> Result<Compiled> {
        let defines = module.defines();
        self.compile_text(module.file, source_of(module.file)?, &defines, architecture)
    }

    /// As [`compile`](Self::compile), for any text that is to be called `file`.
    ///
    /// # Errors
    /// As there.
    pub fn compile_text(&self, file: &str, text: &str, defines: &[String], architecture: u32) -> Result<Compiled> {
        let program = Running { nvrtc: self, program: self.create(file, text)? };
        let defines = defines.iter().map(|define| format!("--define-macro={define}"));
        let options =
            [format!("--gpu-architecture=sm_{architecture}"), "--std=c++17".into(), "--generate-line-info".into()];
        let options: Vec<CString> = options.into_iter().chain(defines).map(|option| c_string(&option)).collect();
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let call =
            self.symbol::<unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int>("nvrtcCompileProgram")?;
        #[expect(unsafe_code, reason = "NVRTC's C interface")]
        // SAFETY: the program is alive, and `options` outlives the call.
        let status = unsafe { call(program.program, pointers.len() as c_int, pointers.as_ptr()) };
        if status != 0 {
            let log = self.bytes(&program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog")?;
            return Err(NvrtcError::Compile { file: file.to_owned(), log: text_of(&log) });
        }
        let ptx = text_of(&self.bytes(&program, "nvrtcGetPTXSize", "nvrtcGetPTX")?);
        let binary = self.bytes(&program, "nvrtcGetCUBINSize", "nvrtcGetCUBIN")?.len();
        Ok(Compiled { ptx, binary })
    }

    fn create(&self, file: &str, text: &str) -> Result<Program> {
        type Create = unsafe extern "C" fn(
            *mut Program,
            *const c_char,
            *const c_char,
            c_int,
            *const *const c_char,
            *const *const c_char,
        ) -> c_int;
        let create = self.symbol::<Create>("nvrtcCreateProgram")?;
        let (file, text) = (c_string(file), c_string(text));
        let headers = FILES.iter().filter(|(name, _)| name.ends_with(".cuh"));
        let (names, texts): (Vec<_>, Vec<_>) = headers.map(|(name, text)| (c_string(name), c_string(text))).unzip();
        let pointers = |strings: &[CString]| strings.iter().map(|s| s.as_ptr()).collect::<Vec<_>>();
        let (name_pointers, text_pointers) = (pointers(&names), pointers(&texts));
        let mut program = std::ptr::null_mut();
        #[expect(unsafe_code, reason = "NVRTC's C interface")]
        // SAFETY: all strings end in zero and outlive the call, and the two arrays have the length given.
        let status = unsafe {
            let (names, texts) = (name_pointers.as_ptr(), text_pointers.as_ptr());
            create(&raw mut program, text.as_ptr(), file.as_ptr(), name_pointers.len() as c_int, texts, names)
        };
        check("nvrtcCreateProgram", status)?;
        Ok(program)
    }

    /// What a pair of functions returns: one for the size, one for the bytes.
    fn bytes(&self, program: &Running<'_>, size: &'static str, get: &'static str) -> Result<Vec<u8>> {
        let ask = self.symbol::<unsafe extern "C" fn(Program, *mut usize) -> c_int>(size)?;
        let fill = self.symbol::<unsafe extern "C" fn(Program, *mut c_char) -> c_int>(get)?;
        let mut length = 0_usize;
        #[expect(unsafe_code, reason = "NVRTC's C interface")]
        // SAFETY: the program is alive, and `length` is written.
        check(size, unsafe { ask(program.program, &raw mut length) })?;
        let mut bytes = vec![0_u8; length];
        #[expect(unsafe_code, reason = "NVRTC's C interface")]
        // SAFETY: the program is alive, and `bytes` is as long as NVRTC asked for.
        check(get, unsafe { fill(program.program, bytes.as_mut_ptr().cast()) })?;
        Ok(bytes)
    }

    fn ask_version(&self) -> Result<(i32, i32)> {
        let ask = self.symbol::<unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int>("nvrtcVersion")?;
        let (mut major, mut minor) = (0, 0);
        #[expect(unsafe_code, reason = "NVRTC's C interface")]
        // SAFETY: both numbers are written.
        check("nvrtcVersion", unsafe { ask(&raw mut major, &raw mut minor) })?;
        Ok((major, minor))
    }

    fn symbol<T>(&self, name: &'static str) -> Result<Symbol<'_, T>> {
        #[expect(unsafe_code, reason = "the loader cannot check types")]
        // SAFETY: each caller names the type of NVRTC's header.
        let symbol = unsafe { self.library.get(name.as_bytes()) };
        symbol.map_err(|cause| NvrtcError::Symbol { library: self.name.clone(), cause })
    }
}

/// A program that is destroyed when it goes.
struct Running<'a> {
    nvrtc: &'a Nvrtc,
    program: Program,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Ok(destroy) = self.nvrtc.symbol::<unsafe extern "C" fn(*mut Program) -> c_int>("nvrtcDestroyProgram") {
            #[expect(unsafe_code, reason = "NVRTC's C interface")]
            // SAFETY: the program is alive, and nobody uses it after this.
            unsafe {
                destroy(&raw mut self.program);
            }
        }
    }
}

/// The helper library beside NVRTC, loaded first so that NVRTC finds it by its name.
fn builtins_of(folder: &Path) -> Option<Library> {
    let entries = std::fs::read_dir(folder).ok()?.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let helper =
        |path: &std::path::PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(BUILTINS));
    let path = entries.filter(helper).min()?;
    #[expect(unsafe_code, reason = "loading a library runs its initialisers")]
    // SAFETY: it holds data; its initialisers have no preconditions. If it fails, so does the first compilation.
    unsafe { Library::new(path) }.ok()
}

fn check(call: &'static str, status: c_int) -> Result<()> {
    if status == 0 { Ok(()) } else { Err(NvrtcError::Call { call, status }) }
}

/// Up to the first zero, which ends a C string.
fn c_string(text: &str) -> CString {
    let text = text.split('\0').next().unwrap_or_default();
    CString::new(text).unwrap_or_default()
}

fn text_of(bytes: &[u8]) -> String {
    let ended = CStr::from_bytes_until_nul(bytes).map(|text| text.to_string_lossy().into_owned());
    ended.unwrap_or_else(|_| String::from_utf8_lossy(bytes).into_owned())
}
