//! Rows of each sequence multiplied with a number of its own.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::Result;
use crate::host::{self, Host};
use crate::simd::wide;

/// `x · factors[sequence]`.
///
/// # Shapes
/// `x` `[sequences · tokens, d]`, one factor a sequence; the result is as `x`.
///
/// # Errors
/// If shapes, layout or device do not fit.
pub fn scale_sequences(x: &Tensor, factors: &[f32]) -> Result<Tensor> {
    const OP: &str = "scale_sequences";
    let (rows, d) = host::rows(OP, "x", x)?;
    if factors.is_empty() || !rows.is_multiple_of(factors.len()) {
        return Err(host::shape(OP, "x", x, format!("as many rows for each of {} sequences", factors.len())));
    }
    let x_values = Host::of(OP, x)?;
    let mut out = vec![0.0; rows * d];
    let size = (rows / factors.len() * d).max(1);
    out.par_chunks_mut(size).zip(x_values.par_chunks(size)).zip(factors).for_each(|((out, x), factor)| {
        wide!(|| out.iter_mut().zip(x).for_each(|(out, x)| *out = x * factor));
    });
    host::tensor(OP, out, x.dims())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn each_sequence_has_its_own_factor() {
        let x = Tensor::from_slice(&[1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], (4, 2), &Device::Cpu).unwrap();
        let scaled = scale_sequences(&x, &[0.0, 2.0]).unwrap();
        assert_eq!(scaled.to_vec2::<f32>().unwrap().concat(), [0.0, 0.0, 0.0, 0.0, 10.0, 12.0, 14.0, 16.0]);
        let refusal = scale_sequences(&x, &[1.0; 3]).unwrap_err().to_string();
        assert_eq!(refusal, "scale_sequences: x has shape [4, 2], wanted as many rows for each of 3 sequences");
    }
}
