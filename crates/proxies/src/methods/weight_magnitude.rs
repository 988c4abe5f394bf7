//! Weight magnitude: `Σ |w|` over all entries of the sub-blocks' matrices that are kept.
//!
//! Among candidates of one size the largest is what ranking all units by their L1 norm keeps, as in arXiv:1608.08710 (§3.1, over
//! all layers at once). Looks at no data. Deviation: which units a size keeps is calibration's ranking, as for every proxy.

use taper_base::registry::{Entry, params};

use super::NoParameters;
use crate::{Needs, Observation, Proxy, ProxyError};

const NAME: &str = "weight-magnitude";

/// The table's entry.
pub const ENTRY: Entry<dyn Proxy> = Entry {
    name: NAME,
    summary: "sum of |weight| of all that is kept: the control that looks at no data",
    source: "arXiv:1608.08710",
    build: |value| params::<NoParameters>(NAME, value).map(|_| Box::new(WeightMagnitude) as _),
};

#[derive(Debug)]
struct WeightMagnitude;

impl Proxy for WeightMagnitude {
    fn needs(&self) -> Needs {
        Needs { weights: true, ..Needs::default() }
    }

    fn score(&self, seen: &Observation) -> Result<f64, ProxyError> {
        let all: Option<Vec<f64>> = seen.kept().map(|seen| seen.weights).collect();
        let missing = ProxyError::NotObserved { proxy: NAME, what: "the weights" };
        all.map(|all| all.into_iter().sum()).ok_or(missing)
    }
}
