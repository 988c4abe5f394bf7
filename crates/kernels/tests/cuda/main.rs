//! The kernels of `kernels/` and their launchers against definitions in f64.
//!
//! Every case runs on the host, by the emulation, and once more on a GPU where there is one (`--features cuda`,
//! `--ignored`).
#![expect(clippy::unwrap_used, reason = "the cases are functions of their own, called by tests")]

#[cfg(feature = "cuda")]
mod benchmark;
mod cases;
mod definitions;

#[cfg(feature = "cuda")]
fn gpu() -> cases::Gpu {
    std::sync::Arc::new(taper_kernels::cuda::Device::open(0).unwrap())
}

/// Each case as two tests.
macro_rules! on_both {
    ($($module:ident: $($case:ident),+;)+) => {
        mod emulated {
            $(mod $module {
                $(#[test] fn $case() { crate::cases::$module::$case(&emulation::Host::machine()) })+
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
    attention: forward, backward, arguments_are_checked;
    elementwise: sums, gates, turns;
    empty: nothing_in_gives_nothing_out_or_zeros;
    loss: losses_and_gradients, predictions_by_targets_and_a_teacher, a_row_apart, arguments_are_checked;
    norm: norms_forward, norms_backward, weight_gradients, arguments_are_checked;
    sums: columns_and_rows, moments_of_pairs, moments_of_rows;
    table: rows_by_token, gradients_by_token;
    twins: norms_and_gates, what_vision_adds, attentions_and_losses, statistics, scales;
    units: products, gradients, a_prefix_is_a_view;
}
