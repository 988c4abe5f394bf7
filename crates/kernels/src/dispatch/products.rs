//! Products with weights, and rows of the embedding.

use crate::{Result, Tensor, cpu, cuda};

/// `x · wᵀ + bias`.
///
/// # Shapes
/// `x` `[tokens, d_model]`, `w` `[units, d_model]`, `bias` `[units]`; the result is `[tokens, units]`.
///
/// # Errors
/// If shapes, types or devices do not fit, or a machine fails.
pub fn into_units(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    const OP: &str = "into_units";
    Ok(match x {
        Tensor::Host(x) => cpu::into_units(x, w.host(OP)?, bias.map(|bias| bias.host(OP)).transpose()?)?.into(),
        Tensor::Cuda(x) => {
            cuda::into_units(x, w.array(OP, x)?, bias.map(|bias| bias.array(OP, x)).transpose()?)?.into()
        }
    })
}

/// `base + Σ h · w + bias`, over pairs `(h, w)`; no base is zero.
///
/// # Shapes
/// Each `h` `[tokens, units]` and its `w` `[units, d]`, `base` `[tokens, d]`, `bias` `[d]`; the result is `[tokens, d]`.
///
/// # Errors
/// If shapes, types or devices do not fit, there is no pair, or a machine fails.
pub fn from_units(base: Option<&Tensor>, terms: &[(&Tensor, &Tensor)], bias: Option<&Tensor>) -> Result<Tensor> {
    const OP: &str = "from_units";
    if let Some((Tensor::Cuda(at), _)) = terms.first() {
        let array = |tensor: Option<&_>| tensor.map(|tensor: &&Tensor| tensor.array(OP, at)).transpose();
        let pairs: Result<Vec<_>> = terms.iter().map(|(h, w)| Ok((h.array(OP, at)?, w.array(OP, at)?))).collect();
        return Ok(cuda::from_units(array(base.as_ref())?, &pairs?, array(bias.as_ref())?)?.into());
    }
    let host = |tensor: Option<&_>| tensor.map(|tensor: &&Tensor| tensor.host(OP)).transpose();
    let pairs: Result<Vec<_>> = terms.iter().map(|(h, w)| Ok((h.host(OP)?, w.host(OP)?))).collect();
    Ok(cpu::from_units(host(base.as_ref())?, &pairs?, host(bias.as_ref())?)?.into())
}

/// `unitsᵀ · other`: the gradient of a weight from the two sides of its product, in f32.
///
/// # Shapes
/// `units` `[tokens, units]`, `other` `[tokens, d]`; the result is `[units, d]`.
///
/// # Errors
/// If shapes, types or devices do not fit, or a machine fails.
pub fn unit_gradient(units: &Tensor, other: &Tensor) -> Result<Tensor> {
    const OP: &str = "unit_gradient";
    Ok(match units {
        Tensor::Host(units) => cpu::unit_gradient(units, other.host(OP)?)?.into(),
        Tensor::Cuda(units) => cuda::unit_gradient(units, other.array(OP, units)?)?.into(),
    })
}

/// `sum += unitsᵀ · other`, in place: whoever shares the tensor `sum` sees it.
///
/// # Shapes
/// As [`unit_gradient`], `sum` as its result.
///
/// # Errors
/// If shapes, types or devices do not fit, or a machine fails.
pub fn add_unit_gradient(sum: &Tensor, units: &Tensor, other: &Tensor) -> Result<()> {
    const OP: &str = "add_unit_gradient";
    match sum {
        Tensor::Host(sum) => cpu::add_unit_gradient(sum, units.host(OP)?, other.host(OP)?),
        Tensor::Cuda(sum) => Ok(cuda::add_unit_gradient(sum, units.array(OP, sum)?, other.array(OP, sum)?)?),
    }
}

/// `sum = unitsᵀ · other`, in place of what it was.
///
/// # Shapes
/// As [`unit_gradient`], `sum` as its result.
///
/// # Errors
/// If shapes, types or devices do not fit, or a machine fails.
pub fn set_unit_gradient(sum: &Tensor, units: &Tensor, other: &Tensor) -> Result<()> {
    const OP: &str = "set_unit_gradient";
    match sum {
        Tensor::Host(sum) => cpu::set_unit_gradient(sum, units.host(OP)?, other.host(OP)?),
        Tensor::Cuda(sum) => Ok(cuda::set_unit_gradient(sum, units.array(OP, sum)?, other.array(OP, sum)?)?),
    }
}

/// Row `ids[t]` of the table for each token `t`.
///
/// # Shapes
/// `table` `[vocab, d]`; the result is `[tokens, d]`.
///
/// # Errors
/// If an id is no row of the table, or a machine fails.
pub fn gather_rows(table: &Tensor, ids: &[u32]) -> Result<Tensor> {
    Ok(match table {
        Tensor::Host(table) => cpu::gather_rows(table, ids)?.into(),
        Tensor::Cuda(table) => cuda::gather_rows(table, ids)?.into(),
    })
}

/// Gradient of the table, in f32: row `v` is the sum of `dy`'s rows `t` with `ids[t] = v`, in the order of the tokens.
///
/// # Shapes
/// `dy` `[tokens, d]`; the result is `[vocab, d]`.
///
/// # Errors
/// If an id is no row of the table, shapes do not fit, or a machine fails.
pub fn scatter_rows(ids: &[u32], dy: &Tensor, vocab: usize) -> Result<Tensor> {
    Ok(match dy {
        Tensor::Host(dy) => cpu::scatter_rows(ids, dy, vocab)?.into(),
        Tensor::Cuda(dy) => cuda::scatter_rows(ids, dy, vocab)?.into(),
    })
}
