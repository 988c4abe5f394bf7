//! Sums over tensors, in f64 and in a fixed order.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::Result;
use crate::host::{self, Host};

/// Rows, or values, summed as one piece; fixed, so that the sum's order is.
const ROWS: usize = 64;
const VALUES: usize = 16 * 1024;

/// `Σ_rows x²` of each column: the squared L2 norm of an activation over tokens.
///
/// # Shapes
/// `x` `[tokens, d]`; the result has `d` entries.
///
/// # Errors
/// If layout or device do not fit.
pub fn column_square_sums(x: &Tensor) -> Result<Vec<f64>> {
    const OP: &str = "column_square_sums";
    let (_, d) = host::rows(OP, "x", x)?;
    let values = Host::of(OP, x)?;
    let pieces = values.par_chunks(ROWS * d.max(1)).map(|piece| {
        let mut sums = vec![0.0_f64; d];
        for row in piece.chunks(d) {
            sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x) * f64::from(*x));
        }
        sums
    });
    let mut total = vec![0.0; d];
    for piece in pieces.collect::<Vec<_>>() {
        total.iter_mut().zip(piece).for_each(|(total, part)| *total += part);
    }
    Ok(total)
}

/// `Σ_columns |w|` of each row.
///
/// # Shapes
/// `w` `[rows, columns]`; the result has `rows` entries.
///
/// # Errors
/// If layout or device do not fit.
pub fn row_abs_sums(w: &Tensor) -> Result<Vec<f64>> {
    const OP: &str = "row_abs_sums";
    let (_, d) = host::rows(OP, "w", w)?;
    let values = Host::of(OP, w)?;
    Ok(values.par_chunks(d.max(1)).map(|row| row.iter().map(|w| f64::from(w.abs())).sum()).collect())
}

/// `Σ x²` of all values.
///
/// # Errors
/// If layout or device do not fit.
pub fn square_sum(x: &Tensor) -> Result<f64> {
    let values = Host::of("square_sum", x)?;
    let pieces =
        values.par_chunks(VALUES).map(|piece| piece.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>());
    Ok(pieces.collect::<Vec<_>>().into_iter().sum())
}

/// `Σ |x · y|` of all pairs of values.
///
/// # Errors
/// If shapes, layout or device do not fit.
pub fn abs_product_sum(x: &Tensor, y: &Tensor) -> Result<f64> {
    const OP: &str = "abs_product_sum";
    host::same_shape(OP, "y", y, x)?;
    let (x, y) = (Host::of(OP, x)?, Host::of(OP, y)?);
    let pieces = x.par_chunks(VALUES).zip(y.par_chunks(VALUES));
    let pieces = pieces.map(|(x, y)| x.iter().zip(y).map(|(x, y)| (f64::from(*x) * f64::from(*y)).abs()).sum::<f64>());
    Ok(pieces.collect::<Vec<_>>().into_iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn match_hand_computed_values() {
        let x = Tensor::from_slice(&[1.0_f32, -2.0, 3.0, 4.0], (2, 2), &Device::Cpu).unwrap();
        assert_eq!(column_square_sums(&x).unwrap(), [10.0, 20.0]);
        assert_eq!(row_abs_sums(&x).unwrap(), [3.0, 7.0]);
        assert_eq!(square_sum(&x).unwrap(), 30.0);
        assert_eq!(abs_product_sum(&x, &x.neg().unwrap()).unwrap(), 30.0);
        assert!(square_sum(&x.t().unwrap()).is_err());
    }
}
