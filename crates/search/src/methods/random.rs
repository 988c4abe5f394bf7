//! Random search: legal architectures inside the budget by chance, the yardstick that every strategy must beat.
//!
//! Draws are [`SearchSpace::random`](taper_arch::SearchSpace::random): broad in depth and width, not uniform over the space.
//! No paper; it is also the control "random" of every ranking claim. Generations of 30 only so that scoring can be stored
//! and run in parallel as with other strategies.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use taper_arch::Architecture;
use taper_base::registry::Entry;
use taper_base::rng::stream;

use crate::archive::Archive;
use crate::parameters::{parse, want};
use crate::{Problem, Proposal, Search, SearchError, Strategy};

const NAME: &str = "random";

/// Proposals at once.
const GENERATION: u64 = 30;

pub(crate) const ENTRY: Entry<dyn Strategy> = Entry {
    name: NAME,
    summary: "legal architectures inside the budget by chance",
    source: "taper",
    build: |value| {
        let random: Random = parse(NAME, value)?;
        want(NAME, "trials", &random.trials, random.trials > 0, "1 or more")?;
        Ok(Box::new(random))
    },
};

/// Parameters of `random`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Random {
    /// Candidates in all, 1 or more; fewer if the search space has no more.
    pub trials: u64,
}

impl Default for Random {
    fn default() -> Self {
        Self { trials: 1500 }
    }
}

impl Strategy for Random {
    fn trials(&self) -> u64 {
        self.trials
    }

    fn start(&self, problem: Problem) -> Result<Box<dyn Search>, SearchError> {
        problem.check()?;
        Ok(Box::new(Running { problem, left: self.trials, archive: Archive::default() }))
    }
}

struct Running {
    problem: Problem,
    left: u64,
    archive: Archive,
}

impl Search for Running {
    fn ask(&mut self) -> Result<Vec<Proposal>, SearchError> {
        self.archive.ready()?;
        let mut proposals = Vec::new();
        for child in 0..self.left.min(GENERATION) {
            let mut rng = stream(self.problem.seed, NAME, self.archive.generation(), child);
            if let Some(arch) = self.problem.fresh(&self.archive, &mut rng)? {
                proposals.push(self.archive.claim(arch, NAME, child, "random"));
            }
        }
        self.left -= proposals.len() as u64;
        self.archive.close();
        Ok(proposals)
    }

    fn tell(&mut self, scores: &[Option<f64>]) -> Result<(), SearchError> {
        self.archive.tell(scores)
    }

    fn best(&self) -> Option<(&Architecture, f64)> {
        self.archive.best()
    }

    fn threshold(&self, known: &[f64]) -> Option<f64> {
        self.archive.nth_best(1, known)
    }
}

#[cfg(test)]
mod tests {
    use crate::build;
    use serde_json::json;

    #[test]
    fn parameters_are_strict() {
        assert_eq!(build("random", &json!({"trials": 7})).unwrap().trials(), 7);
        let refusal = |params| build("random", &params).unwrap_err().to_string();
        assert_eq!(refusal(json!({"trials": 0})), "random: `trials` is 0, wanted 1 or more");
        assert_eq!(refusal(json!({"trials": -1})), "random: `trials`: invalid value: integer `-1`, expected u64");
        assert_eq!(refusal(json!({"trails": 1})), "random: unknown field `trails`, expected `trials`");
        assert!(refusal(json!(3)).starts_with("random: invalid type"));
    }
}
