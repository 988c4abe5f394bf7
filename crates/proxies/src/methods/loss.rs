//! Loss of the pruned candidate before healing: `score = −loss`, nats per token.
//!
//! The cheapest strong baseline, which the papers seldom show: one forward pass.

use taper_base::registry::{Entry, params};

use super::NoParameters;
use crate::{Needs, Observation, Proxy, ProxyError};

const NAME: &str = "loss";

/// The table's entry.
pub const ENTRY: Entry<dyn Proxy> = Entry {
    name: NAME,
    summary: "loss of the pruned candidate before healing, negated: the control to beat",
    source: "control",
    build: |value| params::<NoParameters>(NAME, value).map(|_| Box::new(Loss) as _),
};

#[derive(Debug)]
struct Loss;

impl Proxy for Loss {
    fn needs(&self) -> Needs {
        Needs { loss: true, ..Needs::default() }
    }

    fn score(&self, seen: &Observation) -> Result<f64, ProxyError> {
        seen.loss.map(|loss| -loss).ok_or(ProxyError::NotObserved { proxy: NAME, what: "the loss" })
    }
}
