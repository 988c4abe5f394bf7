//! Synaptic saliency: `Σ |w · ∂loss/∂w|` over all entries of the sub-blocks' matrices.
//!
//! Source: SNIP's measure, arXiv:1810.02340, summed over the network as in arXiv:2101.08134. Deviation: no normalisation
//! by the sum, which would make the score of every candidate 1.

use taper_base::registry::{Entry, params};

use super::NoParameters;
use crate::{Needs, Observation, Proxy, ProxyError};

const NAME: &str = "synaptic-saliency";

/// The table's entry.
pub const ENTRY: Entry<dyn Proxy> = Entry {
    name: NAME,
    summary: "sum of |weight * gradient|",
    source: "arXiv:1810.02340",
    build: |value| params::<NoParameters>(NAME, value).map(|_| Box::new(SynapticSaliency) as _),
};

#[derive(Debug)]
struct SynapticSaliency;

impl Proxy for SynapticSaliency {
    fn needs(&self) -> Needs {
        Needs { magnitudes: true, ..Needs::default() }
    }

    fn score(&self, seen: &Observation) -> Result<f64, ProxyError> {
        let all: Option<Vec<f64>> = seen.kept().map(|seen| seen.saliency).collect();
        let missing = ProxyError::NotObserved { proxy: NAME, what: "the saliency" };
        all.map(|all| all.into_iter().sum()).ok_or(missing)
    }
}
