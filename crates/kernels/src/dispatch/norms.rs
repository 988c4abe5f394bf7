//! RMSNorm and LayerNorm.

use crate::cuda::Norm;
use crate::{Result, Tensor, cpu, cuda};

/// RMSNorm, `w · x / sqrt(mean(x²) + eps)`.
///
/// # Shapes
/// `x` `[…, d]`, `weight` `[d]`; the result is as `x`.
///
/// # Errors
/// If shapes, types or devices do not fit, or a machine fails.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    const OP: &str = "rms_norm";
    Ok(match x {
        Tensor::Host(x) => cpu::rms_norm(x, weight.host(OP)?, eps)?.into(),
        Tensor::Cuda(x) => cuda::rms_norm(x, weight.array(OP, x)?, eps)?.into(),
    })
}

/// `base + dx`, `dx` the gradient of RMSNorm's input; no base is zero.
///
/// # Shapes
/// `x`, `dy` and `base` `[…, d]`, `weight` `[d]`; the result is as `x`.
///
/// # Errors
/// If shapes, types or devices do not fit, or a machine fails.
pub fn rms_norm_backward(base: Option<&Tensor>, x: &Tensor, weight: &Tensor, eps: f64, dy: &Tensor) -> Result<Tensor> {
    const OP: &str = "rms_norm_backward";
    Ok(match x {
        Tensor::Host(x) => {
            let base = base.map(|base| base.host(OP)).transpose()?;
            cpu::rms_norm_backward(base, x, weight.host(OP)?, eps, dy.host(OP)?)?.into()
        }
        Tensor::Cuda(x) => {
            let base = base.map(|base| base.array(OP, x)).transpose()?;
            cuda::rms_norm_backward(base, x, weight.array(OP, x)?, eps, dy.array(OP, x)?)?.into()
        }
    })
}

/// Gradient of RMSNorm's weight, in f32.
///
/// # Shapes
/// `x` and `dy` `[…, d]`; the result is `[d]`.
///
/// # Errors
/// If shapes, types or devices do not fit, or a machine fails.
pub fn rms_norm_weight_gradient(x: &Tensor, eps: f64, dy: &Tensor) -> Result<Tensor> {
    const OP: &str = "rms_norm_weight_gradient";
    Ok(match x {
        Tensor::Host(x) => cpu::rms_norm_weight_gradient(x, eps, dy.host(OP)?)?.into(),
        Tensor::Cuda(x) => cuda::norm_weight_gradient(Norm::Rms, x, eps, dy.array(OP, x)?)?.into(),
    })
}

/// LayerNorm, `w · (x − mean(x)) / sqrt(var(x) + eps) + b`.
///
/// # Shapes
/// `x` `[…, d]`, `weight` and `bias` `[d]`; the result is as `x`.
///
/// # Errors
/// If shapes, types or devices do not fit, or a machine fails.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    const OP: &str = "layer_norm";
    Ok(match x {
        Tensor::Host(x) => cpu::layer_norm(x, weight.host(OP)?, bias.host(OP)?, eps)?.into(),
        Tensor::Cuda(x) => cuda::layer_norm(x, weight.array(OP, x)?, bias.array(OP, x)?, eps)?.into(),
    })
}

/// Gradient of LayerNorm's input.
///
/// # Shapes
/// `x` and `dy` `[…, d]`, `weight` `[d]`; the result is as `x`.
///
/// # Errors
/// If shapes, types or devices do not fit, or a machine fails.
pub fn layer_norm_backward(x: &Tensor, weight: &Tensor, eps: f64, dy: &Tensor) -> Result<Tensor> {
    const OP: &str = "layer_norm_backward";
    Ok(match x {
        Tensor::Host(x) => cpu::layer_norm_backward(x, weight.host(OP)?, eps, dy.host(OP)?)?.into(),
        Tensor::Cuda(x) => cuda::layer_norm_backward(x, weight.array(OP, x)?, eps, dy.array(OP, x)?)?.into(),
    })
}

/// Gradients of LayerNorm's weight and bias, in f32.
///
/// # Shapes
/// `x` and `dy` `[…, d]`; the results are `[d]`.
///
/// # Errors
/// If shapes, types or devices do not fit, or a machine fails.
pub fn layer_norm_parameter_gradients(x: &Tensor, eps: f64, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    const OP: &str = "layer_norm_parameter_gradients";
    Ok(match x {
        Tensor::Host(x) => {
            let (weight, bias) = cpu::layer_norm_parameter_gradients(x, eps, dy.host(OP)?)?;
            (weight.into(), bias.into())
        }
        Tensor::Cuda(x) => {
            let dy = dy.array(OP, x)?;
            (cuda::norm_weight_gradient(Norm::Layer, x, eps, dy)?.into(), cuda::column_sums(dy)?.into())
        }
    })
}
