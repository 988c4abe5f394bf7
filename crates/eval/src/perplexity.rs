//! Perplexity: `exp` of the mean loss of the tokens scored, over windows of a text.
//!
//! Windows are those of the transformers documentation ("Perplexity of fixed-length models"): each token is scored once,
//! with as much context as the window holds beyond the stride; by document, no window sees two documents.
//! The standard error is that of a ratio over windows, `√(W/(W−1) · Σ_w (s_w − L·n_w)²) / N`, `s_w` the sum of losses and
//! `n_w` the tokens scored of window `w`: tokens of one window are not independent.

use serde::{Deserialize, Serialize};
use taper_arch::ModelSpec;
use taper_base::progress::Progress;
use taper_base::workers::for_each;
use taper_data::windows::{self, Window};
use taper_data::{TextTokenizer, Tokens};
use taper_model::{Batch, Model, PassMemory};

use crate::EvalError;

/// Tokens of one forward pass.
const TOKENS: usize = 4096;

/// Documents tokenized at once.
const DOCUMENTS: usize = 256;

/// How a text is cut into windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Tokens fed at once.
    pub window: usize,
    /// Tokens from one window's start to the next, 1 to `window`.
    pub stride: usize,
    /// Whether each document is a text of its own; else all are one.
    pub by_document: bool,
}

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Perplexity {
    /// Mean loss, nats per token.
    pub loss: f64,
    /// Its standard error; none for a single window.
    pub standard_error: Option<f64>,
    /// `exp(loss)`.
    pub perplexity: f64,
    /// Tokens scored.
    pub tokens: usize,
    /// Windows.
    pub windows: usize,
}

/// The ids of each document in order, up to `most` in all; `special` adds what the tokenizer puts around a text (BOS).
/// What lies beyond is not tokenized.
///
/// # Errors
/// If the tokenizer refuses a document.
pub fn documents_to_ids(
    documents: &[&str],
    tokenizer: &TextTokenizer,
    special: bool,
    most: usize,
) -> Result<Vec<Vec<u32>>, EvalError> {
    let (mut ids, mut left) = (Vec::new(), most);
    for documents in documents.chunks(DOCUMENTS) {
        for mut document in tokenizer.encode_batch(documents, special)? {
            document.truncate(left);
            left -= document.len();
            ids.push(document);
        }
        if left == 0 {
            break;
        }
    }
    Ok(ids)
}

/// Perplexity of `model` on `documents`, `workers` passes at once; the result does not depend on how many.
///
/// # Errors
/// If nothing can be scored, or the forward pass fails.
pub fn perplexity(
    model: &Model,
    documents: &[Vec<u32>],
    settings: Settings,
    workers: usize,
    progress: &dyn Progress,
) -> Result<Perplexity, EvalError> {
    let lengths: Vec<usize> = documents.iter().map(Vec::len).collect();
    let ids: Vec<u32> = documents.concat();
    let windows = if settings.by_document {
        windows::by_document(&lengths, settings.window, settings.stride)?
    } else {
        windows::strided(ids.len(), settings.window, settings.stride)?
    };
    if windows.is_empty() {
        return Err(EvalError::Empty { documents: documents.len(), tokens: ids.len() });
    }
    progress.begin("perplexity", windows.len() as u64);
    let groups = groups(&windows);
    let sums = for_each(&groups, workers, |group| {
        let sums = losses(model, &ids, group)?;
        progress.advance(group.len() as u64, "");
        Ok::<_, EvalError>(sums)
    });
    progress.end();
    let sums = sums?.concat();
    let counts: Vec<f64> = windows.iter().map(|window| window.scored().len() as f64).collect();
    Ok(summary(&sums, &counts))
}

/// Memory that one pass takes at most: windows are fed together up to a fixed number of tokens.
pub fn bytes_per_pass(spec: &ModelSpec, window: usize) -> u64 {
    PassMemory::of(spec, window.max(TOKENS)).forward()
}

fn summary(sums: &[f64], counts: &[f64]) -> Perplexity {
    let (tokens, windows) = (counts.iter().sum::<f64>(), sums.len() as f64);
    let loss = sums.iter().sum::<f64>() / tokens;
    let spread: f64 = sums.iter().zip(counts).map(|(sum, count)| (sum - loss * count).powi(2)).sum();
    let standard_error = (sums.len() > 1).then(|| (windows / (windows - 1.0) * spread).sqrt() / tokens);
    Perplexity { loss, standard_error, perplexity: loss.exp(), tokens: tokens as usize, windows: sums.len() }
}

/// Neighbours of equal length, as many as one pass takes. Fixed by the windows alone, so sums have one order.
fn groups(windows: &[Window]) -> Vec<&[Window]> {
    let same = windows.chunk_by(|a, b| a.fed().len() == b.fed().len());
    same.flat_map(|same| same.chunks((TOKENS / same[0].fed().len().max(1)).max(1))).collect()
}

/// Sum of the losses of each window's scored tokens.
fn losses(model: &Model, ids: &[u32], windows: &[Window]) -> Result<Vec<f64>, EvalError> {
    let fed: Vec<u32> = windows.iter().flat_map(|window| ids[window.fed()].iter().copied()).collect();
    let length = windows[0].fed().len();
    let tokens = Tokens::new(fed, windows.len(), length)?;
    let losses = model.token_losses(Batch::new(tokens.ids(), length)?)?; // [windows, length - 1]
    let rows = losses.chunks(length - 1).zip(windows);
    // the loss at place t is that of token t + 1
    let sum = |(row, window): (&[f32], &Window)| {
        row[window.scored_from - window.start - 1..].iter().map(|l| f64::from(*l)).sum()
    };
    Ok(rows.map(sum).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_hand_computed() {
        let found = summary(&[2.0, 6.0], &[2.0, 2.0]);
        assert_eq!((found.loss, found.tokens, found.windows), (2.0, 4, 2));
        assert_eq!(found.standard_error, Some((2.0 * (4.0 + 4.0_f64)).sqrt() / 4.0)); // √(2/1 · (2² + 2²)) / 4
        assert_eq!(found.perplexity, 2.0_f64.exp());
        assert_eq!(summary(&[2.0], &[2.0]).standard_error, None);
    }

    #[test]
    fn groups_hold_windows_of_one_length_and_bounded_tokens() {
        let windows = windows::by_document(&[3000, 3000, 3000, 7, 7], 3000, 3000).unwrap();
        let sizes: Vec<usize> = groups(&windows).iter().map(|group| group.len()).collect();
        assert_eq!(sizes, [1, 1, 1, 2]);
    }
}
