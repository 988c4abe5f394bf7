//! Why an operation could not run on a GPU.

use taper_nvrtc::NvrtcError;

/// Why an operation could not run on a GPU.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    /// An array of the wrong size.
    #[error("{op}: {what} has shape {got:?}, wanted {want}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// Which argument.
        what: &'static str,
        /// Its shape.
        got: Vec<usize>,
        /// What was wanted.
        want: String,
    },
    /// An array of the wrong type.
    #[error("{op}: {what} holds {got}, wanted {want}")]
    Kind {
        /// The operation.
        op: &'static str,
        /// Which argument.
        what: &'static str,
        /// Its type.
        got: String,
        /// What was wanted.
        want: String,
    },
    /// A size that a kernel cannot count.
    #[error("{op}: {got} is more than the {most} that {what} may be")]
    Size {
        /// The operation.
        op: &'static str,
        /// Which size.
        what: &'static str,
        /// Its value.
        got: usize,
        /// The limit.
        most: usize,
    },
    /// Not enough device memory.
    #[error(
        "out of GPU memory: wanted {wanted} bytes, {free} of {total} are free; lower the length of sequences \
         (`data.length`), the rank of sketches, or take a GPU with more"
    )]
    OutOfMemory {
        /// Bytes asked for.
        wanted: usize,
        /// Bytes free.
        free: usize,
        /// Bytes of the device.
        total: usize,
    },
    /// A library of NVIDIA's that is not installed.
    #[error("{library} was not found (tried {tried}): {help}")]
    Library {
        /// What it is called.
        library: &'static str,
        /// Names tried.
        tried: String,
        /// How to come by it.
        help: &'static str,
    },
    /// A machine without a GPU, or without the one asked for.
    #[error("no CUDA device {ordinal}: the driver reports {found}")]
    NoDevice {
        /// Which one was asked for.
        ordinal: usize,
        /// How many there are.
        found: usize,
    },
    /// The driver, cuBLAS or the machine of a test refused.
    #[error("{call}: {reason}")]
    Refused {
        /// What was called, or which kernel ran.
        call: String,
        /// Name and meaning of the error.
        reason: String,
    },
    /// No PTX for a kernel.
    #[error("{module}: no PTX")]
    Kernel {
        /// The module.
        module: String,
        /// The reason.
        #[source]
        cause: NvrtcError,
    },
}

/// Result of an operation on a GPU.
pub type Result<T> = std::result::Result<T, CudaError>;
