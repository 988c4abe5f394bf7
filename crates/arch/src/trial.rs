//! A scored candidate: the one thing that strategies, stores and reports exchange.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Architecture, Costs};

/// Where a candidate came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// The strategy's name.
    pub strategy: String,
    /// Generation, from 0.
    pub generation: u64,
    /// Number within the generation, from 0.
    pub child: u64,
    /// How it was made: `warm-start`, `crossover`, `mutation`, …
    pub origin: String,
}

/// An architecture, what it scored and what it costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// What was scored.
    pub architecture: Architecture,
    /// Scores by proxy name; each proxy says whether more is better.
    pub scores: BTreeMap<String, f64>,
    /// Exact costs.
    pub costs: Costs,
    /// Where it came from.
    pub provenance: Provenance,
}
