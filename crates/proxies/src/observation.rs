//! What one pass saw of a candidate.

use taper_base::Fingerprint;
use taper_kernels::Moments;

/// A candidate as seen by one pass over the tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// Who it is: a digest of what it keeps.
    pub id: Fingerprint,
    /// All weights.
    pub parameters: u64,
    /// Mean loss, nats per token, if looked at.
    pub loss: Option<f64>,
    /// Attention and MLP of each block; `None` is removed.
    pub blocks: Vec<[Option<Seen>; 2]>,
}

/// A sub-block that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Seen {
    /// Kept ratio of its heads or channels, in (0, 1].
    pub kept: f64,
    /// Its gradients `x` against the whole model's `y`, over the units it keeps, if looked at.
    pub trace: Option<Moments>,
    /// The same with the removed units' gradients as zeros.
    pub trace_with_removed: Option<Moments>,
    /// Squared norm of its dense gradient, if looked at.
    pub gradient_square: Option<f64>,
    /// `Σ |w · ∂loss/∂w|`, if looked at.
    pub saliency: Option<f64>,
    /// `Σ |w|` of its matrices, if looked at.
    pub weights: Option<f64>,
}

impl Seen {
    /// As if all gradients, the candidate's and the whole model's, were `factor` times as large.
    pub(crate) fn scaled(self, factor: f64) -> Self {
        let square = factor * factor;
        let moments = |m: Moments| Moments {
            n: m.n,
            x: m.x * factor,
            xx: m.xx * square,
            y: m.y * factor,
            yy: m.yy * square,
            xy: m.xy * square,
        };
        Self {
            kept: self.kept,
            trace: self.trace.map(moments),
            trace_with_removed: self.trace_with_removed.map(moments),
            gradient_square: self.gradient_square.map(|sum| sum * square),
            saliency: self.saliency.map(|sum| sum * factor),
            weights: self.weights,
        }
    }
}

impl Observation {
    /// All sub-blocks that are kept, in the order of the data.
    pub fn kept(&self) -> impl Iterator<Item = &Seen> {
        self.blocks.iter().flatten().flatten()
    }
}
