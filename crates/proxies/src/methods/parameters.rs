//! Number of weights: what every proxy must beat among candidates of different sizes, and cannot tell within one size.

use taper_base::registry::{Entry, params};

use super::NoParameters;
use crate::{Needs, Observation, Proxy, ProxyError};

const NAME: &str = "parameters";

/// The table's entry.
pub const ENTRY: Entry<dyn Proxy> = Entry {
    name: NAME,
    summary: "number of weights: the control for candidates of different sizes",
    source: "control",
    build: |value| params::<NoParameters>(NAME, value).map(|_| Box::new(Parameters) as _),
};

#[derive(Debug)]
struct Parameters;

impl Proxy for Parameters {
    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn score(&self, seen: &Observation) -> Result<f64, ProxyError> {
        Ok(seen.parameters as f64)
    }
}
