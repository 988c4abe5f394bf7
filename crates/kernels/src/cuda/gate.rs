//! Gates of the MLP; formulas in `kernels/gate.cu`.

use super::launch::Kernel;
use super::{Array, Result};

const FILE: &str = "gate.cu";

/// What the gate is bent by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x σ(x)`: SwiGLU.
    Silu,
    /// `x Φ(x)`, exact.
    Gelu,
    /// Its approximation by tanh.
    GeluTanh,
}

/// `act(gate) · up`, or `act(gate)` where there is no `up`.
///
/// # Shapes
/// All as `gate`.
///
/// # Errors
/// If shapes or types do not fit, or the machine fails.
pub fn gate(activation: Activation, gate: &Array, up: Option<&Array>) -> Result<Array> {
    const OP: &str = "gate";
    up.map_or(Ok(()), |up| up.expect(OP, "up", gate.shape(), gate.kind()))?;
    let out = gate.like()?;
    let kernel = Kernel::new(OP, FILE, OP, gate.storage(OP, "gate")?).array(&out).array(gate).maybe(up);
    kernel.count(gate.count()).flag(activation as i32).covering(gate.count()).run(gate.machine())?;
    Ok(out)
}

/// Gradients of gate and up.
///
/// # Shapes
/// All as `gate`.
///
/// # Errors
/// If shapes or types do not fit, or the machine fails.
pub fn gate_backward(activation: Activation, gate: &Array, up: &Array, dh: &Array) -> Result<(Array, Array)> {
    const OP: &str = "gate_backward";
    up.expect(OP, "up", gate.shape(), gate.kind())?;
    let dup = up.like()?;
    Ok((backward(OP, activation, gate, Some((up, &dup)), dh)?, dup))
}

/// Gradient of the input of an activation without `up`.
///
/// # Shapes
/// All as `x`.
///
/// # Errors
/// If shapes or types do not fit, or the machine fails.
pub fn activation_backward(activation: Activation, x: &Array, dy: &Array) -> Result<Array> {
    backward("activation_backward", activation, x, None, dy)
}

fn backward(
    op: &'static str,
    activation: Activation,
    gate: &Array,
    up: Option<(&Array, &Array)>,
    dh: &Array,
) -> Result<Array> {
    dh.expect(op, "dh", gate.shape(), gate.kind())?;
    let (dgate, (up, dup)) = (gate.like()?, up.unzip());
    let kernel = Kernel::new(op, FILE, "gate_backward", gate.storage(op, "gate")?).array(&dgate).maybe(dup);
    let kernel = kernel.array(gate).maybe(up).array(dh).count(gate.count()).flag(activation as i32);
    kernel.covering(gate.count()).run(gate.machine())?;
    Ok(dgate)
}
