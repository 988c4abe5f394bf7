//! Windows over a text for perplexity: each token scored once, with as much context as fits.
//!
//! The windows of the transformers documentation's "Perplexity of fixed-length models": starts at `0, stride, 2 stride, …`; a
//! window ends at `min(start + window, tokens)` and scores what no earlier one has; the last one reaches the end. A model gives no
//! probability to the first token it is fed, so a window never scores its own first token: with `stride < window` that leaves
//! out only the text's first token, with `stride = window` (disjoint windows) the first of every window.
//!
//! Deviation: a last window that would score nothing (one token long) is left out; there its mean loss would be 0/0.

use std::ops::Range;

use crate::DataError;

/// Tokens `start..end` are fed to the model; its predictions for `scored_from..end` count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The first token fed.
    pub start: usize,
    /// One past the last token fed.
    pub end: usize,
    /// The first token scored; after `start`, before `end`.
    pub scored_from: usize,
}

impl Window {
    /// The tokens fed.
    pub fn fed(&self) -> Range<usize> {
        self.start..self.end
    }

    /// The tokens scored, never none.
    pub fn scored(&self) -> Range<usize> {
        self.scored_from..self.end
    }

    fn shifted(self, by: usize) -> Self {
        Self { start: self.start + by, end: self.end + by, scored_from: self.scored_from + by }
    }
}

/// Windows of up to `window` tokens, each `stride` after the one before, over a text of `tokens` tokens.
///
/// None if the text has fewer than two tokens: nothing can be scored.
///
/// # Errors
/// [`DataError::Window`] if `window < 2` or `stride` is not in `1..=window`.
pub fn strided(tokens: usize, window: usize, stride: usize) -> Result<Vec<Window>, DataError> {
    if window < 2 || !(1..=window).contains(&stride) {
        return Err(DataError::Window { window, stride });
    }
    let (mut windows, mut scored) = (Vec::new(), 0);
    for start in (0..tokens).step_by(stride) {
        let end = start.saturating_add(window).min(tokens);
        let scored_from = scored.max(start + 1);
        if scored_from < end {
            windows.push(Window { start, end, scored_from });
        }
        if end == tokens {
            break;
        }
        scored = end;
    }
    Ok(windows)
}

/// [`strided`] over documents that lie one after the other and have `lengths` tokens: no window sees two of them.
///
/// # Errors
/// As [`strided`].
pub fn by_document(lengths: &[usize], window: usize, stride: usize) -> Result<Vec<Window>, DataError> {
    let (mut windows, mut start) = (strided(0, window, stride)?, 0);
    for &length in lengths {
        windows.extend(strided(length, window, stride)?.into_iter().map(|window| window.shifted(start)));
        start += length;
    }
    Ok(windows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn triples(windows: &[Window]) -> Vec<[usize; 3]> {
        windows.iter().map(|w| [w.start, w.end, w.scored_from]).collect()
    }

    #[test]
    fn matches_hand_computed_windows() {
        assert_eq!(triples(&strided(10, 4, 2).unwrap()), [[0, 4, 1], [2, 6, 4], [4, 8, 6], [6, 10, 8]]);
        assert_eq!(triples(&strided(9, 4, 2).unwrap()), [[0, 4, 1], [2, 6, 4], [4, 8, 6], [6, 9, 8]]);
        assert_eq!(triples(&strided(3, 4, 2).unwrap()), [[0, 3, 1]]);
        assert_eq!(triples(&strided(9, 4, 4).unwrap()), [[0, 4, 1], [4, 8, 5]]); // a ninth token alone scores nothing
        assert_eq!(strided(1, 4, 2).unwrap(), []);
        assert_eq!(strided(0, 4, 2).unwrap(), []);
    }

    #[test]
    fn disjoint_windows_score_all_but_their_first_tokens() {
        let windows = strided(20_480, 256, 256).unwrap();
        assert_eq!(windows.len(), 80);
        assert!(
            windows
                .iter()
                .enumerate()
                .all(|(i, w)| [w.start, w.end, w.scored_from] == [256 * i, 256 * (i + 1), 256 * i + 1])
        );
        assert_eq!(windows.iter().map(|w| w.scored().len()).sum::<usize>(), 20_400);
    }

    #[test]
    fn documents_do_not_see_each_other() {
        let windows = by_document(&[3, 0, 1, 5], 4, 2).unwrap();
        assert_eq!(triples(&windows), [[0, 3, 1], [4, 8, 5], [6, 9, 8]]);
    }

    #[test]
    fn windows_that_skip_or_cannot_score_are_refused() {
        for (window, stride) in [(1, 1), (0, 0), (4, 0), (4, 5)] {
            assert!(matches!(strided(9, window, stride), Err(DataError::Window { .. })), "{window} {stride}");
            assert!(by_document(&[], window, stride).is_err());
        }
    }

    /// The loop of the transformers documentation, as `(begin_loc, end_loc, trg_len)`.
    fn documented(seq_len: usize, max_length: usize, stride: usize) -> Vec<(usize, usize, usize)> {
        let (mut loops, mut prev_end_loc) = (Vec::new(), 0);
        for begin_loc in (0..seq_len).step_by(stride) {
            let end_loc = (begin_loc + max_length).min(seq_len);
            loops.push((begin_loc, end_loc, end_loc - prev_end_loc));
            prev_end_loc = end_loc;
            if end_loc == seq_len {
                break;
            }
        }
        loops
    }

    proptest! {
        #[test]
        fn each_token_is_scored_exactly_once(tokens in 0_usize..300, window in 2_usize..40, share in 0.0..1.0_f64) {
            let stride = 1 + (share * (window - 1) as f64) as usize; // 1..window
            let windows = strided(tokens, window, stride).unwrap();
            let scored: Vec<usize> = windows.iter().flat_map(Window::scored).collect();
            let wanted: Vec<usize> = (1..tokens).collect();
            prop_assert_eq!(scored, wanted);
            prop_assert!(windows.iter().all(|w| w.fed().len() <= window && w.start < w.scored_from));
            let disjoint = strided(tokens, window, window).unwrap();
            let scored: Vec<usize> = disjoint.iter().flat_map(Window::scored).collect();
            prop_assert_eq!(scored, (0..tokens).filter(|token| token % window != 0).collect::<Vec<_>>());
        }

        #[test]
        fn windows_are_those_of_the_transformers_documentation(tokens in 2_usize..300, window in 2_usize..40, share in 0.0..=1.0_f64) {
            let stride = 1 + (share * (window - 1) as f64) as usize; // 1..=window
            // The labels are shifted inside the model: of the target tokens, the window's own first is never scored.
            let wanted = documented(tokens, window, stride).into_iter()
                .map(|(begin, end, target)| [begin, end, (end - target).max(begin + 1)])
                .filter(|[_, end, scored_from]| scored_from < end);
            prop_assert_eq!(triples(&strided(tokens, window, stride).unwrap()), wanted.collect::<Vec<_>>());
        }
    }
}
