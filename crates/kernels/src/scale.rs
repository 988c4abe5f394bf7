//! Rows of each sequence, or columns, multiplied with numbers of their own.

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

/// `base + x · factors[column]`; no base is zero.
///
/// # Shapes
/// `x` and `base` `[rows, d]`, `factors` `[d]`; the result is as `x`.
///
/// # Errors
/// If shapes, layout or device do not fit.
pub fn scale_columns(base: Option<&Tensor>, x: &Tensor, factors: &Tensor) -> Result<Tensor> {
    const OP: &str = "scale_columns";
    let (_, d) = host::rows(OP, "x", x)?;
    if factors.dims() != [d] {
        return Err(host::shape(OP, "factors", factors, format!("[{d}]")));
    }
    let (values, factors) = (Host::of(OP, x)?, Host::of(OP, factors)?);
    let mut out = match base {
        None => vec![0.0; values.len()],
        Some(base) => {
            host::same_shape(OP, "base", base, x)?;
            Host::of(OP, base)?.to_vec()
        }
    };
    out.par_chunks_mut(d).zip(values.par_chunks(d)).for_each(|(out, x)| {
        wide!(|| out.iter_mut().zip(x).zip(&*factors).for_each(|((out, x), factor)| *out += x * factor));
    });
    host::tensor(OP, out, x.dims())
}

/// Rows handled as one task.
const PIECE: usize = 256;

/// `Σ_rows x · y` of each column: the gradient of the factors of [`scale_columns`].
///
/// # Shapes
/// `x` and `y` `[rows, d]`; the result is `[d]`.
///
/// # Errors
/// If shapes, layout or device do not fit.
pub fn column_dots(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    const OP: &str = "column_dots";
    host::same_shape(OP, "y", y, x)?;
    let (_, d) = host::rows(OP, "x", x)?;
    let (x, y) = (Host::of(OP, x)?, Host::of(OP, y)?);
    let piece = PIECE * d.max(1);
    let pieces = x.par_chunks(piece).zip(y.par_chunks(piece)).map(|(x, y)| {
        let mut sums = vec![0.0_f64; d];
        for (x, y) in x.chunks(d).zip(y.chunks(d)) {
            sums.iter_mut().zip(x).zip(y).for_each(|((sum, x), y)| *sum += f64::from(x * y));
        }
        sums
    });
    let mut total = vec![0.0_f64; d];
    for piece in pieces.collect::<Vec<_>>() {
        total.iter_mut().zip(piece).for_each(|(total, sum)| *total += sum);
    }
    host::tensor(OP, total.into_iter().map(|sum| sum as f32).collect(), &[d])
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn each_column_has_its_own_factor() {
        let x = Tensor::from_slice(&[1.0_f32, 2.0, 3.0, 4.0], (2, 2), &Device::Cpu).unwrap();
        let factors = Tensor::from_slice(&[10.0_f32, -1.0], 2, &Device::Cpu).unwrap();
        let values = |t: Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values(scale_columns(None, &x, &factors).unwrap()), [10.0, -2.0, 30.0, -4.0]);
        assert_eq!(values(scale_columns(Some(&x), &x, &factors).unwrap()), [11.0, 0.0, 33.0, 0.0]);
        assert_eq!(values(column_dots(&x, &x).unwrap()), [10.0, 20.0]);
        let refusal = scale_columns(None, &x, &x).unwrap_err().to_string();
        assert_eq!(refusal, "scale_columns: factors has shape [2, 2], wanted [2]");
    }

    #[test]
    fn each_sequence_has_its_own_factor() {
        let x = Tensor::from_slice(&[1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], (4, 2), &Device::Cpu).unwrap();
        let scaled = scale_sequences(&x, &[0.0, 2.0]).unwrap();
        assert_eq!(scaled.to_vec2::<f32>().unwrap().concat(), [0.0, 0.0, 0.0, 0.0, 10.0, 12.0, 14.0, 16.0]);
        let refusal = scale_sequences(&x, &[1.0; 3]).unwrap_err().to_string();
        assert_eq!(refusal, "scale_sequences: x has shape [4, 2], wanted as many rows for each of 3 sequences");
    }
}
