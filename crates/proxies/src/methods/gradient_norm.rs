//! Gradient norm: `Σ_s ‖g_s‖₂` over sub-blocks, `g_s` the dense gradient of the mean loss with respect to its matrices.
//!
//! Source: arXiv:2101.08134. Deviation: one norm a sub-block (q, k, v, o together; gate, up, down together), not one a
//! matrix, so that it is stated over the same parts as `gradient-trace`.

use taper_base::registry::{Entry, params};

use super::NoParameters;
use crate::{Needs, Observation, Proxy, ProxyError};

const NAME: &str = "gradient-norm";

/// The table's entry.
pub const ENTRY: Entry<dyn Proxy> = Entry {
    name: NAME,
    summary: "sum of the gradient norms of all sub-blocks",
    source: "arXiv:2101.08134",
    build: |value| params::<NoParameters>(NAME, value).map(|_| Box::new(GradientNorm) as _),
};

#[derive(Debug)]
struct GradientNorm;

impl Proxy for GradientNorm {
    fn needs(&self) -> Needs {
        Needs { magnitudes: true, ..Needs::default() }
    }

    fn score(&self, seen: &Observation) -> Result<f64, ProxyError> {
        let norm = |square: Option<f64>| square.map(f64::sqrt);
        let norms: Option<Vec<f64>> = seen.kept().map(|seen| norm(seen.gradient_square)).collect();
        let missing = ProxyError::NotObserved { proxy: NAME, what: "the gradient's norm" };
        norms.map(|norms| norms.into_iter().sum()).ok_or(missing)
    }
}
