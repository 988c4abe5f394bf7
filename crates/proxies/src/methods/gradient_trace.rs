//! Gradient-trace correlation: does the pruned model want to move as the whole one does?
//!
//! Per kept sub-block `s`, `ρ_s` is the similarity of its gradient with the whole model's on the same tokens, and
//! `Φ = Σ_s kept_s · ρ_s`, `kept_s` its kept ratio of heads or channels (TraceNAS, arXiv:2602.02891, eq. 6-8).
//!
//! Options: `aggregation: none` is the unweighted sum that the paper's released code computes; `similarity` is `pearson`
//! (the paper's), `cosine` or `dot`; `sketch_rank` compares random projections (the paper's LoRA rank) or `dense`
//! gradients; `removed: zero` counts the gradients of removed units as 0, `drop` leaves them out.
//! Deviations from the paper: see `sketch.rs` for o and down; no zero entries of LoRA's `A` in the vectors; removed
//! units are removed from the forward pass exactly (the released code zeroes q but not o, so that under grouped-query
//! attention a removed head still writes the mean of its values).

use std::fmt;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};
use taper_base::registry::{Entry, params};

use crate::{Needs, Observation, Projection, Proxy, ProxyError, Seen};

const NAME: &str = "gradient-trace";

/// The table's entry.
pub const ENTRY: Entry<dyn Proxy> = Entry {
    name: NAME,
    summary: "correlation of the candidate's gradients with the whole model's, weighted by kept ratios",
    source: "arXiv:2602.02891",
    build: |value| params::<GradientTrace>(NAME, value).map(|proxy| Box::new(proxy) as _),
};

/// The proxy and its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GradientTrace {
    /// How sub-blocks are summed.
    pub aggregation: Aggregation,
    /// How gradients are compared.
    pub similarity: Similarity,
    /// Numbers a unit's gradient is projected to, or `dense`.
    #[serde(deserialize_with = "projection")]
    pub sketch_rank: Projection,
    /// What the gradient of a removed unit counts as.
    pub removed: Removed,
}

/// How sub-blocks are summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aggregation {
    /// Weighted by their kept ratio.
    Kept,
    /// All alike.
    None,
}

/// How two gradients are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Similarity {
    /// Pearson's correlation.
    Pearson,
    /// Cosine of their angle.
    Cosine,
    /// Inner product.
    Dot,
}

/// What the gradient of a removed unit counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Removed {
    /// Zero.
    Zero,
    /// It is left out of both sides.
    Drop,
}

impl Default for GradientTrace {
    fn default() -> Self {
        Self {
            aggregation: Aggregation::Kept,
            similarity: Similarity::Pearson,
            sketch_rank: Projection::Rank(64),
            removed: Removed::Zero,
        }
    }
}

fn projection<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Projection, D::Error> {
    struct Rank;
    impl Visitor<'_> for Rank {
        type Value = Projection;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("`sketch_rank` as a whole number from 1, or `dense`")
        }
        fn visit_u64<E: Error>(self, rank: u64) -> Result<Projection, E> {
            let fits = usize::try_from(rank).ok().filter(|rank| (1..=1 << 20).contains(rank));
            fits.map(Projection::Rank).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Unsigned(rank), &self))
        }
        fn visit_str<E: Error>(self, text: &str) -> Result<Projection, E> {
            if text == "dense" {
                Ok(Projection::Dense)
            } else {
                Err(E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
        }
    }
    deserializer.deserialize_any(Rank)
}

impl GradientTrace {
    /// `ρ` of one sub-block.
    ///
    /// # Errors
    /// [`ProxyError::NotObserved`] without a trace.
    pub fn correlation(&self, seen: &Seen) -> Result<f64, ProxyError> {
        let moments = match self.removed {
            Removed::Zero => seen.trace_with_removed,
            Removed::Drop => seen.trace,
        };
        let moments = moments.ok_or(ProxyError::NotObserved { proxy: NAME, what: "the gradient trace" })?;
        Ok(match self.similarity {
            Similarity::Pearson => moments.pearson(),
            Similarity::Cosine => moments.cosine(),
            Similarity::Dot => moments.xy,
        })
    }
}

impl Proxy for GradientTrace {
    fn needs(&self) -> Needs {
        Needs { trace: Some(self.sketch_rank), ..Needs::default() }
    }

    fn score(&self, seen: &Observation) -> Result<f64, ProxyError> {
        let weighted = |seen: &Seen| {
            let weight = if self.aggregation == Aggregation::Kept { seen.kept } else { 1.0 };
            Ok(weight * self.correlation(seen)?)
        };
        seen.kept().map(weighted).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use taper_base::Fingerprint;
    use taper_kernels::Moments;

    fn observation() -> Observation {
        let half = Seen {
            kept: 0.5,
            trace: Some(Moments::of(&[1.0, 2.0], &[1.0, 2.0])),
            trace_with_removed: Some(Moments::of(&[1.0, 2.0, 0.0], &[1.0, 2.0, 0.0])),
            ..Seen::default()
        };
        let other = Seen { kept: 1.0, trace: Some(Moments::of(&[1.0, 0.0], &[0.0, 1.0])), ..half };
        let blocks = vec![[Some(half), None], [None, Some(other)]];
        Observation { id: Fingerprint::of_bytes(b""), parameters: 1, loss: None, blocks }
    }

    fn score(options: serde_json::Value) -> f64 {
        crate::build(NAME, &options).unwrap().score(&observation()).unwrap()
    }

    #[test]
    fn sums_are_hand_computed_ones() {
        assert!((score(json!({})) - 1.5).abs() < 1e-12); // .5 * 1 + 1 * 1
        assert!((score(json!({"aggregation": "none"})) - 2.0).abs() < 1e-12);
        assert!((score(json!({"removed": "drop"})) - (0.5 - 1.0)).abs() < 1e-12); // the second correlates by -1
        assert!((score(json!({"removed": "drop", "similarity": "cosine"})) - 0.5).abs() < 1e-12);
        assert!((score(json!({"removed": "drop", "similarity": "dot"})) - 2.5).abs() < 1e-12); // .5 * 5 + 0
    }

    #[test]
    fn options_are_strict() {
        let refusal = |options| crate::build(NAME, &options).unwrap_err().to_string();
        assert!(refusal(json!({"sketch_rnk": 3})).starts_with("gradient-trace: unknown field `sketch_rnk`"));
        assert!(refusal(json!({"sketch_rank": 0})).contains("expected `sketch_rank` as a whole number"));
        assert!(refusal(json!({"sketch_rank": "sparse"})).contains("or `dense`"));
        assert!(refusal(json!({"similarity": "l2"})).contains("unknown variant `l2`"));
    }

    #[test]
    fn without_a_trace_there_is_no_score() {
        let blind = Observation { blocks: vec![[Some(Seen::default()), None]], ..observation() };
        let error = GradientTrace::default().score(&blind).unwrap_err().to_string();
        assert_eq!(error, "gradient-trace: the gradient trace was not observed");
    }
}
