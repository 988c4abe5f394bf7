//! Sums of tensors in place.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::Result;
use crate::host::{self, Host};
use crate::simd::wide;

/// Values handled as one task.
const PIECE: usize = 16 * 1024;

/// `sum += x`, in place: whoever shares the tensor `sum` sees it.
///
/// # Errors
/// If shapes, layout or device do not fit.
pub fn accumulate(sum: &Tensor, x: &Tensor) -> Result<()> {
    const OP: &str = "accumulate";
    host::same_shape(OP, "x", x, sum)?;
    let x = Host::of(OP, x)?;
    host::update(OP, sum, |sum| {
        sum.par_chunks_mut(PIECE).zip(x.par_chunks(PIECE)).for_each(|(sum, x)| add(sum, x));
        Ok(())
    })
}

pub(crate) fn add(sum: &mut [f32], x: &[f32]) {
    wide!(|| sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += x));
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn adds_to_the_tensor_itself() {
        let t = |values: &[f32]| Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap();
        let sum = t(&[1.0, 2.0, 3.0]);
        accumulate(&sum, &t(&[10.0, 20.0, 30.0])).unwrap();
        accumulate(&sum.narrow(0, 1, 2).unwrap(), &t(&[100.0, 200.0])).unwrap();
        assert_eq!(sum.to_vec1::<f32>().unwrap(), [11.0, 122.0, 233.0]);
        assert!(accumulate(&sum, &t(&[1.0])).is_err());
    }
}
