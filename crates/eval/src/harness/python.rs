//! Python's random numbers, so that few-shot documents and bootstrap samples are those of lm-evaluation-harness.
//!
//! `random.Random(seed)`: MT19937 seeded by `init_by_array` with the 32-bit words of the seed; `random()` of 53 bits;
//! `sample` and `choices` as CPython draws them (`Lib/random.py`). Source of the generator: Matsumoto and Nishimura,
//! "Mersenne Twister", ACM TOMACS 8(1), 1998.

use std::collections::BTreeSet;

use rand_mt::Mt;

/// `random.Random(seed)`.
pub(crate) struct Random(Mt);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        let [low, high] = [seed as u32, (seed >> 32) as u32];
        Self(if high == 0 { Mt::new_with_key([low]) } else { Mt::new_with_key([low, high]) })
    }

    /// `random()`: uniform in [0, 1).
    pub(crate) fn unit(&mut self) -> f64 {
        let (high, low) = (self.0.next_u32() >> 5, self.0.next_u32() >> 6);
        (f64::from(high) * 67_108_864.0 + f64::from(low)) / 9_007_199_254_740_992.0
    }

    /// `choices(population, k=n)` of a population of `n`: one index.
    pub(crate) fn choice(&mut self, n: usize) -> usize {
        (self.unit() * n as f64) as usize
    }

    /// `_randbelow(n)` for `0 < n < 2^32`: words of as many bits as `n` has, until one is below it.
    fn below(&mut self, n: usize) -> usize {
        let bits = usize::BITS - n.leading_zeros();
        loop {
            let word = (self.0.next_u32() >> (32 - bits)) as usize;
            if word < n {
                return word;
            }
        }
    }

    /// `sample(range(n), k)`; `None` if there are fewer than `k`.
    pub(crate) fn sample(&mut self, n: usize, k: usize) -> Option<Vec<usize>> {
        if k > n {
            return None;
        }
        let set_size = if k > 5 { 21 + 4_usize.pow(((k * 3) as f64).log(4.0).ceil() as u32) } else { 21 };
        if n <= set_size {
            let mut pool: Vec<usize> = (0..n).collect();
            let draw = |i: usize| {
                let j = self.below(n - i);
                let drawn = pool[j];
                pool[j] = pool[n - i - 1];
                drawn
            };
            return Some((0..k).map(draw).collect());
        }
        let mut taken = BTreeSet::new();
        let draw = |_| {
            loop {
                let j = self.below(n);
                if taken.insert(j) {
                    return j;
                }
            }
        };
        Some((0..k).map(draw).collect())
    }
}

/// `str.isspace` of a character.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `len(re.split(r"\s+", text))`.
pub(crate) fn words(text: &str) -> usize {
    let mut runs = 0;
    let mut inside = false;
    for c in text.chars() {
        runs += usize::from(is_space(c) && !inside);
        inside = is_space(c);
    }
    runs + 1
}

/// `numpy.argmax`: the first of the largest, or the first that is not a number.
pub(crate) fn argmax(values: &[f64]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if values[best].is_nan() {
            break;
        }
        if value.is_nan() || *value > values[best] {
            best = index;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Golden {
        seed: u64,
        unit: Vec<f64>,
        samples: Vec<(usize, usize, Vec<usize>)>,
        choices: Vec<(usize, Vec<usize>)>,
    }

    /// `golden/python_random.json`: one generator a seed, drawn from in this order (`scripts/reference_lm_eval.py`).
    #[test]
    fn draws_are_those_of_python() {
        let goldens: Vec<Golden> = serde_json::from_str(include_str!("../../golden/python_random.json")).unwrap();
        assert!(goldens.len() > 3);
        for golden in goldens {
            let mut random = Random::new(golden.seed);
            assert_eq!(golden.unit.iter().map(|_| random.unit()).collect::<Vec<_>>(), golden.unit, "{}", golden.seed);
            for (n, k, want) in golden.samples {
                assert_eq!(random.sample(n, k).unwrap(), want, "{} of {n}, seed {}", k, golden.seed);
            }
            for (n, want) in golden.choices {
                assert_eq!(want.iter().map(|_| random.choice(n)).collect::<Vec<_>>(), want);
            }
        }
        assert!(Random::new(0).sample(2, 3).is_none());
    }

    #[test]
    fn words_and_the_largest_are_counted_as_python_does() {
        // len(re.split(r"\s+", x)): an edge of white space counts an empty word
        for (text, count) in [("", 1), ("a", 1), ("a b", 2), (" a\n\n b ", 4), ("a\u{1d}b\u{a0}c", 3)] {
            assert_eq!(words(text), count, "{text:?}");
        }
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
        assert_eq!(argmax(&[1.0, f64::NAN, 3.0]), 1);
        assert_eq!(argmax(&[f64::NEG_INFINITY, f64::NEG_INFINITY]), 0);
    }
}
