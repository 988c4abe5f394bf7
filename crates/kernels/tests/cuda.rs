//! The kernels of `kernels/` and their launchers against definitions in f64.
//!
//! Every case runs on the host, by the emulation, and once more on a GPU where there is one (`--features cuda`,
//! `--ignored`).
#![expect(unsafe_code, reason = "the emulation loads what it compiles")]

mod cases;
mod emulation;
mod reference;

use std::sync::Arc;
use taper_kernels::cuda::Machine;

#[cfg(feature = "cuda")]
fn gpu() -> Arc<dyn Machine> {
    Arc::new(taper_kernels::cuda::Device::open(0).unwrap())
}

/// Each case as two tests.
macro_rules! on_both {
    ($($module:ident: $($case:ident),+;)+) => {
        mod emulated {
            $(mod $module {
                $(#[test] fn $case() { crate::cases::$module::$case(&crate::emulation::Host::machine()) })+
            })+
        }
        #[cfg(feature = "cuda")]
        mod on_a_gpu {
            $(mod $module {
                $(#[test] #[ignore = "needs a GPU"] fn $case() { crate::cases::$module::$case(&crate::gpu()) })+
            })+
        }
    };
}

on_both! {
    norm: norms_forward, norms_backward, weight_gradients, arguments_are_checked;
}
