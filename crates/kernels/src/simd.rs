//! Loops compiled for the vectors that this machine has.
//!
//! The binary is built for the oldest machine of its kind; `pulp` picks at run time. No operation is reordered or fused
//! by that, so every machine computes the same bits here.

use std::iter::Sum;
use std::ops::AddAssign;

/// Runs `f` with the widest vectors there are. Loops in it become vector code if it and all it calls are inlined.
#[inline(always)]
pub(crate) fn wide<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// Lanes that a sum runs in: vector code with a fixed order.
pub(crate) const LANES: usize = 16;

/// `Σ f(i)` for `i < n`, in interleaved lanes.
#[inline(always)]
pub(crate) fn sum<T: Copy + Default + AddAssign + Sum>(n: usize, f: impl Fn(usize) -> T) -> T {
    let mut sums = [T::default(); LANES];
    let whole = n / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum += f(start + lane);
        }
    }
    for (lane, index) in (whole..n).enumerate() {
        sums[lane] += f(index);
    }
    sums.into_iter().sum()
}

/// The largest value; NaN is passed over. `-∞` of none.
#[inline(always)]
pub(crate) fn most(values: &[f32]) -> f32 {
    let mut most = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (most, x) in most.iter_mut().zip(chunk) {
            *most = if *x > *most { *x } else { *most };
        }
    }
    let most = most.into_iter().fold(f32::NEG_INFINITY, f32::max);
    rest.iter().copied().fold(most, f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_maxima_of_any_length() {
        for n in [0, 1, 15, 16, 17, 100] {
            let values: Vec<f32> = (0..n).map(|i| ((i * 7) % 31) as f32 - 40.0).collect();
            assert_eq!(wide(|| sum(n, |i| values[i])), values.iter().sum::<f32>());
            assert_eq!(wide(|| most(&values)), values.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
