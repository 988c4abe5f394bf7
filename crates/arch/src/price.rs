//! What a sub-block costs at a size, in what the budget counts.

use crate::latency::Grid;

/// A cost as a function of a slot's size `[a, b]`; never less for more.
#[derive(Debug, Clone)]
pub(crate) enum Price {
    /// `fixed + b·(per_b + a·per_ab)` weights.
    Weights([u64; 3]),
    /// Nanoseconds between measured sizes.
    Time(Grid),
}

impl Price {
    /// Of weights, from three values of the formula; the second axis of an MLP is 1 and counts nothing.
    pub(crate) fn weights(mut f: impl FnMut(usize, usize) -> u64) -> Self {
        let (one, wide, tall) = (f(1, 1), f(2, 1), f(1, 2));
        let per_ab = wide - one;
        if tall == one {
            return Self::Weights([one - per_ab, 0, per_ab]);
        }
        Self::Weights([2 * one - tall, tall - one - per_ab, per_ab])
    }

    pub(crate) fn of(&self, [a, b]: [usize; 2]) -> u64 {
        match self {
            Self::Weights([fixed, per_b, per_ab]) => fixed + b as u64 * (per_b + a as u64 * per_ab),
            Self::Time(grid) => grid.at([a, b]),
        }
    }

    /// A number that all costs are multiples of.
    pub(crate) fn divisor(&self) -> u64 {
        match self {
            Self::Weights(terms) => terms.iter().copied().fold(0, gcd),
            Self::Time(_) => 1,
        }
    }
}

pub(crate) fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
