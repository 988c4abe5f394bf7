//! What is searched: a model, what may become of it, and what is known of it before any score.

use serde::{Deserialize, Serialize};
use taper_arch::{ArchError, Architecture, BudgetRange, ModelSpec, SearchSpace, SubBlock};
use taper_base::rng::{Rng, stream};

use crate::SearchError;
use crate::archive::Archive;

/// One search problem.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// The model.
    pub spec: ModelSpec,
    /// What may be changed.
    pub space: SearchSpace,
    /// What the result may cost.
    pub range: BudgetRange,
    /// What calibration says of each sub-block.
    pub importance: Importance,
    /// Of all random numbers.
    pub seed: u64,
}

/// Importance of each sub-block from calibration, `I_l = mean(|W_l| * ||X_l||_2)`, >= 0; 0 where the model has none.
///
/// # Shapes
/// `[block][attention, mlp]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Importance {
    /// One entry a block.
    pub blocks: Vec<[f64; 2]>,
}

/// Draws of one stream before a child is given up.
pub(crate) const TRIES: usize = 64;

impl Problem {
    /// Checks the importance, and that the budget can be met at all.
    pub(crate) fn check(&self) -> Result<(), SearchError> {
        /// A search space with gaps may fail one draw and not the next; each failure is a long exact search.
        const DRAWS: u64 = 8;
        let (want, got) = (self.spec.blocks.len(), self.importance.blocks.len());
        if want != got {
            return Err(SearchError::Blocks { want, got });
        }
        for (block, values) in self.importance.blocks.iter().enumerate() {
            for (half, got) in SubBlock::BOTH.into_iter().zip(*values) {
                if !(got.is_finite() && got >= 0.0) {
                    return Err(SearchError::Importance { block, half, got });
                }
            }
        }
        let mut last = Ok(());
        for draw in 0..DRAWS {
            last = self.space.random(&self.spec, self.range, &mut stream(self.seed, "check", draw, 0)).map(drop);
            if last.is_ok() {
                break;
            }
        }
        Ok(last?)
    }

    /// An architecture by chance that was not asked for; `None` if [`TRIES`] draws gave none.
    pub(crate) fn fresh(&self, archive: &Archive, rng: &mut impl Rng) -> Result<Option<Architecture>, SearchError> {
        for _ in 0..TRIES {
            let drawn = feasible(self.space.random(&self.spec, self.range, rng))?;
            if let Some(arch) = drawn.filter(|arch| archive.is_new(arch)) {
                return Ok(Some(arch));
            }
        }
        Ok(None)
    }
}

/// `None` where one draw did not meet the budget: [`Problem::check`] has seen that others do.
pub(crate) fn feasible(drawn: Result<Architecture, ArchError>) -> Result<Option<Architecture>, SearchError> {
    match drawn {
        Ok(arch) => Ok(Some(arch)),
        Err(ArchError::Infeasible { .. }) => Ok(None),
        Err(other) => Err(other.into()),
    }
}
