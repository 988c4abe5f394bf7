//! How long an architecture takes to answer: a table of measured times, one entry a sub-block size.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use taper_base::Nanos;

use crate::{ArchError, Architecture, AttentionSpec, MlpSpec, ModelSpec};

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

/// Time of one part of a model, for all sequences at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phases {
    /// The prompts.
    pub prefill: Nanos,
    /// One further token of each sequence, at the mean context: attention's time is linear in it.
    pub step: Nanos,
}

impl Phases {
    /// `prefill + (generate − 1) · step`.
    fn total(self, generation: Generation) -> u64 {
        let steps = generation.generate.saturating_sub(1) as u64;
        self.prefill.0.saturating_add(steps.saturating_mul(self.step.0))
    }
}

/// Times of one kind of sub-block at some of its sizes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Times<S> {
    /// The sub-block before it is cut.
    whole: S,
    /// Sizes measured, ascending: `[query heads per group, KV groups]`, or `[channels, [1]]`.
    sizes: [Vec<usize>; 2],
    /// `[sizes[1]][sizes[0]]`, row after row; never less for more.
    times: Vec<Phases>,
}

impl<S> Times<S> {
    /// `times` of `whole` at each of `sizes`. What was measured to take longer than something larger is noise: it counts
    /// as long as the longest that is no larger.
    ///
    /// # Shapes
    /// `times` `[sizes[1]][sizes[0]]`, row after row.
    ///
    /// # Errors
    /// [`ArchError::Mismatch`] if there are no sizes, they do not ascend, or the times are not as many.
    pub fn new(whole: S, sizes: [Vec<usize>; 2], mut times: Vec<Phases>) -> Result<Self, ArchError> {
        let [a, b] = &sizes;
        let ascend = sizes.iter().all(|sizes| !sizes.is_empty() && sizes.is_sorted_by(|a, b| a < b));
        if !ascend || times.len() != a.len() * b.len() {
            let reason = format!("{} times for sizes {a:?} by {b:?}", times.len());
            return Err(ArchError::Mismatch { place: "latency table".to_owned(), reason });
        }
        for at in 0..times.len() {
            let smaller = [(at % a.len() > 0).then(|| at - 1), at.checked_sub(a.len())];
            for before in smaller.into_iter().flatten() {
                let (before, time) = (times[before], times[at]);
                times[at] = Phases { prefill: time.prefill.max(before.prefill), step: time.step.max(before.step) };
            }
        }
        Ok(Self { whole, sizes, times })
    }

    pub(crate) fn grid(&self, generation: Generation) -> Grid {
        let totals = self.times.iter().map(|time| time.total(generation)).collect();
        Grid { sizes: self.sizes.clone(), totals }
    }
}

/// Total times over sizes, to look up between.
#[derive(Debug, Clone)]
pub(crate) struct Grid {
    sizes: [Vec<usize>; 2],
    totals: Vec<u64>, // [sizes[1]][sizes[0]]
}

impl Grid {
    /// Linear between the nearest sizes along each axis; what lies outside counts as the nearest end.
    pub(crate) fn at(&self, size: [usize; 2]) -> u64 {
        let [(a, right), (b, up)] = [0, 1].map(|axis| place(&self.sizes[axis], size[axis]));
        let total = |a: usize, b: usize| {
            let at = b.min(self.sizes[1].len() - 1) * self.sizes[0].len() + a.min(self.sizes[0].len() - 1);
            self.totals[at] as f64
        };
        let row = |b: usize| total(a, b) + right * (total(a + 1, b) - total(a, b));
        (row(b) + up * (row(b + 1) - row(b))).round() as u64
    }
}

/// Index of the last of `sizes` that is at most `size`, and how far on to the next it lies, 0 to 1.
fn place(sizes: &[usize], size: usize) -> (usize, f64) {
    let low = sizes.partition_point(|s| *s <= size).saturating_sub(1);
    let beyond = sizes.get(low + 1).filter(|_| size >= sizes[low]);
    (low, beyond.map_or(0.0, |next| (size - sizes[low]) as f64 / (next - sizes[low]) as f64))
}

/// Measured times of a model's parts: what an architecture takes is their sum. For one machine, number of threads, model
/// and [`Generation`]. Source of the idea: FBNet, arXiv:1812.03443, section 3.3.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatencyTable {
    /// What the times are of.
    pub generation: Generation,
    /// All outside of sub-blocks: embedding, final norm, head, the choice of tokens.
    pub outside: Phases,
    /// One entry for each kind of attention among the blocks, norm included.
    pub attention: Vec<Times<AttentionSpec>>,
    /// One entry for each kind of MLP among the blocks, norm included.
    pub mlp: Vec<Times<MlpSpec>>,
}

impl LatencyTable {
    /// From the prompts to the last token of each, if `arch` is made of `spec`; a removed half takes no time.
    ///
    /// # Errors
    /// [`ArchError::Mismatch`] if `arch` does not fit `spec`, or a block of `spec` was not measured.
    pub fn predict(&self, spec: &ModelSpec, arch: &Architecture) -> Result<Nanos, ArchError> {
        arch.apply(spec)?;
        let mut total = self.outside();
        for (genes, block) in arch.blocks.iter().zip(&spec.blocks) {
            if let Some((genes, whole)) = genes.attention.as_ref().zip(block.attention) {
                total += self.attention(whole)?.at([genes.heads_per_group, genes.groups]);
            }
            if let Some((genes, whole)) = genes.mlp.as_ref().zip(block.mlp) {
                total += self.mlp(whole)?.at([genes.channels, 1]);
            }
        }
        Ok(Nanos(total))
    }

    pub(crate) fn outside(&self) -> u64 {
        self.outside.total(self.generation)
    }

    pub(crate) fn attention(&self, whole: AttentionSpec) -> Result<Grid, ArchError> {
        find(&self.attention, whole, self.generation, "attention")
    }

    pub(crate) fn mlp(&self, whole: MlpSpec) -> Result<Grid, ArchError> {
        find(&self.mlp, whole, self.generation, "mlp")
    }
}

fn find<S: PartialEq + std::fmt::Debug>(
    all: &[Times<S>],
    whole: S,
    generation: Generation,
    half: &str,
) -> Result<Grid, ArchError> {
    let found = all.iter().find(|times| times.whole == whole).map(|times| times.grid(generation));
    found.ok_or_else(|| ArchError::Mismatch {
        place: "latency table".to_owned(),
        reason: format!("has no {half} as {whole:?}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::example;
    use crate::{Workload, cost};
    use std::sync::Arc;

    fn phases(prefill: u64, step: u64) -> Phases {
        Phases { prefill: Nanos(prefill), step: Nanos(step) }
    }

    /// The example's table: attention `100·hpg·groups + 10`, MLP `10·channels`, a step a tenth of it, outside 1000.
    fn table() -> LatencyTable {
        let whole = example().blocks[0];
        let time = |time: u64| phases(time, time / 10);
        let attention = [110, 210, 210, 410].map(time).to_vec();
        LatencyTable {
            generation: Generation { prompt: 4, generate: 11, batch: 1 },
            outside: phases(1000, 100),
            attention: vec![Times::new(whole.attention.unwrap(), [vec![1, 2], vec![1, 2]], attention).unwrap()],
            mlp: vec![Times::new(whole.mlp.unwrap(), [vec![32, 64], vec![1]], [320, 640].map(time).to_vec()).unwrap()],
        }
    }

    #[test]
    fn a_prediction_is_the_hand_computed_sum() {
        let predict = |text: &str| table().predict(&example(), &text.parse().unwrap()).unwrap().0;
        assert_eq!(predict("-/- -/- -/-"), 2 * 1000); // ten steps of a tenth
        assert_eq!(predict("2x2/- -/- -/-"), 2 * 1000 + 2 * 410);
        assert_eq!(predict("2x1/48 -/64 -/-"), 2 * (1000 + 210 + 480 + 640)); // 48 lies between 32 and 64
        assert_eq!(predict("2x2/16 -/- -/-"), 2 * (1000 + 410 + 320), "below the least: the least");
    }

    #[test]
    fn lookups_are_linear_along_both_axes_and_clamped() {
        let grid = Grid { sizes: [vec![1, 5], vec![2, 4]], totals: vec![0, 400, 1000, 1800] };
        assert_eq!(grid.at([3, 3]), 800); // the middle of all four
        assert_eq!(
            [[1, 2], [5, 2], [1, 4], [5, 4], [9, 9], [0, 0]].map(|size| grid.at(size)),
            [0, 400, 1000, 1800, 1800, 0]
        );
        assert_eq!([[2, 2], [5, 3]].map(|size| grid.at(size)), [100, 1100]);
    }

    #[test]
    fn more_never_takes_less() {
        let times = [5, 4, 9, 3, 8, 7].map(|t| phases(t, 10 - t)).to_vec();
        let rising = Times::new((), [vec![1, 2, 3], vec![1, 2]], times).unwrap().times;
        assert_eq!(rising.iter().map(|t| t.prefill.0).collect::<Vec<_>>(), [5, 5, 9, 5, 8, 9]);
        assert_eq!(rising.iter().map(|t| t.step.0).collect::<Vec<_>>(), [5, 6, 6, 7, 7, 7]);
        let refusal = Times::new((), [vec![2, 1], vec![1]], vec![phases(1, 1); 2]).unwrap_err().to_string();
        assert_eq!(refusal, "latency table: 2 times for sizes [2, 1] by [1]");
    }

    #[test]
    fn costs_have_what_was_measured_and_other_blocks_are_refused() {
        let mut spec = example();
        let arch = Architecture::whole(&spec);
        assert_eq!(cost(&spec, &arch, Workload::default()).unwrap().latency, None);
        spec.latency = Some(Arc::new(table()));
        let found = cost(&spec, &arch, Workload::default()).unwrap().latency;
        assert_eq!(found, Some(Nanos(2 * (1000 + 3 * (410 + 640)))));
        spec.blocks[1].mlp = Some(MlpSpec { d_ff: 65 });
        let refusal = cost(&spec, &Architecture::whole(&spec), Workload::default()).unwrap_err().to_string();
        assert_eq!(refusal, "latency table: has no mlp as MlpSpec { d_ff: 65 }");
    }

    #[test]
    fn a_table_comes_back_from_json() {
        let json = serde_json::to_string(&table()).unwrap();
        assert_eq!(serde_json::from_str::<LatencyTable>(&json).unwrap(), table());
    }
}
