//! Products with a weight stored unit by unit, by cuBLAS: sums in f32. See the CPU's `linear.rs` for the layout.
//!
//! cuBLAS counts by columns, so a row-major `[r, c]` is to it a `[c, r]`: `C = A · B` is asked for as `Cᵀ = Bᵀ · Aᵀ`.

use super::{Array, Command, CudaError, Kind, Matrix, Product, Result, add_bias};

/// `x · wᵀ + bias`.
///
/// # Shapes
/// `x` `[tokens, d_model]`, `w` `[units, d_model]`, `bias` `[units]`; the result is `[tokens, units]`.
///
/// # Errors
/// If shapes or types do not fit, or the machine fails.
pub fn into_units(x: &Array, w: &Array, bias: Option<&Array>) -> Result<Array> {
    const OP: &str = "into_units";
    let y = multiply(OP, ("x", Operand::plain(x)), ("w", Operand::turned(w)), x.kind())?;
    with_bias(y, bias)
}

/// `base + Σ h · w + bias`, over pairs `(h, w)`; no base is zero.
///
/// # Shapes
/// Each `h` `[tokens, units]` and its `w` `[units, d_model]`, `base` `[tokens, d_model]`, `bias` `[d_model]`; the result is
/// `[tokens, d_model]`.
///
/// # Errors
/// If shapes or types do not fit, there is no pair, or the machine fails.
pub fn from_units(base: Option<&Array>, terms: &[(&Array, &Array)], bias: Option<&Array>) -> Result<Array> {
    const OP: &str = "from_units";
    let [(h, w), ..] = terms else {
        return Err(CudaError::Shape { op: OP, what: "terms", got: vec![0], want: "at least one".to_owned() });
    };
    let shape = [h.as_rows().0, w.as_rows().1];
    let y = match base {
        Some(base) => {
            base.expect(OP, "base", &shape, h.kind())?;
            base.copied()?
        }
        None => Array::uninitialised(h.machine(), &shape, h.kind())?,
    };
    for (index, (h, w)) in terms.iter().enumerate() {
        let to = Out { array: &y, add: base.is_some() || index > 0 };
        multiply_into(OP, ("h", Operand::plain(h)), ("w", Operand::plain(w)), to)?;
    }
    with_bias(y, bias)
}

/// `unitsᵀ · other`: the gradient of a weight from the two sides of its product.
///
/// # Shapes
/// `units` `[tokens, units]`, `other` `[tokens, d]`; the result is `[units, d]` in f32.
///
/// # Errors
/// If shapes or types do not fit, or the machine fails.
pub fn unit_gradient(units: &Array, other: &Array) -> Result<Array> {
    const OP: &str = "unit_gradient";
    multiply(OP, ("units", Operand::turned(units)), ("other", Operand::plain(other)), Kind::F32)
}

/// `sum += unitsᵀ · other`, in place.
///
/// # Shapes
/// As [`unit_gradient`], `sum` as its result.
///
/// # Errors
/// If shapes or types do not fit, or the machine fails.
pub fn add_unit_gradient(sum: &Array, units: &Array, other: &Array) -> Result<()> {
    const OP: &str = "add_unit_gradient";
    sum.expect(OP, "sum", sum.shape(), Kind::F32)?;
    let to = Out { array: sum, add: true };
    multiply_into(OP, ("units", Operand::turned(units)), ("other", Operand::plain(other)), to)
}

/// `sum = unitsᵀ · other`, in place of what it was.
///
/// # Shapes
/// As [`unit_gradient`], `sum` as its result.
///
/// # Errors
/// If shapes or types do not fit, or the machine fails.
pub fn set_unit_gradient(sum: &Array, units: &Array, other: &Array) -> Result<()> {
    const OP: &str = "set_unit_gradient";
    sum.expect(OP, "sum", sum.shape(), Kind::F32)?;
    let to = Out { array: sum, add: false };
    multiply_into(OP, ("units", Operand::turned(units)), ("other", Operand::plain(other)), to)
}

fn with_bias(mut y: Array, bias: Option<&Array>) -> Result<Array> {
    bias.map_or(Ok(()), |bias| add_bias(&mut y, bias))?;
    Ok(y)
}

/// A row-major matrix as an operand.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a> {
    pub(crate) array: &'a Array,
    pub(crate) transposed: bool,
    /// Values from one row to the next.
    pub(crate) leading: usize,
}

impl<'a> Operand<'a> {
    pub(crate) fn plain(array: &'a Array) -> Self {
        Self { array, transposed: false, leading: array.pitch() }
    }

    pub(crate) fn turned(array: &'a Array) -> Self {
        Self { transposed: true, ..Self::plain(array) }
    }

    /// Rows and columns after the turn.
    fn shape(&self) -> (usize, usize) {
        let (rows, columns) = self.array.as_rows();
        if self.transposed { (columns, rows) } else { (rows, columns) }
    }
}

/// Where a product goes: over what is there, or added to it.
#[derive(Clone, Copy)]
pub(crate) struct Out<'a> {
    pub(crate) array: &'a Array,
    pub(crate) add: bool,
}

/// `a · b` in rows, as `kind`.
pub(crate) fn multiply(
    op: &'static str,
    a: (&'static str, Operand<'_>),
    b: (&'static str, Operand<'_>),
    kind: Kind,
) -> Result<Array> {
    let shape = [a.1.shape().0, b.1.shape().1];
    let array = Array::uninitialised(a.1.array.machine(), &shape, kind)?;
    multiply_into(op, a, b, Out { array: &array, add: false })?;
    Ok(array)
}

/// `out = a · b` or `out += a · b` in rows.
pub(crate) fn multiply_into(
    op: &'static str,
    (a_name, a): (&'static str, Operand<'_>),
    (b_name, b): (&'static str, Operand<'_>),
    out: Out<'_>,
) -> Result<()> {
    let ((rows, inner), (also, columns), array) = (a.shape(), b.shape(), out.array);
    if inner != also || b.array.kind() != a.array.kind() {
        let want = format!("{inner} along the side it shares with {a_name}, in {}", a.array.kind());
        return Err(CudaError::Shape { op, what: b_name, got: b.array.shape().to_vec(), want });
    }
    array.expect(op, "the result", &[rows, columns], array.kind())?;
    if inner == 0 || array.count() == 0 {
        return if out.add { Ok(()) } else { array.clear() }; // sums of nothing
    }
    let side = |operand: Operand<'_>, name| -> Result<Matrix> {
        let Operand { array, transposed, leading } = operand;
        Ok(Matrix { address: array.address(), storage: array.storage(op, name)?, leading, transposed })
    };
    let product = Product {
        a: side(b, b_name)?,
        b: side(a, a_name)?,
        out: side(Operand::plain(array), "the result")?,
        m: columns,
        n: rows,
        k: inner,
        add: out.add,
    };
    array.machine().run(&Command::Product(product))
}
