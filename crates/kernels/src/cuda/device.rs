//! The real machine: one GPU and one stream, by the driver and cuBLAS, both found when a device is opened.
//!
//! Memory comes from the driver's stream-ordered pool, which keeps what is given back; an address can be used again by the
//! next command without waiting. Not run on a GPU yet: see `docs/gpu.md`.
#![expect(unsafe_code, reason = "the driver's and cuBLAS's C interfaces")]

use std::collections::BTreeMap;
use std::ffi::{CString, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cudarc::cublas::{result as cublas, sys as blas};
use cudarc::driver::{DriverError, result as driver, sys};
use taper_nvrtc::{Cache, Module, Storage};

use super::{Argument, Command, CudaError, Launch, Machine, Matrix, Product, Result, Transfer};

/// Dynamic shared memory that needs no asking for.
const SHARED: usize = 48 * 1024;

/// One GPU. Commands of all threads run in the order in which they come.
#[derive(Debug)]
pub struct Device {
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    capability: u32,
    name: String,
    cache: Cache,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    blas: blas::cublasHandle_t,
    modules: BTreeMap<Module, sys::CUmodule>,
}

// SAFETY: the driver's handles may be used from any thread; every call first makes the context current.
unsafe impl Send for Device {}
// SAFETY: as above; cuBLAS's handle and the table of modules are behind a lock.
unsafe impl Sync for Device {}

impl Device {
    /// GPU `ordinal`, as the driver counts.
    ///
    /// # Errors
    /// [`CudaError::Library`] without driver or cuBLAS, [`CudaError::NoDevice`] without such a GPU, or what the driver says.
    pub fn open(ordinal: usize) -> Result<Self> {
        probe("the CUDA driver (libcuda)", "cuda", "it comes with NVIDIA's driver; is this machine's GPU set up?")?;
        probe("cuBLAS (libcublas)", "cublas", "it comes with the CUDA toolkit, and with PyPI's nvidia-cublas")?;
        refused("cuInit", driver::init())?;
        let found = refused("cuDeviceGetCount", driver::device::get_count())?.max(0) as usize;
        if ordinal >= found {
            return Err(CudaError::NoDevice { ordinal, found });
        }
        let device = refused("cuDeviceGet", driver::device::get(ordinal as i32))?;
        let name = refused("cuDeviceGetName", driver::device::get_name(device))?;
        // SAFETY: the device was just found, and the context is set before the calls that need one.
        let (context, capability) = unsafe {
            let context = refused("cuDevicePrimaryCtxRetain", driver::primary_ctx::retain(device))?;
            refused("cuCtxSetCurrent", driver::ctx::set_current(context))?;
            keep_memory(device)?;
            (context, capability(device)?)
        };
        let stream = refused("cuStreamCreate", driver::stream::create(driver::stream::StreamKind::NonBlocking))?;
        let blas = blas_refused("cublasCreate", cublas::create_handle())?;
        // SAFETY: both handles were just made.
        blas_refused("cublasSetStream", unsafe { cublas::set_stream(blas, stream.cast()) })?;
        let state = Mutex::new(State { blas, modules: BTreeMap::new() });
        Ok(Self { device, context, stream, capability, name, cache: Cache::from_environment(), state })
    }

    /// Memory that nobody has taken, in bytes.
    ///
    /// # Errors
    /// What the driver says.
    pub fn free_bytes(&self) -> Result<usize> {
        self.enter()?;
        Ok(refused("cuMemGetInfo", driver::mem_get_info())?.0)
    }

    /// Memory that arrays took at most since this was last asked, in bytes.
    ///
    /// # Errors
    /// What the driver says.
    pub fn take_peak_bytes(&self) -> Result<u64> {
        self.enter()?;
        let (mut bytes, mut reset) = (0_u64, 0_u64);
        let attribute = sys::CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
        // SAFETY: the device was found when this was made; this attribute is a u64, and 0 resets it.
        unsafe {
            let pool = refused("cuDeviceGetDefaultMemPool", driver::device::get_default_mem_pool(self.device))?;
            let got = driver::mem_pool::get_attribute(pool, attribute, (&raw mut bytes).cast());
            refused("cuMemPoolGetAttribute", got)?;
            let set = driver::mem_pool::set_attribute(pool, attribute, (&raw mut reset).cast());
            refused("cuMemPoolSetAttribute", set)?;
        }
        Ok(bytes)
    }

    /// What the driver calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Compute capability, as 90.
    pub fn capability(&self) -> u32 {
        self.capability
    }

    fn enter(&self) -> Result<()> {
        // SAFETY: the context lives as long as this.
        refused("cuCtxSetCurrent", unsafe { driver::ctx::set_current(self.context) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn function(&self, launch: &Launch) -> Result<sys::CUfunction> {
        let mut state = self.state();
        let module = match state.modules.get(&launch.module) {
            Some(module) => *module,
            None => {
                let loaded = self.load(&launch.module)?;
                state.modules.insert(launch.module, loaded);
                loaded
            }
        };
        // SAFETY: modules stay loaded as long as this.
        let function = unsafe { driver::module::get_function(module, c_string(launch.kernel)) };
        refused(launch.kernel, function)
    }

    fn load(&self, module: &Module) -> Result<sys::CUmodule> {
        let ptx = self.cache.ptx(module, self.capability);
        let ptx = c_string(&ptx.map_err(|cause| CudaError::Kernel { module: module.to_string(), cause })?);
        // SAFETY: the image is PTX that ends in zero.
        refused("cuModuleLoadData", unsafe { driver::module::load_data(ptx.as_ptr().cast()) })
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        let function = self.function(launch)?;
        if launch.shared > SHARED {
            let most = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is of a loaded module.
            let set = unsafe { driver::function::set_function_attribute(function, most, launch.shared as i32) };
            refused(launch.kernel, set)?;
        }
        let mut arguments: Vec<*mut c_void> = launch.arguments.iter().map(pointer).collect();
        let [x, y, z] = launch.grid;
        // SAFETY: the launcher has checked shapes against the kernel's reach, and the tests run every launcher against
        // the same source with its arguments counted; the driver copies the arguments before it returns.
        let launched = unsafe {
            let block = (launch.block, 1, 1);
            driver::launch_kernel(function, (x, y, z), block, launch.shared as u32, self.stream, &mut arguments)
        };
        refused(launch.kernel, launched)
    }

    fn multiply(&self, product: &Product) -> Result<()> {
        let Product { a, b, out, m, n, k, add } = product;
        let (one, beta) = (1.0_f32, if *add { 1.0_f32 } else { 0.0 });
        let turn = |matrix: &Matrix| match matrix.transposed {
            true => blas::cublasOperation_t::CUBLAS_OP_T,
            false => blas::cublasOperation_t::CUBLAS_OP_N,
        };
        let kind = |matrix: &Matrix| match matrix.storage {
            Storage::F32 => blas::cudaDataType_t::CUDA_R_32F,
            Storage::Bf16 => blas::cudaDataType_t::CUDA_R_16BF,
        };
        let size = |what: &'static str, size: usize| {
            let most = i32::MAX as usize;
            i32::try_from(size).ok().ok_or(CudaError::Size { op: "product", what, got: size, most })
        };
        let (m, n, k) = (size("m", *m)?, size("n", *n)?, size("k", *k)?);
        let [lda, ldb, ldc] = [a, b, out].map(|matrix| size("a row", matrix.leading));
        let state = self.state();
        // SAFETY: the launcher has checked that shapes chain and lie within their arrays; factors outlive the call.
        let done = unsafe {
            cublas::gemm_ex(
                state.blas,
                turn(a),
                turn(b),
                m,
                n,
                k,
                (&raw const one).cast(),
                a.address as *const c_void,
                kind(a),
                lda?,
                b.address as *const c_void,
                kind(b),
                ldb?,
                (&raw const beta).cast(),
                out.address as *mut c_void,
                kind(out),
                ldc?,
                blas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                blas::cublasGemmAlgo_t::CUBLAS_GEMM_DFALT,
            )
        };
        blas_refused("cublasGemmEx", done)
    }
}

impl Machine for Device {
    fn allocate(&self, bytes: usize) -> Result<u64> {
        self.enter()?;
        // SAFETY: the stream lives as long as this; what reads the memory before it is written is the caller's fault.
        match unsafe { driver::malloc_async(self.stream, bytes) } {
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                let (free, total) = refused("cuMemGetInfo", driver::mem_get_info())?;
                Err(CudaError::OutOfMemory { wanted: bytes, free, total })
            }
            other => refused("cuMemAllocAsync", other),
        }
    }

    fn release(&self, address: u64) {
        // Nobody is left to tell; a driver that failed says so at the next copy.
        if self.enter().is_ok() {
            // SAFETY: the address came from `allocate`, and its last holder is gone.
            let _ = unsafe { driver::free_async(address, self.stream) };
        }
    }

    fn copy(&self, transfer: Transfer<'_>) -> Result<()> {
        self.enter()?;
        // SAFETY: both sides are as long as the slice; the driver stages pageable memory before it returns, and the copy
        // out is waited for.
        unsafe {
            match transfer {
                Transfer::In { from, to } => {
                    refused("cuMemcpyHtoDAsync", driver::memcpy_htod_async(to, from, self.stream))
                }
                Transfer::Within { from, to, bytes } => {
                    refused("cuMemcpyDtoDAsync", driver::memcpy_dtod_async(to, from, bytes, self.stream))
                }
                Transfer::Zeros { to, bytes } => {
                    refused("cuMemsetD8Async", driver::memset_d8_async(to, 0, bytes, self.stream))
                }
                Transfer::Out { from, to } => {
                    refused("cuMemcpyDtoHAsync", driver::memcpy_dtoh_async(to, from, self.stream))?;
                    refused("cuStreamSynchronize", driver::stream::synchronize(self.stream))
                }
            }
        }
    }

    fn run(&self, command: &Command) -> Result<()> {
        self.enter()?;
        match command {
            Command::Launch(launch) => self.launch(launch),
            Command::Product(product) => self.multiply(product),
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if self.enter().is_err() {
            return;
        }
        let state = self.state();
        // SAFETY: nobody holds an array any more, so no command is left that uses these. Failures have no one to go to.
        unsafe {
            let _ = driver::stream::synchronize(self.stream);
            let _ = cublas::destroy_handle(state.blas);
            state.modules.values().for_each(|module| {
                let _ = driver::module::unload(*module);
            });
            let _ = driver::stream::destroy(self.stream);
            let _ = driver::primary_ctx::release(self.device);
        }
    }
}

/// Lets the pool keep all that is given back.
///
/// # Safety
/// The device must be one that the driver has named, with its context current.
unsafe fn keep_memory(device: sys::CUdevice) -> Result<()> {
    let mut threshold = u64::MAX;
    let attribute = sys::CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: as the caller says; this attribute is a u64.
    unsafe {
        let pool = refused("cuDeviceGetDefaultMemPool", driver::device::get_default_mem_pool(device))?;
        let set = driver::mem_pool::set_attribute(pool, attribute, (&raw mut threshold).cast());
        refused("cuMemPoolSetAttribute", set)
    }
}

/// # Safety
/// The device must be one that the driver has named.
unsafe fn capability(device: sys::CUdevice) -> Result<u32> {
    use sys::CUdevice_attribute_enum as Attribute;
    let ask = |attribute| {
        // SAFETY: as the caller says.
        refused("cuDeviceGetAttribute", unsafe { driver::device::get_attribute(device, attribute) })
    };
    let major = ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    Ok((10 * major + minor).max(0) as u32)
}

/// Refuses if no library of that name can be loaded: cudarc would panic at its first use.
fn probe(library: &'static str, name: &str, help: &'static str) -> Result<()> {
    let names = cudarc::get_lib_name_candidates(name);
    // SAFETY: NVIDIA's libraries have initialisers without preconditions; cudarc loads the same file next.
    let found = names.iter().any(|name| unsafe { libloading::Library::new(name) }.is_ok());
    if found { Ok(()) } else { Err(CudaError::Library { library, tried: names.join(", "), help }) }
}

fn refused<T>(call: &str, result: std::result::Result<T, DriverError>) -> Result<T> {
    result.map_err(|cause| CudaError::Refused { call: call.to_owned(), reason: cause.to_string() })
}

fn blas_refused<T>(call: &str, result: std::result::Result<T, cublas::CublasError>) -> Result<T> {
    result.map_err(|cause| CudaError::Refused { call: call.to_owned(), reason: cause.to_string() })
}

fn pointer(argument: &Argument) -> *mut c_void {
    let pointer: *const c_void = match argument {
        Argument::Pointer(x) => std::ptr::from_ref(x).cast(),
        Argument::Int(x) => std::ptr::from_ref(x).cast(),
        Argument::Long(x) => std::ptr::from_ref(x).cast(),
        Argument::Float(x) => std::ptr::from_ref(x).cast(),
    };
    pointer.cast_mut()
}

/// Up to the first zero, which ends a C string.
fn c_string(text: &str) -> CString {
    CString::new(text.split('\0').next().unwrap_or_default()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_missing_is_named_with_what_was_tried() {
        let refusal = probe("cuBLAS (libcublas)", "taper-has-no-such-library", "install it").unwrap_err().to_string();
        assert!(refusal.starts_with("cuBLAS (libcublas) was not found (tried "), "{refusal}");
        assert!(refusal.contains("libtaper-has-no-such-library.so") && refusal.ends_with(": install it"), "{refusal}");
    }

    #[test]
    fn a_machine_without_a_gpu_is_an_error_not_a_panic() {
        match Device::open(usize::MAX) {
            Err(CudaError::Library { .. } | CudaError::NoDevice { .. } | CudaError::Refused { .. }) => {}
            other => panic!("{other:?}"),
        }
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn too_much_memory_is_an_error_that_says_how_much_there_is() {
        let device = Device::open(0).unwrap();
        let refusal = device.allocate(1 << 46).unwrap_err();
        assert!(
            matches!(refusal, CudaError::OutOfMemory { wanted, free, total } if wanted == 1 << 46 && free <= total)
        );
        assert!(device.allocate(256).is_ok(), "the device goes on");
    }
}
