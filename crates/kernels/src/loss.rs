//! Cross-entropy of the next token, fused with the output head: logits exist for a piece of the tokens only.
//!
//! `l_t = logsumexp(h_t Wᵀ) − (h_t Wᵀ)[target_t]`; `dlogits = (softmax − onehot) · weight_t`.

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use crate::exp::exp;
use crate::host::{self, Host};
use crate::{KernelError, Result};

/// Logits computed at once, in values: 16 MiB of f32. Fixed by shape alone, so results depend on nothing else.
const LOGITS: usize = 4 << 20;

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
    const OP: &str = "token_losses";
    let mut losses = Vec::with_capacity(targets.len());
    pieces(OP, hidden, head, targets, |_, logits, targets| {
        let (_, vocab) = host::rows(OP, "logits", &logits)?;
        let values = Host::of(OP, &logits)?;
        let rows = values.par_chunks(vocab).zip(targets).map(|(row, target)| log_sum(row) - row[*target as usize]);
        losses.par_extend(rows);
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
    let cause = |cause| KernelError::Tensor { op: OP, cause };
    let mut losses = Vec::with_capacity(targets.len());
    let mut gradients = Vec::new();
    let mut weights = weights;
    pieces(OP, hidden, head, targets, |input, logits, targets| {
        let (_, vocab) = host::rows(OP, "logits", &logits)?;
        let values = Host::of(OP, &logits)?;
        let (ours, rest) = weights.split_at(targets.len());
        weights = rest;
        let mut slopes = vec![0.0; values.len()];
        let rows = slopes.par_chunks_mut(vocab).zip(values.par_chunks(vocab)).zip(targets).zip(ours);
        let rows = rows.map(|(((slopes, row), target), weight)| {
            let log_sum = log_sum(row);
            slopes.iter_mut().zip(row).for_each(|(slope, x)| *slope = weight * exp(x - log_sum));
            slopes[*target as usize] -= weight;
            log_sum - row[*target as usize]
        });
        losses.par_extend(rows);
        let slopes = host::tensor(OP, slopes, logits.dims())?;
        gradients.push(slopes.matmul(head).map_err(cause)?); // [tokens, d_model]
        sink.as_mut().map_or(Ok(()), |sink| sink(&input, &slopes))
    })?;
    let gradient = if gradients.is_empty() { hidden.zeros_like() } else { Tensor::cat(&gradients, 0) };
    Ok((losses, gradient.map_err(cause)?))
}

/// Calls `each(input, logits, targets)` for pieces of tokens in order.
fn pieces(
    op: &'static str,
    hidden: &Tensor,
    head: &Tensor,
    targets: &[u32],
    mut each: impl FnMut(Tensor, Tensor, &[u32]) -> Result<()>,
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
    if !matches!(hidden.device(), Device::Cpu) {
        return Err(KernelError::Device { op, device: hidden.device().clone() });
    }
    let cause = |cause| KernelError::Tensor { op, cause };
    let step = (LOGITS / vocab).max(1);
    for start in (0..tokens).step_by(step) {
        let count = step.min(tokens - start);
        let input = hidden.narrow(0, start, count).map_err(cause)?;
        let logits = head.t().and_then(|head| input.matmul(&head)).map_err(cause)?; // [count, vocab]
        each(input, logits, &targets[start..start + count])?;
    }
    Ok(())
}

fn log_sum(row: &[f32]) -> f32 {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0.0_f32; 8];
    for (index, x) in row.iter().enumerate() {
        sums[index % 8] += exp(x - most);
    }
    let sum: f32 = sums.iter().sum();
    most + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

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
