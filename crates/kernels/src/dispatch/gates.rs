//! Gates of the MLP and activations.

use crate::cuda::Activation;
use crate::{Gelu, Result, Tensor, cpu, cuda};

/// SwiGLU's gate, `silu(gate) · up`.
///
/// # Shapes
/// All as `gate`.
///
/// # Errors
/// If shapes, types or devices do not fit, or a machine fails.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    const OP: &str = "swiglu";
    Ok(match gate {
        Tensor::Host(gate) => cpu::swiglu(gate, up.host(OP)?)?.into(),
        Tensor::Cuda(gate) => cuda::gate(Activation::Silu, gate, Some(up.array(OP, gate)?))?.into(),
    })
}

/// Gradients of SwiGLU's gate and up.
///
/// # Shapes
/// All as `gate`.
///
/// # Errors
/// If shapes, types or devices do not fit, or a machine fails.
pub fn swiglu_backward(gate: &Tensor, up: &Tensor, dh: &Tensor) -> Result<(Tensor, Tensor)> {
    const OP: &str = "swiglu_backward";
    match gate {
        Tensor::Host(gate) => {
            let (dgate, dup) = cpu::swiglu_backward(gate, up.host(OP)?, dh.host(OP)?)?;
            Ok((dgate.into(), dup.into()))
        }
        Tensor::Cuda(gate) => {
            let (dgate, dup) = cuda::gate_backward(Activation::Silu, gate, up.array(OP, gate)?, dh.array(OP, gate)?)?;
            Ok((dgate.into(), dup.into()))
        }
    }
}

/// GELU.
///
/// # Shapes
/// The result is as `x`.
///
/// # Errors
/// If the type does not fit, or a machine fails.
pub fn gelu(x: &Tensor, form: Gelu) -> Result<Tensor> {
    Ok(match x {
        Tensor::Host(x) => cpu::gelu(x, form)?.into(),
        Tensor::Cuda(x) => cuda::gate(form.into(), x, None)?.into(),
    })
}

/// Gradient of GELU's input.
///
/// # Shapes
/// All as `x`.
///
/// # Errors
/// If shapes, types or devices do not fit, or a machine fails.
pub fn gelu_backward(x: &Tensor, dy: &Tensor, form: Gelu) -> Result<Tensor> {
    const OP: &str = "gelu_backward";
    Ok(match x {
        Tensor::Host(x) => cpu::gelu_backward(x, dy.host(OP)?, form)?.into(),
        Tensor::Cuda(x) => cuda::activation_backward(form.into(), x, dy.array(OP, x)?)?.into(),
    })
}

/// The gate `gelu(gate) · up`.
///
/// # Shapes
/// All as `gate`.
///
/// # Errors
/// If shapes, types or devices do not fit, or a machine fails.
pub fn geglu(gate: &Tensor, up: &Tensor, form: Gelu) -> Result<Tensor> {
    const OP: &str = "geglu";
    Ok(match gate {
        Tensor::Host(gate) => cpu::geglu(gate, up.host(OP)?, form)?.into(),
        Tensor::Cuda(gate) => cuda::gate(form.into(), gate, Some(up.array(OP, gate)?))?.into(),
    })
}

/// Gradients of that gate's two inputs.
///
/// # Shapes
/// All as `gate`.
///
/// # Errors
/// If shapes, types or devices do not fit, or a machine fails.
pub fn geglu_backward(gate: &Tensor, up: &Tensor, dh: &Tensor, form: Gelu) -> Result<(Tensor, Tensor)> {
    const OP: &str = "geglu_backward";
    match gate {
        Tensor::Host(gate) => {
            let (dgate, dup) = cpu::geglu_backward(gate, up.host(OP)?, dh.host(OP)?, form)?;
            Ok((dgate.into(), dup.into()))
        }
        Tensor::Cuda(gate) => {
            let (dgate, dup) = cuda::gate_backward(form.into(), gate, up.array(OP, gate)?, dh.array(OP, gate)?)?;
            Ok((dgate.into(), dup.into()))
        }
    }
}

impl From<Gelu> for Activation {
    fn from(form: Gelu) -> Self {
        match form {
            Gelu::Exact => Self::Gelu,
            Gelu::Tanh => Self::GeluTanh,
        }
    }
}
