//! Loops compiled for the vectors that this machine has.
//!
//! The binary is built for the oldest machine of its kind; `pulp` picks at run time. No operation is reordered or fused
//! by that, so every machine computes the same bits here.

use std::iter::Sum;
use std::ops::AddAssign;

/// Runs a closure with the widest vectors there are. Loops in it become vector code if all that they call is inlined.
///
/// A macro, because only it can say that the closure itself is inlined: it is called once for each kind of vector, and if
/// the compiler keeps one copy for all, that is one for the oldest machine.
macro_rules! wide {
    (|| $body:expr) => {
        $crate::simd::dispatch(
            #[inline(always)]
            || $body,
        )
    };
}
pub(crate) use wide;

#[inline(always)]
pub(crate) fn dispatch<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// Lanes that a sum runs in: vector code with a fixed order.
pub(crate) const LANES: usize = 16;

/// `Σ f(values_i)` over slices of one length, in interleaved lanes. (An index into a slice would be checked in each lane,
/// which keeps the loop from becoming vector code.)
#[inline(always)]
pub(crate) fn sum<const N: usize, T: Copy + Default + AddAssign + Sum>(
    values: [&[f32]; N],
    f: impl Fn([f32; N]) -> T,
) -> T {
    let n = values.iter().map(|values| values.len()).min().unwrap_or(0);
    let parts = values.map(|values| values[..n].as_chunks::<LANES>());
    let mut sums = [T::default(); LANES];
    for index in 0..n / LANES {
        let lines = parts.map(|(lines, _)| &lines[index]);
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum += f(lines.map(|line| line[lane]));
        }
    }
    for (lane, sum) in sums.iter_mut().enumerate().take(n % LANES) {
        *sum += f(parts.map(|(_, rest)| rest[lane]));
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

/// Has `values[at]` brought near: into the first cache to be changed, or else into the second. Nothing if it is not there
/// or the machine cannot.
#[inline(always)]
pub(crate) fn fetch<const CHANGED: bool>(values: &[f32], at: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(value) = values.get(at) {
        use std::arch::x86_64::{_MM_HINT_ET0, _MM_HINT_T1, _mm_prefetch};
        let address = std::ptr::from_ref(value).cast();
        #[expect(unsafe_code, reason = "takes a pointer")]
        // SAFETY: a hint only, and the pointer is that of a reference; every x86-64 has it or takes it for no operation.
        unsafe {
            if CHANGED { _mm_prefetch::<_MM_HINT_ET0>(address) } else { _mm_prefetch::<_MM_HINT_T1>(address) }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (values, at);
}

/// Columns as rows.
#[inline(always)]
pub(crate) fn transposed(rows: [[f32; 4]; 4]) -> [[f32; 4]; 4] {
    #[cfg(target_arch = "x86_64")] // by the vectors that each has: three times as fast as what the compiler finds
    {
        use std::arch::x86_64::{__m128, _mm_movehl_ps, _mm_movelh_ps, _mm_unpackhi_ps, _mm_unpacklo_ps};
        let [a, b, c, d] = rows.map(bytemuck::cast::<[f32; 4], __m128>);
        #[expect(unsafe_code, reason = "to be called where SSE is")]
        // SAFETY: SSE is part of x86-64.
        let columns = unsafe {
            let (low, also_low) = (_mm_unpacklo_ps(a, b), _mm_unpacklo_ps(c, d));
            let (high, also_high) = (_mm_unpackhi_ps(a, b), _mm_unpackhi_ps(c, d));
            [
                _mm_movelh_ps(low, also_low),
                _mm_movehl_ps(also_low, low),
                _mm_movelh_ps(high, also_high),
                _mm_movehl_ps(also_high, high),
            ]
        };
        columns.map(bytemuck::cast)
    }
    #[cfg(not(target_arch = "x86_64"))]
    std::array::from_fn(|row| rows.map(|values| values[row]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_maxima_of_any_length() {
        for n in [0, 1, 15, 16, 17, 100] {
            let values: Vec<f32> = (0..n).map(|i| ((i * 7) % 31) as f32 - 40.0).collect();
            assert_eq!(wide!(|| sum([&values], |[x]| x)), values.iter().sum::<f32>());
            let products = values.iter().map(|x| x * (x + 1.0)).sum::<f32>();
            let more: Vec<f32> = values.iter().map(|x| x + 1.0).collect();
            assert_eq!(wide!(|| sum([&values, &more], |[x, y]| x * y)), products);
            assert_eq!(wide!(|| most(&values)), values.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
