//! A number drawn for each candidate, uniform in [0, 1): what a search without information finds.

use serde::Deserialize;
use taper_base::registry::{Entry, params};
use taper_base::rng::{RngExt, stream};

use crate::{Needs, Observation, Proxy, ProxyError};

const NAME: &str = "random";

/// The table's entry.
pub const ENTRY: Entry<dyn Proxy> = Entry {
    name: NAME,
    summary: "a random number, the same each time for one candidate: the control for the search",
    source: "control",
    build: |value| params::<Random>(NAME, value).map(|random| Box::new(random) as _),
};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Random {
    /// Another seed, other numbers.
    seed: u64,
}

impl Proxy for Random {
    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn score(&self, seen: &Observation) -> Result<f64, ProxyError> {
        Ok(stream(self.seed, seen.id.as_str(), 0, 0).random::<f64>())
    }
}
