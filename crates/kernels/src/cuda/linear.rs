//! Products with a weight stored unit by unit, by cuBLAS: sums in f32. See the CPU's `linear.rs` for the layout.
//!
//! cuBLAS counts by columns, so a row-major `[r, c]` is to it a `[c, r]`: `C = A · B` is asked for as `Cᵀ = Bᵀ · Aᵀ`.

use super::{Array, Command, CudaError, Kind, Matrix, Product, Result, Storage, add_bias};

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

/// `h · w + bias`.
///
/// # Shapes
/// `h` `[tokens, units]`, `w` `[units, d_model]`, `bias` `[d_model]`; the result is `[tokens, d_model]`.
///
/// # Errors
/// If shapes or types do not fit, or the machine fails.
pub fn from_units(h: &Array, w: &Array, bias: Option<&Array>) -> Result<Array> {
    const OP: &str = "from_units";
    let y = multiply(OP, ("h", Operand::plain(h)), ("w", Operand::plain(w)), h.kind())?;
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
        Self { array, transposed: false, leading: array.as_rows().1 }
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

/// `a · b` in rows, as `kind`.
pub(crate) fn multiply(
    op: &'static str,
    (a_name, a): (&'static str, Operand<'_>),
    (b_name, b): (&'static str, Operand<'_>),
    kind: Kind,
) -> Result<Array> {
    let ((rows, inner), (also, columns)) = (a.shape(), b.shape());
    if inner != also || b.array.kind() != a.array.kind() {
        let want = format!("{inner} along the side it shares with {a_name}, in {}", a.array.kind());
        return Err(CudaError::Shape { op, what: b_name, got: b.array.shape().to_vec(), want });
    }
    let machine = a.array.machine();
    if inner == 0 {
        let storage = if kind == Kind::F32 { Storage::F32 } else { a.array.storage(op, a_name)? };
        return Array::of(machine, &vec![0.0; rows * columns], &[rows, columns], storage); // sums of nothing
    }
    let out = Array::uninitialised(machine, &[rows, columns], kind)?;
    if out.count() == 0 {
        return Ok(out);
    }
    let storage = out.storage(op, "out")?;
    let side = |operand: Operand<'_>, name| -> Result<Matrix> {
        let Operand { array, transposed, leading } = operand;
        Ok(Matrix { address: array.address(), storage: array.storage(op, name)?, leading, transposed })
    };
    let product = Product {
        a: side(b, b_name)?,
        b: side(a, a_name)?,
        out: Matrix { address: out.address(), storage, leading: columns, transposed: false },
        m: columns,
        n: rows,
        k: inner,
        add: false,
    };
    out.machine().run(&Command::Product(product))?;
    Ok(out)
}
