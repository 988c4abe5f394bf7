//! Uniform architectures: every block keeps the same heads, KV groups and channels, and all blocks stay.
//!
//! The baseline that a search has to beat, and the only shape that stock engines load without remote code. All such
//! architectures inside the budget are scored, mostly one to three. No paper.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use taper_arch::{ArchError, Architecture, AttentionGenes, BlockGenes, MlpGenes, Workload, cost};
use taper_base::registry::Entry;

use crate::archive::Archive;
use crate::parameters::parse;
use crate::{Problem, Proposal, Search, SearchError, Strategy};

const NAME: &str = "uniform";

/// More cannot lie within a budget's tolerance in practice; what is beyond is not asked for.
const MOST: usize = 64;

pub(crate) const ENTRY: Entry<dyn Strategy> = Entry {
    name: NAME,
    summary: "every block alike: the baseline, and what stock engines load without remote code",
    source: "taper",
    build: |value| Ok(Box::new(parse::<Uniform>(NAME, value)?)),
};

/// `uniform` has no parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Uniform {}

impl Strategy for Uniform {
    fn trials(&self) -> u64 {
        MOST as u64
    }

    fn start(&self, problem: Problem) -> Result<Box<dyn Search>, SearchError> {
        problem.check()?;
        Ok(Box::new(Running { left: inside(&problem)?, archive: Archive::default() }))
    }
}

/// All uniform architectures inside the budget, largest first.
fn inside(problem: &Problem) -> Result<Vec<Architecture>, SearchError> {
    let Problem { spec, space, range, .. } = problem;
    let place = || "blocks".to_owned();
    if spec.uniform_block().is_none() {
        let reason = "differ in this model already, so no uniform architecture can be made of it".to_owned();
        return Err(ArchError::Mismatch { place: place(), reason }.into());
    }
    let (mut found, mut reached) = (Vec::new(), Vec::new());
    for heads_per_group in space.head_choices(spec, 0) {
        for groups in space.group_choices(spec, 0) {
            for channels in space.channel_choices(spec, 0) {
                let attention = AttentionGenes { kind: Default::default(), heads_per_group, groups, bits: None };
                let block = BlockGenes { attention: Some(attention), mlp: Some(MlpGenes { channels, bits: None }) };
                let blocks = vec![block; spec.blocks.len()];
                let arch = Architecture { blocks, ..Architecture::whole(spec) };
                let costs = cost(spec, &arch, Workload::default())?;
                let count = range.counted.of(&costs);
                reached.push(count);
                if range.holds(&costs) {
                    found.push((count, arch));
                }
            }
        }
    }
    if found.is_empty() {
        let below = reached.iter().copied().filter(|count| *count < range.least).max();
        let above = reached.iter().copied().filter(|count| *count > range.most).min();
        let shown = |count| range.counted.shown(count);
        let show = |count: Option<u64>| count.map_or("none".to_owned(), shown);
        let reason = format!(
            "no uniform architecture has {} between {} and {}; the nearest have {} and {}: raise the tolerance or lower `channels_multiple`",
            range.counted.unit(),
            shown(range.least),
            shown(range.most),
            show(below),
            show(above)
        );
        return Err(ArchError::Mismatch { place: place(), reason }.into());
    }
    found.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    Ok(found.into_iter().map(|(_, arch)| arch).take(MOST).collect())
}

struct Running {
    left: Vec<Architecture>,
    archive: Archive,
}

impl Search for Running {
    fn ask(&mut self) -> Result<Vec<Proposal>, SearchError> {
        self.archive.ready()?;
        let all = std::mem::take(&mut self.left).into_iter().zip(0..);
        let proposals = all.map(|(arch, child)| self.archive.claim(arch, NAME, child, NAME)).collect();
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
    use super::*;
    use crate::{Importance, build};
    use serde_json::json;
    use taper_arch::budget::Counted;
    use taper_arch::spec::example;
    use taper_arch::{BudgetRange, SearchSpace};

    fn problem(least: u64, most: u64) -> Problem {
        let importance = Importance { blocks: vec![[1.0; 2]; 3] };
        let range = BudgetRange { counted: Counted::NonEmbedding, least, most };
        Problem { spec: example(), space: SearchSpace::default(), range, importance, seed: 0 }
    }

    #[test]
    fn all_that_fit_are_asked_once_and_every_block_is_alike() {
        // a block has 1024·h + 1024 + 96·c + 64 weights: h of 1 or 2 heads a group, c of 32 or 64 channels
        let mut search = build("uniform", &json!({})).unwrap().start(problem(10_000, 30_000)).unwrap();
        let texts: Vec<String> = search.ask().unwrap().iter().map(|p| p.architecture.to_string()).collect();
        assert_eq!(
            texts,
            ["2x2/64 2x2/64 2x2/64", "1x2/64 1x2/64 1x2/64", "2x2/32 2x2/32 2x2/32", "1x2/32 1x2/32 1x2/32"]
        );
        search.tell(&[Some(0.0), None, Some(2.0), Some(1.0)]).unwrap();
        assert_eq!(search.best().unwrap().0.to_string(), texts[2]);
        assert!(search.ask().unwrap().is_empty());
    }

    #[test]
    fn a_budget_between_sizes_names_the_nearest() {
        let refusal = build("uniform", &json!(null)).unwrap().start(problem(21_000, 22_500)).err().unwrap().to_string();
        let near = "no uniform architecture has non-embedding parameters between 21000 and 22500; the nearest have 18656 and 24800";
        assert!(refusal.contains(near), "{refusal}");
        assert!(build("uniform", &json!({"trials": 1})).is_err());
    }
}
