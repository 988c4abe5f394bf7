//! How long an architecture takes to answer.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What latency is stated for: `batch` prompts at once, and so many tokens generated after each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Generation {
    /// Tokens of each prompt.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub prompt: usize,
    /// Tokens generated after each prompt.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub generate: usize,
    /// Sequences at once.
    #[schemars(range(min = 1, max = 1024))]
    pub batch: usize,
}

impl Default for Generation {
    fn default() -> Self {
        Self { prompt: 512, generate: 128, batch: 1 }
    }
}

impl Generation {
    /// Positions that each sequence takes: the token generated last is never fed.
    pub fn positions(&self) -> usize {
        self.prompt + self.generate - 1
    }
}
