//! Products with a weight stored unit by unit: `w` `[units, d_model]`, a unit being what pruning keeps or removes.
//!
//! q, k, v, gate and up lead from the residual stream into units ([`into_units`]); o and down, stored transposed, lead
//! back ([`from_units`]). Each is the other's input gradient, and a prefix of units is a contiguous view in both.
//! The weight gradient of either is [`unit_gradient`].
//!
//! Few rows, as in generation, are taken another way. A weight may be `bf16` or `f16`: it is widened to `f32` tile by tile, and everything is summed in `f32`.

use candle_core::Tensor;

use crate::few::{self, are_few};
use crate::host::{self, Host, Weight};
use crate::matrix::{Given, Onto, Out, View, multiply_wide};
use crate::stats::column_totals;
use crate::{KernelError, Result};

/// `x · wᵀ + bias`.
///
/// # Shapes
/// `x` `[tokens, d_model]`, `w` `[units, d_model]`, `bias` `[units]`; the result is `[tokens, units]`.
///
/// # Errors
/// If shapes, layout or device do not fit.
pub fn into_units(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    const OP: &str = "into_units";
    let (tokens, d) = host::rows(OP, "x", x)?;
    let units = check(OP, w, 1, d)?;
    let bias = bias.map(|bias| row(OP, bias, units)).transpose()?;
    let given = Given { bias: bias.as_deref(), base: None };
    let (x, w) = (Host::of(OP, x)?, Weight::of(OP, w)?);
    let mut out = vec![0.0; tokens * units];
    if are_few(tokens) {
        Out { values: &mut out, stride: units, onto: Onto::Given(given) }.begin([tokens, units]);
        few::into_units(&mut out, &x, &w, [tokens, units, d]);
        return host::tensor(OP, out, &[tokens, units]);
    }
    let x = View::new(&x, [tokens, d], d);
    w.tiles(units, d, |first, tile| {
        let (values, onto) = (&mut out[first.min(tokens * units)..], Onto::Given(given.from(0, first)));
        multiply_wide(Out { values, stride: units, onto }, x, tile.t());
    });
    host::tensor(OP, out, &[tokens, units])
}

/// `base + Σ h · w + bias`, over pairs `(h, w)`; no base is zero.
///
/// # Shapes
/// Each `h` `[tokens, units]` and its `w` `[units, d]`, `base` `[tokens, d]`, `bias` `[d]`; the result is `[tokens, d]`.
///
/// # Errors
/// If shapes, layout or device do not fit, or there is no pair.
pub fn from_units(base: Option<&Tensor>, terms: &[(&Tensor, &Tensor)], bias: Option<&Tensor>) -> Result<Tensor> {
    const OP: &str = "from_units";
    let [(h, w), ..] = terms else {
        return Err(KernelError::Shape { op: OP, what: "terms", got: vec![0], want: "at least one".to_owned() });
    };
    let (tokens, _) = host::rows(OP, "h", h)?;
    let d = w.dims().last().copied().unwrap_or(0);
    let bias = bias.map(|bias| row(OP, bias, d)).transpose()?;
    let base = match base {
        Some(base) if base.dims() != [tokens, d] => {
            return Err(host::shape(OP, "base", base, format!("[{tokens}, {d}]")));
        }
        base => base.map(|base| Host::of(OP, base)).transpose()?,
    };
    let mut out = vec![0.0; tokens * d];
    let mut onto = Onto::Given(Given { bias: bias.as_deref(), base: base.as_deref() });
    if are_few(tokens) || terms.iter().all(|(h, _)| h.elem_count() == 0) {
        Out { values: &mut out, stride: d, onto }.begin([tokens, d]);
        onto = Onto::There;
    }
    for (h, w) in terms {
        let (rows, units) = host::rows(OP, "h", h)?;
        if rows != tokens {
            return Err(host::shape(OP, "h", h, format!("[{tokens}, units]")));
        }
        if check(OP, w, 0, units)? != d {
            return Err(host::shape(OP, "w", w, format!("[units, {d}]")));
        }
        let (h, w) = (Host::of(OP, h)?, Weight::of(OP, w)?);
        if are_few(tokens) {
            few::from_units(&mut out, &h, &w, [tokens, units, d]);
            continue;
        }
        w.tiles(units, d, |first, tile| {
            let h = View::new(&h[first.min(h.len())..], [tokens, tile.rows()], units);
            multiply_wide(Out { values: &mut out, stride: d, onto }, h, tile);
            onto = Onto::There;
        });
    }
    host::tensor(OP, out, &[tokens, d])
}

/// `unitsᵀ · other`: the gradient of a weight from the two sides of its product.
///
/// # Shapes
/// `units` `[tokens, units]`, `other` `[tokens, d]`; the result is `[units, d]`.
///
/// # Errors
/// If shapes, layout or device do not fit.
pub fn unit_gradient(units: &Tensor, other: &Tensor) -> Result<Tensor> {
    const OP: &str = "unit_gradient";
    let shape = gradient_shape(OP, units, other)?;
    let mut out = vec![0.0; shape[0] * shape[1]];
    unit_gradient_into(OP, &mut out, false, units, other)?;
    host::tensor(OP, out, &shape)
}

/// `out = unitsᵀ · other`, in place: whoever shares the tensor `out` sees it, and what it held is not read.
///
/// # Shapes
/// As [`unit_gradient`], `out` as its result.
///
/// # Errors
/// If shapes, layout or device do not fit.
pub fn set_unit_gradient(out: &Tensor, units: &Tensor, other: &Tensor) -> Result<()> {
    const OP: &str = "set_unit_gradient";
    let shape = gradient_shape(OP, units, other)?;
    if out.dims() != shape {
        return Err(host::shape(OP, "out", out, format!("{shape:?}")));
    }
    host::update(OP, out, |out| unit_gradient_into(OP, out, false, units, other))
}

/// `sum += unitsᵀ · other`, in place: whoever shares the tensor `sum` sees it.
///
/// # Shapes
/// As [`unit_gradient`], `sum` as its result.
///
/// # Errors
/// If shapes, layout or device do not fit.
pub fn add_unit_gradient(sum: &Tensor, units: &Tensor, other: &Tensor) -> Result<()> {
    const OP: &str = "add_unit_gradient";
    let shape = gradient_shape(OP, units, other)?;
    if sum.dims() != shape {
        return Err(host::shape(OP, "sum", sum, format!("{shape:?}")));
    }
    host::update(OP, sum, |sum| unit_gradient_into(OP, sum, true, units, other))
}

fn gradient_shape(op: &'static str, units: &Tensor, other: &Tensor) -> Result<[usize; 2]> {
    let ((tokens, units), (rows, d)) = (host::rows(op, "units", units)?, host::rows(op, "other", other)?);
    if rows == tokens { Ok([units, d]) } else { Err(host::shape(op, "other", other, format!("[{tokens}, d]"))) }
}

fn unit_gradient_into(op: &'static str, out: &mut [f32], add: bool, units: &Tensor, other: &Tensor) -> Result<()> {
    let ((tokens, n), (_, d)) = (host::rows(op, "units", units)?, host::rows(op, "other", other)?);
    let (units, other) = (Host::of(op, units)?, Host::of(op, other)?);
    multiply_wide(
        Out { values: out, stride: d, onto: if add { Onto::There } else { Onto::Nothing } },
        View::new(&units, [tokens, n], n).t(),
        View::new(&other, [tokens, d], d),
    );
    Ok(())
}

/// Sum of each column: the gradient of a bias.
///
/// # Shapes
/// `dy` `[tokens, d]`; the result is `[d]`.
///
/// # Errors
/// If shapes, layout or device do not fit.
pub fn column_sums(dy: &Tensor) -> Result<Tensor> {
    const OP: &str = "column_sums";
    let (_, d) = host::rows(OP, "dy", dy)?;
    let sums = column_totals(&Host::of(OP, dy)?, d, |x| x);
    host::tensor(OP, sums.into_iter().map(|sum| sum as f32).collect(), &[d])
}

/// `w`'s other dimension, if that of `axis` is `size`.
fn check(op: &'static str, w: &Tensor, axis: usize, size: usize) -> Result<usize> {
    match w.dims() {
        dims @ [_, _] if dims[axis] == size => Ok(dims[1 - axis]),
        _ => {
            let want = if axis == 1 { format!("[units, {size}]") } else { format!("[{size}, d_model]") };
            Err(host::shape(op, "w", w, want))
        }
    }
}

/// The values of a bias, `[d]`.
fn row<'a>(op: &'static str, bias: &'a Tensor, d: usize) -> Result<Host<'a>> {
    if bias.dims() == [d] { Host::of(op, bias) } else { Err(host::shape(op, "bias", bias, format!("[{d}]"))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn t(values: &[f32], shape: (usize, usize)) -> Tensor {
        Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
    }

    #[test]
    fn match_hand_computed_products() {
        let w = t(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], (3, 2));
        let (x, bias) =
            (t(&[1.0, -1.0], (1, 2)), Tensor::from_slice(&[10.0_f32, 20.0, 30.0], 3, &Device::Cpu).unwrap());
        let h = into_units(&x, &w, Some(&bias)).unwrap();
        assert_eq!(h.to_vec2::<f32>().unwrap(), [[9.0, 19.0, 29.0]]);
        assert_eq!(from_units(None, &[(&h, &w)], None).unwrap().to_vec2::<f32>().unwrap(), [[211.0, 268.0]]);
        let gradient = unit_gradient(&h, &x).unwrap();
        assert_eq!(gradient.to_vec2::<f32>().unwrap(), [[9.0, -9.0], [19.0, -19.0], [29.0, -29.0]]);
        assert_eq!(column_sums(&w).unwrap().to_vec1::<f32>().unwrap(), [9.0, 12.0]);
    }

    #[test]
    fn a_prefix_of_units_is_a_view() {
        let w = t(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], (3, 2));
        let prefix = w.narrow(0, 0, 2).unwrap();
        let x = t(&[1.0, -1.0], (1, 2));
        assert_eq!(into_units(&x, &prefix, None).unwrap().to_vec2::<f32>().unwrap(), [[-1.0, -1.0]]);
        let refusal = from_units(None, &[(&x, &w)], None).unwrap_err().to_string();
        assert_eq!(refusal, "from_units: w has shape [3, 2], wanted [2, d_model]");
    }
}
