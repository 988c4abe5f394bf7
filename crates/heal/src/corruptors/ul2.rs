//! UL2's mixture of denoisers, as a decoder sees it: a document with spans taken out, then the spans.
//!
//! Each document draws a denoiser: mean span `μ` and rate `r`. Of its first `n` tokens `round(n r)` are taken out in
//! `round(n r / μ)` spans, at least one, by T5's rule: spans and what lies between them are random partitions, and the first
//! token stays. Input: what stays, each span replaced by a sentinel of its own. After it: for each span its sentinel and its
//! tokens; these alone are learnt. The `prefix` denoiser (S) takes out one span at the end, of `1 + uniform(2 n r)` tokens. `n`
//! is what fits: the example is no longer than the sequence.
//!
//! Denoisers, with their share of the documents: R `(3, .15)`, `(8, .15)` .165 each; S (rate .25) .34; X `(3, .5)`, `(8, .5)`,
//! `(64, .15)`, `(64, .5)` .0825 each. Sentinel `i` is token `vocab − 1 − i`, or `sentinels + i`; `modes: [r, s, x]` are
//! tokens put in front of a document of each kind.
//!
//! Source: arXiv:2205.05131 (method 35), spans as in arXiv:1910.10683. Deviations: shares are a public port's, the paper
//! names none; the input is read from left to right, not in both directions.

use serde::Deserialize;
use taper_base::registry::{Entry, MethodError, params};
use taper_base::rng::{RngExt, seq::SliceRandom, stream};

use super::{Corruptor, Example, Sequence};

const NAME: &str = "ul2";

/// The table's entry.
pub const ENTRY: Entry<dyn Corruptor> = Entry {
    name: NAME,
    summary: "mixture of denoisers: spans are taken out of a document and predicted after it",
    source: "arXiv:2205.05131",
    build: |value| params::<Ul2>(NAME, value).and_then(Ul2::checked).map(|made| Box::new(made) as _),
};

/// A denoiser.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Denoiser {
    mode: Mode,
    span: f64,
    rate: f64,
    share: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Regular,
    Prefix,
    Extreme,
}

const DENOISERS: [Denoiser; 7] = [
    Denoiser { mode: Mode::Regular, span: 3.0, rate: 0.15, share: 0.165 },
    Denoiser { mode: Mode::Regular, span: 8.0, rate: 0.15, share: 0.165 },
    Denoiser { mode: Mode::Prefix, span: 0.0, rate: 0.25, share: 0.34 },
    Denoiser { mode: Mode::Extreme, span: 3.0, rate: 0.5, share: 0.0825 },
    Denoiser { mode: Mode::Extreme, span: 8.0, rate: 0.5, share: 0.0825 },
    Denoiser { mode: Mode::Extreme, span: 64.0, rate: 0.15, share: 0.0825 },
    Denoiser { mode: Mode::Extreme, span: 64.0, rate: 0.5, share: 0.0825 },
];

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Ul2 {
    /// The first sentinel; the others follow it. None: from the last token of the vocabulary down.
    sentinels: Option<u32>,
    modes: Option<[u32; 3]>,
}

impl Ul2 {
    fn checked(self) -> Result<Self, MethodError> {
        match self.modes {
            Some([r, s, x]) if r == s || s == x || r == x => {
                let reason = format!("modes are {r}, {s} and {x}, wanted three tokens that differ");
                Err(MethodError::Parameters { method: NAME, reason })
            }
            _ => Ok(self),
        }
    }

    fn sentinel(&self, number: usize, vocab: usize) -> u32 {
        let last = vocab.saturating_sub(1) as u32;
        match self.sentinels {
            Some(first) => (first + number as u32).min(last),
            None => last.saturating_sub(number as u32),
        }
    }

    fn mode(&self, mode: Mode) -> Option<u32> {
        let [r, s, x] = self.modes?;
        Some(match mode {
            Mode::Regular => r,
            Mode::Prefix => s,
            Mode::Extreme => x,
        })
    }

    /// Input and what is learnt of `ids`.
    fn denoise(&self, ids: &[u32], spans: &[[usize; 2]], (mode, vocab): (Mode, usize)) -> (Vec<u32>, Vec<u32>) {
        let (mut input, mut learnt) = (Vec::from_iter(self.mode(mode)), Vec::new());
        let mut from = 0;
        for (number, [start, end]) in spans.iter().enumerate() {
            let sentinel = self.sentinel(number, vocab);
            input.extend(&ids[from..*start]);
            input.push(sentinel);
            learnt.push(sentinel);
            learnt.extend(&ids[*start..*end]);
            from = *end;
        }
        input.extend(&ids[from..]);
        (input, learnt)
    }
}

impl Denoiser {
    fn drawn(rng: &mut impl RngExt) -> Self {
        let mut at = rng.random::<f64>();
        let found = DENOISERS.into_iter().find(|one| {
            at -= one.share;
            at < 0.0
        });
        found.unwrap_or(DENOISERS[6])
    }

    /// Tokens and spans to be taken out of `n`.
    fn counts(self, n: usize) -> (usize, usize) {
        let noise = ((n as f64 * self.rate).round() as usize).clamp(1, n - 1);
        let spans = if self.mode == Mode::Prefix { 1 } else { (noise as f64 / self.span).round() as usize };
        (noise, spans.clamp(1, noise.min(n - noise)))
    }

    /// How many tokens of a document fit into `room`, with their sentinels and `extra` tokens more.
    fn fit(self, document: usize, room: usize, extra: usize) -> usize {
        let taken = |n: usize| n + 2 * self.counts(n).1 + extra;
        let most = document.min(room);
        (2..=most).rev().find(|n| taken(*n) <= room).unwrap_or(0)
    }

    /// Spans to be taken out of `n` tokens: start and end, ascending.
    fn spans(self, n: usize, rng: &mut impl RngExt) -> Vec<[usize; 2]> {
        let (noise, spans) = self.counts(n);
        if self.mode == Mode::Prefix {
            let most = (2.0 * n as f64 * self.rate) as usize;
            return vec![[n - rng.random_range(1..=most.clamp(1, n - 1)), n]];
        }
        let (kept, taken) = (partition(n - noise, spans, rng), partition(noise, spans, rng));
        let mut at = 0;
        kept.into_iter()
            .zip(taken)
            .map(|(kept, taken)| {
                let start = at + kept;
                at = start + taken;
                [start, at]
            })
            .collect()
    }
}

/// `n` as a sum of `parts` numbers of 1 at least, each such sum as likely as any other.
fn partition(n: usize, parts: usize, rng: &mut impl RngExt) -> Vec<usize> {
    let mut cuts: Vec<usize> = (1..n).collect();
    cuts.shuffle(rng);
    cuts.truncate(parts - 1);
    cuts.sort_unstable();
    let ends = cuts.iter().copied().chain([n]);
    let starts = [0].into_iter().chain(cuts.iter().copied());
    starts.zip(ends).map(|(start, end)| end - start).collect()
}

impl Corruptor for Ul2 {
    fn example(&self, sequence: Sequence<'_>, apart: bool) -> Example {
        let Sequence { ids, starts, vocab, seed, index } = sequence;
        let mut rng = stream(seed, NAME, index, 0);
        let mut example = Example { input: Vec::new(), targets: Vec::new(), first: Vec::new() };
        let bounds = [0].into_iter().chain(starts.iter().copied());
        for (start, end) in bounds.zip(starts.iter().copied().chain([ids.len()])) {
            let denoiser = Denoiser::drawn(&mut rng);
            let (room, extra) = (ids.len() - example.input.len(), usize::from(self.modes.is_some()));
            let n = denoiser.fit(end - start, room, extra);
            if n == 0 {
                continue; // too short to take anything out, or no room left
            }
            let spans = denoiser.spans(n, &mut rng);
            let (input, learnt) = self.denoise(&ids[start..start + n], &spans, (denoiser.mode, vocab));
            let first = if apart { example.input.len() as u32 } else { 0 };
            let (known, all) = (input.len(), input.len() + learnt.len());
            let targets = std::iter::repeat_n(None, known - 1).chain(learnt.iter().copied().map(Some)).chain([None]);
            example.targets.extend(targets);
            example.input.extend(input.into_iter().chain(learnt));
            example.first.extend(std::iter::repeat_n(first, all));
        }
        example
    }
}

#[cfg(test)]
mod tests;
