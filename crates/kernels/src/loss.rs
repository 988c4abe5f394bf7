//! Cross-entropy of the next token, fused with the output head: logits exist for a piece of the tokens only.
//!
//! `l_t = logsumexp(h_t Wᵀ) − (h_t Wᵀ)[target_t]`; `dlogits = (softmax − onehot) · weight_t`.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::exp::exp;
use crate::host::{self, Host, Weight};
use crate::matrix::{Onto, Out, View, multiply_wide};
use crate::simd::{most, sum, wide};
use crate::{KernelError, Result};

/// Logits computed at once, in values: 32 MiB of f32. Fixed by shape alone, so results depend on nothing else.
pub const LOGITS: usize = 8 << 20;

/// Receives the head's input and the gradient of its logits, piece by piece: `[tokens, d_model]`, `[tokens, vocab]`.
pub type HeadGradients<'a> = dyn FnMut(&Tensor, &Tensor) -> Result<()> + 'a;

/// Loss of each token, in nats.
///
/// # Shapes
/// `hidden` `[tokens, d_model]` after the final norm, `head` `[vocab, d_model]`, one target a token.
///
/// # Errors
/// If shapes, targets, layout or device do not fit.
pub fn token_losses(hidden: &Tensor, head: &Tensor, targets: &[u32]) -> Result<Vec<f32>> {
    let mut losses = Vec::with_capacity(targets.len());
    pieces("token_losses", hidden, head, targets, |mut piece| {
        let rows = piece.logits.par_chunks_mut(piece.vocab).zip(piece.targets);
        losses.par_extend(rows.map(|(row, target)| exponentials(row, *target).0));
        Ok(())
    })?;
    Ok(losses)
}

/// Loss of each token, and the gradient of `Σ weight · loss` with respect to `hidden`.
///
/// # Shapes
/// As [`token_losses`]; one weight a token; the gradient is as `hidden`.
///
/// # Errors
/// If shapes, targets, layout or device do not fit, or what `sink` returns.
pub fn cross_entropy(
    hidden: &Tensor,
    head: &Tensor,
    targets: &[u32],
    weights: &[f32],
    mut sink: Option<&mut HeadGradients<'_>>,
) -> Result<(Vec<f32>, Tensor)> {
    const OP: &str = "cross_entropy";
    if weights.len() != targets.len() {
        let want = format!("[{}]", targets.len());
        return Err(KernelError::Shape { op: OP, what: "weights", got: vec![weights.len()], want });
    }
    let mut losses = Vec::with_capacity(targets.len());
    let gradient = gradient_of_head(OP, (hidden, head, targets), &mut sink, |start, vocab, targets, logits| {
        let rows = logits.par_chunks_mut(vocab).zip(targets).zip(&weights[start..]);
        losses.par_extend(rows.map(|((row, target), weight)| {
            let (loss, sum) = exponentials(row, *target);
            let scale = weight / sum;
            wide!(|| row.iter_mut().for_each(|x| *x *= scale));
            row[*target as usize] -= weight;
            loss
        }));
        Ok(())
    })?;
    Ok((losses, gradient))
}

/// The gradient with respect to `hidden` of any loss of the logits. `slopes` is given the number of a first token and the
/// logits of some from it on, `[tokens, vocab]`, and turns them into the gradient of the loss with respect to them.
///
/// # Shapes
/// `hidden` `[tokens, d_model]` after the final norm, `head` `[vocab, d_model]`; the gradient is as `hidden`.
///
/// # Errors
/// If shapes, layout or device do not fit, or what `sink` or `slopes` returns.
pub fn through_head(
    hidden: &Tensor,
    head: &Tensor,
    mut sink: Option<&mut HeadGradients<'_>>,
    mut slopes: impl FnMut(usize, &mut [f32]) -> Result<()>,
) -> Result<Tensor> {
    const OP: &str = "through_head";
    let (tokens, _) = host::rows(OP, "hidden", hidden)?;
    let no_targets = vec![0; tokens];
    gradient_of_head(OP, (hidden, head, &no_targets), &mut sink, |start, _, _, logits| slopes(start, logits))
}

/// Logits of each piece of the tokens, `[tokens, vocab]`, as `each` is given the first token's number and them.
///
/// # Shapes
/// As [`through_head`].
///
/// # Errors
/// If shapes, layout or device do not fit, or what `each` returns.
pub fn logits_in_pieces(
    hidden: &Tensor,
    head: &Tensor,
    mut each: impl FnMut(usize, &mut [f32]) -> Result<()>,
) -> Result<()> {
    const OP: &str = "logits_in_pieces";
    let (tokens, _) = host::rows(OP, "hidden", hidden)?;
    pieces(OP, hidden, head, &vec![0; tokens], |mut piece| each(piece.start, &mut piece.logits))
}

/// `slopes` is given a first token's number, the vocabulary's size, targets, and logits to be turned into slopes.
fn gradient_of_head(
    op: &'static str,
    (hidden, head, targets): (&Tensor, &Tensor, &[u32]),
    sink: &mut Option<&mut HeadGradients<'_>>,
    mut slopes: impl FnMut(usize, usize, &[u32], &mut [f32]) -> Result<()>,
) -> Result<Tensor> {
    let (_, d) = host::rows(op, "hidden", hidden)?;
    let mut gradient = vec![0.0; hidden.elem_count()];
    pieces(op, hidden, head, targets, |piece| {
        let Piece { start, vocab, targets, mut logits, tiles } = piece;
        slopes(start, vocab, targets, &mut logits)?;
        let mut onto = Onto::Nothing;
        tiles.tiles(vocab, d, |first, tile| {
            let slopes = View::new(&logits[first..], [targets.len(), tile.rows()], vocab);
            multiply_wide(Out { values: &mut gradient[start * d..], stride: d, onto }, slopes, tile);
            onto = Onto::There;
        });
        let Some(sink) = sink else { return Ok(()) };
        let input = hidden.narrow(0, start, targets.len()).map_err(|cause| KernelError::Tensor { op, cause })?;
        sink(&input, &host::tensor(op, logits, &[targets.len(), vocab])?)
    })?;
    host::tensor(op, gradient, hidden.dims())
}

/// Tokens `start..` with their logits.
struct Piece<'a> {
    start: usize,
    vocab: usize,
    targets: &'a [u32],
    logits: Vec<f32>, // [targets, vocab]
    tiles: &'a Weight<'a>,
}

/// Calls `each` for pieces of tokens in order.
fn pieces(
    op: &'static str,
    hidden: &Tensor,
    head: &Tensor,
    targets: &[u32],
    mut each: impl FnMut(Piece<'_>) -> Result<()>,
) -> Result<()> {
    let (tokens, d) = host::rows(op, "hidden", hidden)?;
    let vocab = head.dims().first().copied().unwrap_or(0);
    if head.dims() != [vocab, d] || vocab == 0 {
        return Err(host::shape(op, "head", head, format!("[vocab, {d}]")));
    }
    if targets.len() != tokens {
        return Err(KernelError::Shape { op, what: "targets", got: vec![targets.len()], want: format!("[{tokens}]") });
    }
    if let Some(target) = targets.iter().find(|target| **target as usize >= vocab) {
        let want = format!("below the vocabulary's size, {vocab}");
        return Err(KernelError::Shape { op, what: "target", got: vec![*target as usize], want });
    }
    let (input, tiles) = (Host::of(op, hidden)?, Weight::of(op, head)?);
    let step = (LOGITS / vocab).max(1);
    for start in (0..tokens).step_by(step) {
        let count = step.min(tokens - start);
        let x = View::new(&input[start * d..], [count, d], d);
        let mut logits = vec![0.0; count * vocab];
        tiles.tiles(vocab, d, |first, tile| {
            multiply_wide(Out { values: &mut logits[first..], stride: vocab, onto: Onto::Nothing }, x, tile.t());
        });
        each(Piece { start, vocab, targets: &targets[start..start + count], logits, tiles: &tiles })?;
    }
    Ok(())
}

/// Turns logits into `e^(x − max)`; returns the loss of `target` and their sum.
fn exponentials(row: &mut [f32], target: u32) -> (f32, f32) {
    let wanted = row[target as usize];
    wide!(|| {
        let most = most(row);
        row.iter_mut().for_each(|x| *x = exp(*x - most));
        let sum = sum([row], |[x]| x);
        (most + sum.ln() - wanted, sum)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn t(values: &[f32], shape: (usize, usize)) -> Tensor {
        Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
    }

    #[test]
    fn matches_a_hand_computed_case() {
        let (hidden, head) = (t(&[1.0, 0.0], (1, 2)), t(&[0.0, 5.0, 3.0_f32.ln(), 7.0], (2, 2)));
        let losses = token_losses(&hidden, &head, &[1]).unwrap(); // logits 0 and ln 3: p = 1/4, 3/4
        assert!((losses[0] - (4.0_f32 / 3.0).ln()).abs() < 1e-6);
        let mut seen = Vec::new();
        let mut sink = |_: &Tensor, slopes: &Tensor| {
            seen = slopes.to_vec2::<f32>().unwrap().concat();
            Ok(())
        };
        let (again, gradient) = cross_entropy(&hidden, &head, &[1], &[2.0], Some(&mut sink)).unwrap();
        assert_eq!(again, losses);
        assert!((seen[0] - 0.5).abs() < 1e-6 && (seen[1] + 0.5).abs() < 1e-6);
        let gradient = gradient.to_vec2::<f32>().unwrap().concat();
        assert!((gradient[0] + 0.5 * 3.0_f32.ln()).abs() < 1e-6 && (gradient[1] - (2.5 - 3.5)).abs() < 1e-6);
    }

    #[test]
    fn arguments_are_checked() {
        let (hidden, head) = (t(&[1.0, 0.0], (1, 2)), t(&[0.0, 5.0, 1.0, 7.0], (2, 2)));
        let refusal = |targets: &[u32]| token_losses(&hidden, &head, targets).unwrap_err().to_string();
        assert_eq!(refusal(&[2]), "token_losses: target has shape [2], wanted below the vocabulary's size, 2");
        assert_eq!(refusal(&[1, 1]), "token_losses: targets has shape [2], wanted [1]");
        assert!(cross_entropy(&hidden, &head, &[1], &[], None).is_err());
    }
}
