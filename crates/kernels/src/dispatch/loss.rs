//! Cross-entropy of the next token, fused with the output head.

use crate::cuda::Array;
use crate::{Pending, Result, Tensor, cpu, cuda};

/// Receives the head's input and the gradient of its logits, piece by piece: `[tokens, d_model]`, `[tokens, vocab]`. On a
/// machine only products take the latter.
pub type HeadGradients<'a> = dyn FnMut(&Tensor, &Tensor) -> Result<()> + 'a;

/// Loss of each token, in nats.
///
/// # Shapes
/// `hidden` `[tokens, d_model]` after the final norm, `head` `[vocab, d_model]`, one target a token.
///
/// # Errors
/// If shapes, targets, types or devices do not fit, or a machine fails.
pub fn token_losses(hidden: &Tensor, head: &Tensor, targets: &[u32]) -> Result<Pending<Vec<f32>>> {
    const OP: &str = "token_losses";
    Ok(match hidden {
        Tensor::Host(hidden) => Pending::known(cpu::token_losses(hidden, head.host(OP)?, targets)?),
        Tensor::Cuda(hidden) => {
            let losses = cuda::token_losses(hidden, head.array(OP, hidden)?, targets)?;
            Pending::coming(move || losses.to_host())
        }
    })
}

/// Loss of each token, and the gradient of `Σ weight · loss` with respect to `hidden`.
///
/// # Shapes
/// As [`token_losses`]; one weight a token; the gradient is as `hidden`.
///
/// # Errors
/// If shapes, targets, types or devices do not fit, a machine fails, or what `sink` returns.
pub fn cross_entropy(
    hidden: &Tensor,
    head: &Tensor,
    targets: &[u32],
    weights: &[f32],
    sink: &mut HeadGradients<'_>,
) -> Result<(Pending<Vec<f32>>, Tensor)> {
    const OP: &str = "cross_entropy";
    Ok(match hidden {
        Tensor::Host(hidden) => {
            let mut sink = |input: &candle_core::Tensor, slopes: &candle_core::Tensor| {
                sink(&input.clone().into(), &slopes.clone().into())
            };
            let (losses, dy) = cpu::cross_entropy(hidden, head.host(OP)?, targets, weights, Some(&mut sink))?;
            (Pending::known(losses), dy.into())
        }
        Tensor::Cuda(hidden) => {
            let head = head.array(OP, hidden)?;
            let mut sink = |input: &Array, slopes: &Array| sink(&input.clone().into(), &slopes.clone().into());
            let (losses, dy) = cuda::cross_entropy(hidden, head, targets, weights, Some(&mut sink))?;
            (Pending::coming(move || losses.to_host()), dy.into())
        }
    })
}
