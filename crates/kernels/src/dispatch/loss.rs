//! Cross-entropy of the next token, fused with the output head.

use crate::cuda::Array;
use crate::{KernelError, Pending, Result, Tensor, cpu, cuda};

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

/// The gradient with respect to `hidden` of any loss of the logits. `slopes` is given the number of a first token and the
/// logits of some from it on, `[tokens, vocab]`, and turns them into the gradient of the loss with respect to them; on the
/// host, whatever computed them.
///
/// # Shapes
/// `hidden` `[tokens, d_model]` after the final norm, `head` `[vocab, d_model]`; the gradient is as `hidden`.
///
/// # Errors
/// If shapes, types or devices do not fit, a machine fails, or what `sink` or `slopes` returns.
pub fn through_head(
    hidden: &Tensor,
    head: &Tensor,
    sink: Option<&mut HeadGradients<'_>>,
    slopes: impl FnMut(usize, &mut [f32]) -> Result<()>,
) -> Result<Tensor> {
    const OP: &str = "through_head";
    Ok(match hidden {
        Tensor::Host(hidden) => {
            let Some(sink) = sink else { return Ok(cpu::through_head(hidden, head.host(OP)?, None, slopes)?.into()) };
            let mut sink = |input: &candle_core::Tensor, slopes: &candle_core::Tensor| {
                sink(&input.clone().into(), &slopes.clone().into())
            };
            cpu::through_head(hidden, head.host(OP)?, Some(&mut sink), slopes)?.into()
        }
        Tensor::Cuda(hidden) => {
            let head = head.array(OP, hidden)?;
            let Some(sink) = sink else { return Ok(cuda::through_head(hidden, head, None, slopes)?.into()) };
            let mut sink = |input: &Array, slopes: &Array| sink(&input.clone().into(), &slopes.clone().into());
            cuda::through_head::<KernelError>(hidden, head, Some(&mut sink), slopes)?.into()
        }
    })
}

/// Cross-entropy and the divergence from a teacher's predictions of each token, each before its weight, `[tokens, 2]`; and the
/// gradient of their weighted sum with respect to `hidden`. On a machine alone: [`through_head`] is for all.
///
/// # Shapes
/// `hidden` `[tokens, d_model]` after the final norm, `head` `[vocab, d_model]`, `teacher` the same two of another model; a
/// target of none is not learnt; the gradient is as `hidden`.
///
/// # Errors
/// If shapes, targets, types or devices do not fit, the machine fails, or what `sink` returns.
pub fn predictions(
    [hidden, head]: [&Tensor; 2],
    teacher: Option<[&Tensor; 2]>,
    targets: &[Option<u32>],
    aims: cuda::Predictions,
    sink: Option<&mut HeadGradients<'_>>,
) -> Result<(Pending<Vec<f32>>, Tensor)> {
    const OP: &str = "predictions";
    let Tensor::Cuda(at) = hidden else { return Err(KernelError::Places { op: OP }) };
    let of = |[hidden, head]: [&'_ Tensor; 2]| -> Result<[Array; 2]> {
        Ok([hidden.array(OP, at)?.clone(), head.array(OP, at)?.clone()])
    };
    let (own, teacher) = (of([hidden, head])?, teacher.map(of).transpose()?);
    let (own, teacher) = (own.each_ref(), teacher.as_ref().map(|pair| pair.each_ref()));
    let (losses, dy) = match sink {
        None => cuda::predictions::<KernelError>(own, teacher, targets, aims, None)?,
        Some(sink) => {
            let mut sink = |input: &Array, slopes: &Array| sink(&input.clone().into(), &slopes.clone().into());
            cuda::predictions(own, teacher, targets, aims, Some(&mut sink))?
        }
    };
    Ok((Pending::coming(move || losses.to_host()), dy.into()))
}

/// Logits of each piece of the tokens, `[tokens, vocab]`, as `each` is given the first token's number and them, on the host.
///
/// # Shapes
/// As [`through_head`].
///
/// # Errors
/// If shapes, types or devices do not fit, a machine fails, or what `each` returns.
pub fn logits_in_pieces(
    hidden: &Tensor,
    head: &Tensor,
    each: impl FnMut(usize, &mut [f32]) -> Result<()>,
) -> Result<()> {
    const OP: &str = "logits_in_pieces";
    match hidden {
        Tensor::Host(hidden) => cpu::logits_in_pieces(hidden, head.host(OP)?, each),
        Tensor::Cuda(hidden) => cuda::logits_in_pieces(hidden, head.array(OP, hidden)?, each),
    }
}
