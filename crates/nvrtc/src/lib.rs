//! The CUDA sources of taper, and their way to PTX: NVRTC found at run time, results kept on disk.
//!
//! Nothing here needs a GPU, a driver or a toolkit at build time. The sources include no header but each other, so that
//! the NVRTC library alone compiles them.

mod cache;
mod library;
mod source;

use std::path::PathBuf;

pub use cache::Cache;
pub use library::{Compiled, Nvrtc};
pub use source::{FILES, Module, Storage, modules, source_of};

/// Compute capabilities that the sources are compiled for: Ampere and Hopper. Later ones run the PTX of the last.
pub const ARCHITECTURES: [u32; 2] = [80, 90];

/// Why there is no PTX.
#[derive(Debug, thiserror::Error)]
pub enum NvrtcError {
    /// No NVRTC library, under any of its names.
    #[error(
        "NVRTC was not found as {tried}; set TAPER_NVRTC to the folder of libnvrtc.so, or put the PTX of this release \
         into the folder that TAPER_PTX_CACHE names"
    )]
    Missing {
        /// Names tried.
        tried: String,
    },
    /// A library that lacks what is called.
    #[error("{library}: not an NVRTC library that taper can call")]
    Symbol {
        /// Name of the library.
        library: String,
        /// What the loader said.
        #[source]
        cause: libloading::Error,
    },
    /// NVRTC refused to do something other than compile.
    #[error("{call} failed with NVRTC's status {status}")]
    Call {
        /// The function.
        call: &'static str,
        /// Its result.
        status: i32,
    },
    /// A source that is no valid CUDA.
    #[error("{file} does not compile:\n{log}")]
    Compile {
        /// The source.
        file: String,
        /// NVRTC's messages, with file and line.
        log: String,
    },
    /// No source of that name.
    #[error("no kernel source {file}; known: {known}")]
    Unknown {
        /// The name asked for.
        file: String,
        /// Names there are.
        known: String,
    },
    /// The folder of kept PTX could not be read or written.
    #[error("{}", path.display())]
    Cache {
        /// File or folder.
        path: PathBuf,
        /// The reason.
        #[source]
        cause: std::io::Error,
    },
}

/// Result of a compilation.
pub type Result<T> = std::result::Result<T, NvrtcError>;
