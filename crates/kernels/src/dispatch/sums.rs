//! Sums of tensors, in place and over their entries.

use crate::tensor::candle;
use crate::{Moments, Pending, Result, Tensor, cpu, cuda};

/// `sum += x`, in place: whoever shares the tensor `sum` sees it.
///
/// # Errors
/// If shapes, types or devices do not fit, or a machine fails.
pub fn accumulate(sum: &Tensor, x: &Tensor) -> Result<()> {
    const OP: &str = "accumulate";
    match sum {
        Tensor::Host(sum) => cpu::accumulate(sum, x.host(OP)?),
        Tensor::Cuda(sum) => Ok(cuda::accumulate(sum, x.array(OP, sum)?)?),
    }
}

/// `a + b`.
///
/// # Errors
/// If shapes, types or devices do not fit, or a machine fails.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    const OP: &str = "add";
    Ok(match a {
        Tensor::Host(a) => (a + b.host(OP)?).map_err(candle(OP))?.into(),
        Tensor::Cuda(a) => cuda::add(a, b.array(OP, a)?)?.into(),
    })
}

/// `x · factors[sequence]`: the rows of each sequence multiplied with a number of its own.
///
/// # Shapes
/// `x` `[sequences · tokens, d]`, one factor a sequence; the result is as `x`.
///
/// # Errors
/// If shapes or type do not fit, or a machine fails.
pub fn scale_sequences(x: &Tensor, factors: &[f32]) -> Result<Tensor> {
    Ok(match x {
        Tensor::Host(x) => cpu::scale_sequences(x, factors)?.into(),
        Tensor::Cuda(x) => cuda::scale_sequences(x, factors)?.into(),
    })
}

/// `base + x · factors[column]`; no base is zero. On the CPU alone.
///
/// # Shapes
/// `x` and `base` `[rows, d]`, `factors` `[d]`; the result is as `x`.
///
/// # Errors
/// If shapes, type or device do not fit.
pub fn scale_columns(base: Option<&Tensor>, x: &Tensor, factors: &Tensor) -> Result<Tensor> {
    const OP: &str = "scale_columns";
    let base = base.map(|base| base.host(OP)).transpose()?;
    Ok(cpu::scale_columns(base, x.host(OP)?, factors.host(OP)?)?.into())
}

/// `Σ_rows x · y` of each column, in f32: the gradient of the factors of [`scale_columns`].
///
/// # Shapes
/// `x` and `y` `[rows, d]`; the result is `[d]`.
///
/// # Errors
/// If shapes, types or devices do not fit, or a machine fails.
pub fn column_dots(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    const OP: &str = "column_dots";
    Ok(match x {
        Tensor::Host(x) => cpu::column_dots(x, y.host(OP)?)?.into(),
        Tensor::Cuda(x) => cuda::column_dots(x, y.array(OP, x)?)?.into(),
    })
}

/// Sum of each column, in f32: the gradient of a bias.
///
/// # Shapes
/// `dy` `[tokens, d]`; the result is `[d]`.
///
/// # Errors
/// If the type does not fit, or a machine fails.
pub fn column_sums(dy: &Tensor) -> Result<Tensor> {
    Ok(match dy {
        Tensor::Host(dy) => cpu::column_sums(dy)?.into(),
        Tensor::Cuda(dy) => cuda::column_sums(dy)?.into(),
    })
}

/// `Σ_rows x²` of each column.
///
/// # Shapes
/// `x` `[tokens, d]`; the result has `d` entries.
///
/// # Errors
/// If the type does not fit, or a machine fails.
pub fn column_square_sums(x: &Tensor) -> Result<Vec<f64>> {
    match x {
        Tensor::Host(x) => cpu::column_square_sums(x),
        Tensor::Cuda(x) => Ok(cuda::column_square_sums(x)?),
    }
}

/// `Σ_columns |w|` of each row.
///
/// # Shapes
/// `w` `[rows, columns]`; the result has `rows` entries.
///
/// # Errors
/// If the type does not fit, or a machine fails.
pub fn row_abs_sums(w: &Tensor) -> Result<Vec<f64>> {
    match w {
        Tensor::Host(w) => cpu::row_abs_sums(w),
        Tensor::Cuda(w) => Ok(cuda::row_abs_sums(w)?),
    }
}

/// Moments of the entries of `x`, a gradient, and those of the `rows` of `y`, row by row: a kept part against the whole.
///
/// # Shapes
/// `x` `[rows.len(), d]`, `y` `[any, d]`.
///
/// # Errors
/// If shapes, types or devices do not fit, or a machine fails.
pub fn moments(x: &Tensor, y: &Tensor, rows: &[usize]) -> Result<Pending<Moments>> {
    const OP: &str = "moments";
    Ok(match x {
        Tensor::Host(x) => Pending::known(Moments::of_rows(x, y.host(OP)?, rows)?),
        Tensor::Cuda(x) => {
            let coming = cuda::moments(x, y.array(OP, x)?, Some(rows))?;
            Pending::coming(move || Ok(coming.wait()?.moments))
        }
    })
}

/// `Σ x²` of all entries of a gradient.
///
/// # Errors
/// If the type does not fit, or a machine fails.
pub fn square_sum(x: &Tensor) -> Result<Pending<f64>> {
    Ok(match x {
        Tensor::Host(x) => Pending::known(cpu::square_sum(x)?),
        Tensor::Cuda(x) => {
            let coming = cuda::moments(x, x, None)?;
            Pending::coming(move || Ok(coming.wait()?.moments.xx))
        }
    })
}

/// `Σ |w · x|` over all entries of a weight and its gradient.
///
/// # Shapes
/// `w` and `x` `[rows, d]`.
///
/// # Errors
/// If shapes, types or devices do not fit, or a machine fails.
pub fn abs_product_sum(w: &Tensor, x: &Tensor) -> Result<Pending<f64>> {
    const OP: &str = "abs_product_sum";
    Ok(match w {
        Tensor::Host(w) => Pending::known(cpu::abs_product_sum(w, x.host(OP)?)?),
        Tensor::Cuda(w) => {
            let coming = cuda::moments(x.array(OP, w)?, w, None)?;
            Pending::coming(move || Ok(coming.wait()?.abs_product))
        }
    })
}
