//! Sums of arrays: the residual stream and biases.

use super::launch::Kernel;
use super::{Array, Result};

/// `a + b`.
///
/// # Shapes
/// All as `a`.
///
/// # Errors
/// If shapes or types do not fit, or the machine fails.
pub fn add(a: &Array, b: &Array) -> Result<Array> {
    const OP: &str = "add";
    b.expect(OP, "b", a.shape(), a.kind())?;
    let out = a.like()?;
    let kernel = Kernel::new(OP, "add.cu", OP, a.storage(OP, "a")?).array(&out).array(a).array(b).count(a.count());
    kernel.covering(a.count()).run(a.machine())?;
    Ok(out)
}

/// `sum += x`, in place.
///
/// # Shapes
/// `x` as `sum`.
///
/// # Errors
/// If shapes or types do not fit, or the machine fails.
pub fn accumulate(sum: &Array, x: &Array) -> Result<()> {
    const OP: &str = "accumulate";
    x.expect(OP, "x", sum.shape(), sum.kind())?;
    let kernel = Kernel::new(OP, "add.cu", "add", sum.storage(OP, "sum")?).array(sum).array(sum).array(x);
    kernel.count(sum.count()).covering(sum.count()).run(sum.machine())
}

/// Adds `bias` to every row of `y`, in place.
///
/// # Shapes
/// `y` `[…, d]`, `bias` `[d]`.
///
/// # Errors
/// If shapes or types do not fit, or the machine fails.
pub fn add_bias(y: &mut Array, bias: &Array) -> Result<()> {
    const OP: &str = "add_bias";
    let (_, d) = y.as_rows();
    bias.expect(OP, "bias", &[d], y.kind())?;
    let kernel = Kernel::new(OP, "add.cu", OP, y.storage(OP, "y")?).array(y).array(bias).count(y.count());
    kernel.size("d", d).covering(y.count()).run(y.machine())
}
