//! How likely a model finds given tokens, and whether each is the likeliest: the output head and its log-softmax, of a
//! piece of the rows at a time.
//!
//! `s = (h Wᵀ)[target] − logsumexp(h Wᵀ)`; of equal logits the smallest id is the likeliest, as in `argmax`.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::exp::exp;
use crate::host::{self, Host};
use crate::linear::into_units;
use crate::loss::LOGITS;
use crate::simd::{most, sum, wide};
use crate::{KernelError, Result};

/// What a row says of a token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenScore {
    /// Natural logarithm of its probability.
    pub log_probability: f32,
    /// Whether no other is likelier.
    pub likeliest: bool,
}

/// The score of each of `wanted`, pairs of a row and a token; a row may be asked of several tokens.
///
/// # Shapes
/// `hidden` `[rows, d_model]` after the final norm, `head` `[vocab, d_model]`.
///
/// # Errors
/// If shapes, rows, tokens, layout or device do not fit.
pub fn token_scores(hidden: &Tensor, head: &Tensor, wanted: &[(usize, u32)]) -> Result<Vec<TokenScore>> {
    const OP: &str = "token_scores";
    let (rows, _) = host::rows(OP, "hidden", hidden)?;
    let vocab = head.dims().first().copied().unwrap_or(0);
    let refuse = |what, got: usize, want: String| Err(KernelError::Shape { op: OP, what, got: vec![got], want });
    if let Some((row, _)) = wanted.iter().find(|(row, _)| *row >= rows) {
        return refuse("row", *row, format!("below {rows}"));
    }
    if let Some((_, token)) = wanted.iter().find(|(_, token)| *token as usize >= vocab) {
        return refuse("token", *token as usize, format!("below the vocabulary's size, {vocab}"));
    }
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by_key(|index| wanted[*index].0);
    let nothing = TokenScore { log_probability: 0.0, likeliest: false };
    let (mut scores, mut left) = (vec![nothing; wanted.len()], &order[..]);
    let step = (LOGITS / vocab.max(1)).max(1);
    for start in (0..rows).step_by(step) {
        let count = step.min(rows - start);
        let here = left.partition_point(|index| wanted[*index].0 < start + count);
        let (now, later) = left.split_at(here);
        left = later;
        if now.is_empty() {
            continue;
        }
        let piece = hidden.narrow(0, start, count).map_err(|cause| KernelError::Tensor { op: OP, cause })?;
        let logits = into_units(&piece, head, None)?; // [count, vocab]
        let logits = Host::of(OP, &logits)?;
        let groups: Vec<&[usize]> = now.chunk_by(|a, b| wanted[*a].0 == wanted[*b].0).collect();
        let found: Vec<Vec<TokenScore>> = groups
            .par_iter()
            .map(|group| {
                let row = wanted[group[0]].0 - start;
                score(&logits[row * vocab..(row + 1) * vocab], group.iter().map(|index| wanted[*index].1))
            })
            .collect();
        now.iter().zip(found.concat()).for_each(|(index, score)| scores[*index] = score);
    }
    Ok(scores)
}

/// Scores of `tokens` by one row of logits.
fn score(logits: &[f32], tokens: impl Iterator<Item = u32>) -> Vec<TokenScore> {
    let (most, total) = wide!(|| {
        let most = most(logits);
        (most, sum([logits], |[x]| exp(x - most)))
    });
    let first = logits.iter().position(|logit| *logit == most);
    let one = |token: u32| {
        let token = token as usize;
        TokenScore { log_probability: logits[token] - most - total.ln(), likeliest: first == Some(token) }
    };
    tokens.map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn t(values: &[f32], shape: (usize, usize)) -> Tensor {
        Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
    }

    #[test]
    fn match_hand_computed_ones_in_the_order_asked() {
        let head = t(&[0.0, 5.0, 3.0_f32.ln(), 7.0, 0.0, 7.0], (3, 2));
        let hidden = t(&[1.0, 0.0, 0.0, 1.0], (2, 2)); // logits 0, ln 3, 0 and 5, 7, 7
        let scores = token_scores(&hidden, &head, &[(1, 2), (0, 1), (1, 1), (0, 2)]).unwrap();
        let second = -(2.0 + (-2.0_f32).exp()).ln();
        for (score, (want, likeliest)) in
            scores.iter().zip([(second, false), (0.6_f32.ln(), true), (second, true), (0.2_f32.ln(), false)])
        {
            assert!((score.log_probability - want).abs() < 1e-6, "{score:?} {want}");
            assert_eq!(score.likeliest, likeliest, "of two equal ones the first is the likeliest");
        }
        assert!(token_scores(&hidden, &head, &[]).unwrap().is_empty());
    }

    #[test]
    fn arguments_are_checked() {
        let (hidden, head) = (t(&[1.0, 0.0], (1, 2)), t(&[0.0, 5.0, 1.0, 7.0], (2, 2)));
        let refusal = |wanted: (usize, u32)| token_scores(&hidden, &head, &[wanted]).unwrap_err().to_string();
        assert_eq!(refusal((1, 0)), "token_scores: row has shape [1], wanted below 1");
        assert_eq!(refusal((0, 2)), "token_scores: token has shape [2], wanted below the vocabulary's size, 2");
    }
}
