//! Attention of one new token a sequence against the keys and values of those before it.
//!
//! `o = Σ_s p_s v_s`, `p = softmax(q · k_s / sqrt(d_head))` over the tokens kept; query head `h` reads KV head `kv_of[h]`.
//! A window is the cache's capacity: the newest token takes the place of the oldest, and the order of keys is no matter.
//! Sources: arXiv:1911.02150 (incremental decoding), arXiv:2305.13245 (groups).

use std::ops::Range;

use candle_core::Tensor;
use rayon::prelude::*;

use crate::exp::exp;
use crate::host::{self, Host};
use crate::matrix::{Onto, Out, View, multiply};
use crate::simd::{most, sum, wide};
use crate::{KernelError, Result};

/// Multiply-adds that a task has at least: below it a thread is not worth waking.
const PIECE: usize = 1 << 16;
const OP: &str = "kv_cache";

/// Keys and values of one attention: of each sequence's newest tokens, as many as it has room for.
#[derive(Debug, Clone)]
pub struct KvCache {
    sequences: Vec<Sequence>,
    n_kv_heads: usize,
    d_head: usize,
}

/// Of one sequence, `[n_kv_heads, capacity, d_head]` each.
#[derive(Debug, Clone)]
struct Sequence {
    keys: Vec<f32>,
    values: Vec<f32>,
    capacity: usize,
    tokens: usize, // seen so far
}

impl Sequence {
    /// Tokens that can be read.
    fn kept(&self) -> usize {
        self.tokens.min(self.capacity)
    }

    /// Takes in the next tokens: rows `rows` of `k` and `v`, whose rows are `heads` heads of `d`.
    fn take(&mut self, [k, v]: [&[f32]; 2], rows: impl Iterator<Item = usize> + Clone, [heads, d]: [usize; 2]) {
        let (tokens, width) = (rows.clone().count(), heads * d);
        for (new, kept) in [(k, &mut self.keys), (v, &mut self.values)] {
            for (token, row) in rows.clone().enumerate() {
                if token + self.capacity < tokens {
                    continue; // overwritten by a later one
                }
                let slot = (self.tokens + token) % self.capacity;
                for (head, new) in new[row * width..(row + 1) * width].chunks(d).enumerate() {
                    let at = (head * self.capacity + slot) * d;
                    kept[at..at + d].copy_from_slice(new);
                }
            }
        }
        self.tokens += tokens;
    }
}

impl KvCache {
    /// An empty one, with room for as many tokens of each sequence as `capacities` says.
    pub fn new(capacities: &[usize], n_kv_heads: usize, d_head: usize) -> Self {
        let sequence = |capacity: &usize| {
            let size = n_kv_heads * capacity * d_head;
            Sequence { keys: vec![0.0; size], values: vec![0.0; size], capacity: *capacity, tokens: 0 }
        };
        Self { sequences: capacities.iter().map(sequence).collect(), n_kv_heads, d_head }
    }

    /// Memory of keys and values.
    pub fn bytes(&self) -> u64 {
        let values = self.sequences.iter().map(|sequence| sequence.keys.len() + sequence.values.len());
        (size_of::<f32>() * values.sum::<usize>()) as u64
    }

    /// Counts `tokens` more of each sequence as seen, and leaves what is kept as it is.
    pub fn skip(&mut self, tokens: usize) {
        self.sequences.iter_mut().for_each(|sequence| sequence.tokens += tokens);
    }

    /// Lets go of the sequences for which `kept` is false; the others close up.
    pub fn keep(&mut self, kept: &[bool]) {
        let mut kept = kept.iter();
        self.sequences.retain(|_| kept.next() != Some(&false));
    }

    /// Takes in the next tokens of each sequence.
    ///
    /// # Shapes
    /// `k` and `v` `[sequences · tokens, n_kv_heads · d_head]`, any number of tokens.
    ///
    /// # Errors
    /// If shapes, layout or device do not fit.
    pub fn extend(&mut self, k: &Tensor, v: &Tensor) -> Result<()> {
        let sequences = self.sequences.len();
        let rows = self.check(k, v)?;
        if !rows.is_multiple_of(sequences.max(1)) {
            let want = format!("[{sequences} · tokens, {}]", self.n_kv_heads * self.d_head);
            return Err(host::shape(OP, "k", k, want));
        }
        let sides = [Host::of(OP, k)?, Host::of(OP, v)?];
        let (tokens, shape) = (rows / sequences.max(1), [self.n_kv_heads, self.d_head]);
        for (index, sequence) in self.sequences.iter_mut().enumerate() {
            sequence.take([&sides[0], &sides[1]], index * tokens..(index + 1) * tokens, shape);
        }
        Ok(())
    }

    /// Takes in the next tokens of one sequence: `rows` of `k` and `v`, one range after the other.
    ///
    /// # Shapes
    /// `k` and `v` `[tokens, n_kv_heads · d_head]`.
    ///
    /// # Errors
    /// If there is no such sequence, or if shapes, rows, layout or device do not fit.
    pub fn read(&mut self, sequence: usize, rows: &[Range<usize>], k: &Tensor, v: &Tensor) -> Result<()> {
        let there = self.check(k, v)?;
        let refuse = |what, got: usize, want: String| Err(KernelError::Shape { op: OP, what, got: vec![got], want });
        if let Some(range) = rows.iter().find(|range| range.end > there) {
            return refuse("rows", range.end, format!("at most {there}"));
        }
        let (sides, shape) = ([Host::of(OP, k)?, Host::of(OP, v)?], [self.n_kv_heads, self.d_head]);
        let sequences = self.sequences.len();
        match self.sequences.get_mut(sequence) {
            Some(own) => own.take([&sides[0], &sides[1]], rows.iter().cloned().flatten(), shape),
            None => return refuse("sequence", sequence, format!("one of {sequences}")),
        }
        Ok(())
    }

    /// Rows of `k` and `v`, which are alike and of all heads.
    fn check(&self, k: &Tensor, v: &Tensor) -> Result<usize> {
        let width = self.n_kv_heads * self.d_head;
        let (rows, _) = host::rows(OP, "k", k)?;
        for (what, tensor) in [("k", k), ("v", v)] {
            if tensor.dims() != [rows, width] {
                return Err(host::shape(OP, what, tensor, format!("[{rows}, {width}]")));
            }
        }
        Ok(rows)
    }
}

/// # Shapes
/// `q` `[sequences, n_heads · d_head]`, the newest token of each sequence, whose key is in `cache`; the result is as `q`.
///
/// # Errors
/// If shapes, layout or device do not fit, or the cache is empty.
pub fn decode_attention(q: &Tensor, cache: &KvCache, kv_of: &[usize]) -> Result<Tensor> {
    const OP: &str = "decode_attention";
    let d = cache.d_head;
    let want = [cache.sequences.len(), kv_of.len() * d];
    if q.dims() != want {
        return Err(host::shape(OP, "q", q, format!("{want:?}")));
    }
    let refuse = |what, got: usize, want: String| KernelError::Shape { op: OP, what, got: vec![got], want };
    if let Some(kv) = kv_of.iter().find(|kv| **kv >= cache.n_kv_heads) {
        return Err(refuse("kv_of", *kv, format!("KV heads below {}", cache.n_kv_heads)));
    }
    let lengths = || cache.sequences.iter().map(Sequence::kept);
    if lengths().any(|kept| kept == 0) {
        return Err(refuse("cache", 0, "at least one token".to_owned()));
    }
    let longest = lengths().max().unwrap_or(1);
    let queries = Host::of(OP, q)?;
    let mut out = vec![0.0; queries.len()];
    let least = PIECE.div_ceil(2 * longest * d.max(1));
    let heads = out.par_chunks_mut(d.max(1)).zip(queries.par_chunks(d.max(1))).enumerate().with_min_len(least);
    heads.for_each_init(
        || vec![0.0; longest],
        |scores, (task, (out, query))| {
            let (sequence, head) = (&cache.sequences[task / kv_of.len()], task % kv_of.len());
            let (kept, start) = (sequence.kept(), kv_of[head] * sequence.capacity * d);
            let scores = &mut scores[..kept];
            let side = |values| View::new(values, [kept, d], d);
            let (keys, values) = (side(&sequence.keys[start..]), side(&sequence.values[start..]));
            let scale = 1.0 / (d as f32).sqrt();
            let product = Out { values: scores, stride: kept, onto: Onto::Nothing };
            multiply(product, scale, View::new(query, [1, d], d), keys.t());
            let inverse = 1.0 / softmax(scores);
            let product = Out { values: out, stride: d, onto: Onto::Nothing };
            multiply(product, inverse, View::new(scores, [1, kept], kept), values);
        },
    );
    host::tensor(OP, out, q.dims())
}

/// `exp(score − greatest)` in place; returns their sum.
fn softmax(scores: &mut [f32]) -> f32 {
    wide!(|| {
        let most = most(scores);
        scores.iter_mut().for_each(|score| *score = exp(*score - most));
        sum([scores], |[score]| score)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::attention;
    use crate::{Heads, Sight};
    use candle_core::{DType, Device};
    use taper_base::rng::{normal, stream};

    const D: usize = 4;

    fn random(rows: usize, heads: usize, name: &str) -> Vec<f32> {
        let mut rng = stream(3, name, 0, 0);
        (0..rows * heads * D).map(|_| normal(&mut rng) as f32).collect()
    }

    fn tensor(values: &[f32], rows: usize) -> Tensor {
        Tensor::from_slice(values, (rows, values.len() / rows), &Device::Cpu).unwrap()
    }

    /// The definition for token `t` of one sequence, in f64: `q` of one token, `k` and `v` of all.
    fn brute(q: &[f32], [k, v]: [&[f32]; 2], t: usize, kv_of: &[usize], kv_heads: usize, window: usize) -> Vec<f64> {
        let at = |x: &[f32], token: usize, kv: usize, i: usize| f64::from(x[(token * kv_heads + kv) * D + i]);
        let mut out = Vec::new();
        for (head, kv) in kv_of.iter().enumerate() {
            let seen: Vec<usize> = (0..=t).filter(|s| t - s < window).collect();
            let score = |s: &usize| {
                let dot: f64 = (0..D).map(|i| f64::from(q[head * D + i]) * at(k, *s, *kv, i)).sum();
                (dot / (D as f64).sqrt()).exp()
            };
            let sum: f64 = seen.iter().map(score).sum();
            out.extend((0..D).map(|i| seen.iter().map(|s| score(s) / sum * at(v, *s, *kv, i)).sum::<f64>()));
        }
        out
    }

    /// Every split of the tokens into a prompt and single steps reads what the definition reads.
    #[test]
    fn each_step_is_the_definition_with_groups_windows_and_uneven_heads() {
        let (tokens, sequences, kv_heads) = (9, 2, 2);
        for (kv_of, window) in [(vec![0, 0, 1, 1], 9), (vec![0, 1, 1], 3), (vec![1], 1), (vec![1, 0, 0, 0], 5)] {
            let sides = ["k", "v"].map(|name| random(sequences * tokens, kv_heads, name));
            let q = random(sequences * tokens, kv_of.len(), "q");
            let width = kv_heads * D;
            let part = |x: &[f32], from: usize, to: usize| -> Vec<f32> {
                x.chunks(tokens * width).flat_map(|x| x[from * width..to * width].to_vec()).collect()
            };
            for prompt in 1..tokens {
                let mut cache = KvCache::new(&vec![window.min(tokens); sequences], kv_heads, D);
                let extend = |cache: &mut KvCache, from: usize, to: usize| {
                    let [k, v] = sides.each_ref().map(|x| tensor(&part(x, from, to), sequences * (to - from)));
                    cache.extend(&k, &v).unwrap();
                };
                extend(&mut cache, 0, prompt);
                for t in prompt..tokens {
                    extend(&mut cache, t, t + 1);
                    let rows = q.chunks(tokens * kv_of.len() * D);
                    let now: Vec<&[f32]> = rows.map(|q| &q[t * kv_of.len() * D..(t + 1) * kv_of.len() * D]).collect();
                    let got = decode_attention(&tensor(&now.concat(), sequences), &cache, &kv_of).unwrap();
                    let mut want = Vec::new();
                    for (sequence, q) in now.iter().enumerate() {
                        let own =
                            sides.each_ref().map(|x| &x[sequence * tokens * width..(sequence + 1) * tokens * width]);
                        want.extend(brute(q, own, t, &kv_of, kv_heads, window));
                    }
                    let got: Vec<f32> = got.flatten_all().unwrap().to_vec1().unwrap();
                    let off = got.iter().zip(&want).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
                    assert!(off < 1e-6, "{kv_of:?} window {window} prompt {prompt} token {t}: {off}");
                }
            }
        }
    }

    #[test]
    fn many_heads_and_tokens_give_what_the_tiled_attention_gives() {
        let (tokens, heads, kv_of) = (300, 64, (0..64).map(|head| head / 8).collect::<Vec<_>>());
        let (q, k, v) = (random(tokens, heads, "q"), random(tokens, 8, "k"), random(tokens, 8, "v"));
        let (q, k, v) = (tensor(&q, tokens), tensor(&k, tokens), tensor(&v, tokens));
        let all = Heads {
            sequences: 1,
            tokens,
            d_head: D,
            kv_of: &kv_of,
            n_kv_heads: 8,
            window: None,
            first: None,
            sight: Sight::Causal,
        };
        let want = attention(&q, &k, &v, all).unwrap().out.narrow(0, tokens - 1, 1).unwrap();
        let mut cache = KvCache::new(&[tokens], 8, D);
        cache.extend(&k, &v).unwrap();
        let got = decode_attention(&q.narrow(0, tokens - 1, 1).unwrap(), &cache, &kv_of).unwrap();
        let off = (got - want).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(off < 1e-5, "{off}");
    }

    #[test]
    fn shapes_are_checked_by_name() {
        let zeros = |rows: usize, columns: usize| Tensor::zeros((rows, columns), DType::F32, &Device::Cpu).unwrap();
        let mut cache = KvCache::new(&[3; 2], 1, D);
        assert_eq!(cache.bytes(), 2 * 4 * 2 * 3 * D as u64);
        let refusal = cache.extend(&zeros(3, D), &zeros(3, D)).unwrap_err().to_string();
        assert_eq!(refusal, "kv_cache: k has shape [3, 4], wanted [2 · tokens, 4]");
        let attend =
            |cache: &KvCache, q: &Tensor, kv_of: &[usize]| decode_attention(q, cache, kv_of).unwrap_err().to_string();
        assert_eq!(
            attend(&cache, &zeros(2, D), &[0]),
            "decode_attention: cache has shape [0], wanted at least one token"
        );
        cache.extend(&zeros(4, D), &zeros(4, D)).unwrap();
        assert_eq!(attend(&cache, &zeros(1, D), &[0]), "decode_attention: q has shape [1, 4], wanted [2, 4]");
        assert_eq!(
            attend(&cache, &zeros(2, D), &[1]),
            "decode_attention: kv_of has shape [1], wanted KV heads below 1"
        );
    }
}
