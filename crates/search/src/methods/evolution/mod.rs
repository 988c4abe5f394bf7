//! Evolution over depth and width: the search of TraceNAS.
//!
//! Each generation has `population` children. Parents are two of the `elites` best so far. With probability `crossover`
//! depth is crossed over a contiguous range of blocks and width interpolated, `κ = b·κ₁ + (1-b)·κ₂`; otherwise the child is
//! its first parent. Then bits of depth are flipped and widths jittered, `κ · N(1, sigma)`, and
//! [`SearchSpace::repair`](taper_arch::SearchSpace::repair) brings the child to the least depth and into the budget. The best of
//! the archive is the result. Generation 0 comes from importance (see `init`).
//!
//! Source: TraceNAS, arXiv:2602.02891, Algorithm 1 and Table 5 (defaults here), which leave open what is marked (*).
//!
//! Differences from the paper:
//! - Over budget is repaired, not scored -∞: no trial is spent on what cannot win, and the result is never outside.
//! - Population 30 times 50 generations are its 1500 candidates, so elites are carried beside 30 new children, not among
//!   them, and are never scored again.
//! - (*) A child's depth mutates with probability `mutation_depth`; then one bit flips, and any further one with the
//!   probability 1 / bits. Each width mutates with `mutation_width` by itself. 0.2 a bit would flip 13 of 64 each time.
//! - (*) `b` is uniform in 0 to 1, one a child, drawn beside one range for attentions and MLPs.
//! - A removed half has no width in the genome: a child that keeps it takes it from the parent that does, and a half that a
//!   flipped bit brings back starts at the mean kept ratio of its kind.
//! - Small counts of heads would swallow interpolation and jitter, so units are rounded up or down by chance.
//! - Halves may be tied, heads stay even over KV groups and channels snap to multiples, as the search space says.
//!
//! Differences from the released code: importance rather than random start, 50 generations rather than 10; attention and
//! MLP removed independently and in any block (there: tied, and only in the later half); all elites carried (there half of
//! them), parents always elites; crossover and mutation one after the other (there one of three modes, and a half additive
//! jitter); no window below the budget but the recipe's tolerance; the best of the archive is returned; duplicates are
//! compared by the whole genome (there by depth alone).

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use taper_arch::Architecture;
use taper_base::registry::{Entry, MethodError};
use taper_base::rng::{Rng, RngExt, stream};

use crate::archive::Archive;
use crate::parameters::{parse, want};
use crate::problem::{TRIES, feasible};
use crate::{Problem, Proposal, Search, SearchError, Strategy};

mod init;
mod operators;
#[cfg(test)]
mod tests;

const NAME: &str = "evolution";

pub(crate) const ENTRY: Entry<dyn Strategy> = Entry {
    name: NAME,
    summary: "crossover and mutation of the best so far, started from importance",
    source: "arXiv:2602.02891",
    build: |value| {
        let evolution: Evolution = parse(NAME, value)?;
        evolution.check()?;
        Ok(Box::new(evolution))
    },
};

/// Parameters of `evolution`; the defaults are the paper's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Evolution {
    /// Candidates a generation, 1 or more.
    pub population: usize,
    /// How many of the best so far are parents, 1 to `population`.
    pub elites: usize,
    /// Generations, the first included, 1 or more.
    pub generations: u64,
    /// Probability that a child has two parents, in 0 to 1.
    pub crossover: f64,
    /// Probability that a child's depth mutates, in 0 to 1.
    pub mutation_depth: f64,
    /// Probability that a width mutates, for each half of each block, in 0 to 1.
    pub mutation_width: f64,
    /// Standard deviation of the factor that a width is jittered with, above 0 and at most 1. The released code's is 0.3.
    pub sigma: f64,
    /// What the first generation is made of.
    pub init: Init,
}

/// What a first generation is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Init {
    /// Kept ratios in proportion to importance, the uniform architecture, and jittered kin that also lack the least
    /// important halves.
    Importance,
    /// The uniform architecture, and jittered kin that also lack halves by chance.
    Uniform,
    /// By chance.
    Random,
}

impl fmt::Display for Init {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Importance => "importance",
            Self::Uniform => "uniform",
            Self::Random => "random",
        })
    }
}

impl Default for Evolution {
    fn default() -> Self {
        Self {
            population: 30,
            elites: 10,
            generations: 50,
            crossover: 0.7,
            mutation_depth: 0.2,
            mutation_width: 0.2,
            sigma: 0.3,
            init: Init::Importance,
        }
    }
}

impl Evolution {
    fn check(&self) -> Result<(), MethodError> {
        const MOST: u64 = 1_000_000; // of population and generations: their product fits 64 bits
        let counts = format!("1 to {MOST}");
        let counted = |count: u64| (1..=MOST).contains(&count);
        want(NAME, "population", &self.population, counted(self.population as u64), &counts)?;
        let elites = format!("1 to `population`, {}", self.population);
        want(NAME, "elites", &self.elites, (1..=self.population).contains(&self.elites), &elites)?;
        want(NAME, "generations", &self.generations, counted(self.generations), &counts)?;
        for (key, chance) in [
            ("crossover", self.crossover),
            ("mutation_depth", self.mutation_depth),
            ("mutation_width", self.mutation_width),
        ] {
            want(NAME, key, &chance, (0.0..=1.0).contains(&chance), "a probability, 0 to 1")?;
        }
        let changes = [self.crossover, self.mutation_depth, self.mutation_width].iter().any(|chance| *chance > 0.0);
        let wanted = "above 0, or one of the mutations: nothing would ever change";
        want(NAME, "crossover", &self.crossover, changes, wanted)?;
        want(NAME, "sigma", &self.sigma, self.sigma > 0.0 && self.sigma <= 1.0, "above 0 and at most 1")
    }
}

impl Strategy for Evolution {
    fn trials(&self) -> u64 {
        self.population as u64 * self.generations
    }

    fn start(&self, problem: Problem) -> Result<Box<dyn Search>, SearchError> {
        problem.check()?;
        Ok(Box::new(Running { problem, evolution: self.clone(), archive: Archive::default() }))
    }
}

struct Running {
    problem: Problem,
    evolution: Evolution,
    archive: Archive,
}

/// A child before its duplicates are looked for.
type Draw = Option<(Architecture, &'static str)>;

impl Running {
    /// A new architecture for `child`, by chance where its own stream finds none.
    fn propose(&self, elites: &[Architecture], child: u64) -> Result<Draw, SearchError> {
        let generation = self.archive.generation();
        let mut rng = stream(self.problem.seed, NAME, generation, child);
        for attempt in 0..TRIES {
            let drawn = match (generation, elites) {
                (0, _) => init::draw(&self.problem, &self.evolution, (child, attempt), &mut rng)?,
                (_, []) => break, // nothing could be scored yet
                _ => self.breed(elites, &mut rng)?,
            };
            if let Some(new) = drawn.filter(|(arch, _)| self.archive.is_new(arch)) {
                return Ok(Some(new));
            }
        }
        Ok(self.problem.fresh(&self.archive, &mut rng)?.map(|arch| (arch, "random")))
    }

    fn breed(&self, elites: &[Architecture], rng: &mut impl Rng) -> Result<Draw, SearchError> {
        let Evolution { crossover, mutation_depth, mutation_width, sigma, .. } = self.evolution;
        let Problem { spec, space, range, .. } = &self.problem;
        let first = rng.random_range(0..elites.len());
        let crossed = elites.len() > 1 && rng.random_bool(crossover);
        let mut child = elites[first].clone();
        if crossed {
            let second = (first + rng.random_range(1..elites.len())) % elites.len();
            child = operators::crossover(&elites[first], &elites[second], rng);
        }
        if rng.random_bool(mutation_depth) {
            operators::flip(spec, space, &mut child, rng);
        }
        operators::jitter(&mut child, mutation_width, sigma, rng);
        let repaired = feasible(space.repair(spec, *range, &child, rng))?;
        Ok(repaired.map(|arch| (arch, if crossed { "crossover" } else { "mutation" })))
    }
}

impl Search for Running {
    fn ask(&mut self) -> Result<Vec<Proposal>, SearchError> {
        self.archive.ready()?;
        if self.archive.generation() == self.evolution.generations {
            return Ok(Vec::new());
        }
        let elites = self.archive.elites(self.evolution.elites);
        let mut proposals = Vec::with_capacity(self.evolution.population);
        for child in 0..self.evolution.population as u64 {
            if let Some((arch, origin)) = self.propose(&elites, child)? {
                proposals.push(self.archive.claim(arch, NAME, child, origin));
            }
        }
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
        let last = self.archive.generation() == self.evolution.generations; // no parents are wanted any more
        self.archive.nth_best(if last { 1 } else { self.evolution.elites }, known)
    }
}
