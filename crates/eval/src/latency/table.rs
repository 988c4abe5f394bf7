//! The table of times that predicts what an architecture takes: measured inside running models.
//!
//! A sub-block timed alone finds its weights in the cache, as it never does in a model. So whole models run: all blocks
//! at the smallest sizes, at the next, up to the largest, round after round; the clock is read after each sub-block. An entry
//! is the median over rounds of the mean over blocks (and steps). Steps are taken around the mean context of the workload,
//! where attention, linear in the context, takes its mean time.

use std::time::Instant;

use taper_arch::latency::{Phases, Times};
use taper_arch::{
    Architecture, AttentionGenes, AttentionSpec, BlockGenes, BlockSpec, Generation, LatencyTable, MlpGenes, MlpSpec,
    ModelSpec, SearchSpace, SubBlock, select,
};
use taper_base::Nanos;
use taper_base::progress::Progress;
use taper_model::{Decoder, Model, Part, greedy};

use super::{Spread, prompts};
use crate::EvalError;

/// Sizes measured along each axis of attention, and of MLPs; all if there are fewer.
const SIZES: [usize; 2] = [5, 9];
/// Rounds that medians are over, after one to warm up.
const ROUNDS: usize = 5;
/// Steps timed in each run, at most.
const STEPS: usize = 16;

/// One kind of sub-block, its sizes, and what they were found to take: seconds of `[prefill, step]`.
struct Kind<S> {
    whole: S,
    sizes: [Vec<usize>; 2],
    samples: Vec<Vec<[f64; 2]>>, // [sizes[1]][sizes[0]]: one a round
}

impl<S: Copy + PartialEq> Kind<S> {
    fn new(whole: S, sizes: [Vec<usize>; 2]) -> Self {
        let samples = vec![Vec::new(); sizes[0].len() * sizes[1].len()];
        Self { whole, sizes, samples }
    }

    /// The point of run `run` of `runs`: from the smallest to the largest.
    fn point(&self, run: usize, runs: usize) -> usize {
        run * self.samples.len() / runs
    }

    fn size(&self, point: usize) -> [usize; 2] {
        let [a, b] = &self.sizes;
        [a[point % a.len()], b[point / a.len()]]
    }

    fn times(self) -> Result<Times<S>, EvalError> {
        let times = self.samples.iter().map(|samples| median(samples)).collect();
        Ok(Times::new(self.whole, self.sizes, times)?)
    }
}

/// Seconds since it was last read, by where they went.
struct Clock {
    last: Instant,
    outside: f64,
    halves: Vec<[f64; 2]>, // [block][attention, mlp]
}

impl Clock {
    fn new(blocks: usize) -> Self {
        Self { last: Instant::now(), outside: 0.0, halves: vec![[0.0; 2]; blocks] }
    }

    fn read(&mut self, part: Part) {
        let now = Instant::now();
        let seconds = (now - self.last).as_secs_f64();
        match part {
            Part::Half { block, half } => self.halves[block][half as usize] += seconds,
            Part::Embedding | Part::Head => self.outside += seconds,
        }
        self.last = now;
    }
}

/// Measures the table of `model` for what `space` may leave of it, at `generation`.
///
/// # Errors
/// If the model cannot be cut or run.
pub fn latency_table(
    model: &Model,
    space: &SearchSpace,
    generation: Generation,
    progress: &dyn Progress,
) -> Result<LatencyTable, EvalError> {
    let spec = model.spec();
    let (mut attention, mut mlp) = kinds(spec, space);
    let points = attention.iter().map(|kind| kind.samples.len()).chain(mlp.iter().map(|kind| kind.samples.len()));
    let runs = points.max().unwrap_or(1);
    let mut outside = Vec::new();
    progress.begin("latency", ((ROUNDS + 1) * runs) as u64);
    for round in 0..=ROUNDS {
        for run in 0..runs {
            let arch = architecture(spec, (&attention, &mlp), run, runs);
            let cut = model.cut(&select::prefixes(spec, &arch)?.blocks)?;
            let clocks = time(&cut, generation)?;
            progress.advance(1, "");
            if round == 0 {
                continue;
            }
            outside.push([0, 1].map(|phase| clocks[phase].outside));
            for kind in &mut attention {
                let of = |block: &BlockSpec| block.attention == Some(kind.whole);
                let point = kind.point(run, runs);
                kind.samples[point].push(mean(&clocks, spec, SubBlock::Attention, of));
            }
            for kind in &mut mlp {
                let of = |block: &BlockSpec| block.mlp == Some(kind.whole);
                let point = kind.point(run, runs);
                kind.samples[point].push(mean(&clocks, spec, SubBlock::Mlp, of));
            }
        }
    }
    progress.end();
    Ok(LatencyTable {
        generation,
        outside: median(&outside),
        attention: attention.into_iter().map(Kind::times).collect::<Result<_, _>>()?,
        mlp: mlp.into_iter().map(Kind::times).collect::<Result<_, _>>()?,
    })
}

/// The kinds of sub-blocks in `spec`, each once, with the sizes to measure.
fn kinds(spec: &ModelSpec, space: &SearchSpace) -> (Vec<Kind<AttentionSpec>>, Vec<Kind<MlpSpec>>) {
    let (mut attention, mut mlp) = (Vec::<Kind<AttentionSpec>>::new(), Vec::<Kind<MlpSpec>>::new());
    for (index, block) in spec.blocks.iter().enumerate() {
        if let Some(whole) = block.attention.filter(|whole| attention.iter().all(|kind| kind.whole != *whole)) {
            let sizes = [space.head_choices(spec, index), space.group_choices(spec, index)];
            attention.push(Kind::new(whole, sizes.map(|all| spread(all, SIZES[0]))));
        }
        if let Some(whole) = block.mlp.filter(|whole| mlp.iter().all(|kind| kind.whole != *whole)) {
            mlp.push(Kind::new(whole, [spread(space.channel_choices(spec, index), SIZES[1]), vec![1]]));
        }
    }
    (attention, mlp)
}

/// `most` of `all`, evenly spread from the first to the last.
fn spread(all: Vec<usize>, most: usize) -> Vec<usize> {
    let last = all.len().saturating_sub(1);
    let picked = |at: usize| (0..most).any(|i| (i * last + (most - 1) / 2) / (most - 1) == at);
    all.iter().enumerate().filter(|(at, _)| picked(*at)).map(|(_, size)| *size).collect()
}

/// Every block at the sizes of run `run` of `runs`.
fn architecture(
    spec: &ModelSpec,
    (attention, mlp): (&[Kind<AttentionSpec>], &[Kind<MlpSpec>]),
    run: usize,
    runs: usize,
) -> Architecture {
    let genes = |block: &BlockSpec| BlockGenes {
        attention: attention.iter().find(|kind| block.attention == Some(kind.whole)).map(|kind| {
            let [heads_per_group, groups] = kind.size(kind.point(run, runs));
            AttentionGenes { kind: Default::default(), heads_per_group, groups, bits: None }
        }),
        mlp: mlp.iter().find(|kind| block.mlp == Some(kind.whole)).map(|kind| {
            let [channels, _] = kind.size(kind.point(run, runs));
            MlpGenes { channels, bits: None }
        }),
    };
    Architecture { blocks: spec.blocks.iter().map(genes).collect(), ..Architecture::whole(spec) }
}

/// Where the time of `[prefill, one step]` goes.
fn time(model: &Model, generation: Generation) -> Result<[Clock; 2], EvalError> {
    let blocks = model.spec().blocks.len();
    let further = generation.generate - 1;
    let steps = further.min(STEPS);
    let mut decoder = Decoder::new(model, &vec![generation.positions(); generation.batch])?;
    let prompts = prompts(model, generation);
    let mut prefill = Clock::new(blocks);
    let mut ids = greedy(&decoder.feed(&prompts, &mut |part| prefill.read(part))?)?;
    prefill.read(Part::Head);
    decoder.skip((further - steps) / 2);
    let mut step = Clock::new(blocks);
    for _ in 0..steps {
        ids = greedy(&decoder.feed(&ids, &mut |part| step.read(part))?)?;
        step.read(Part::Head);
    }
    let each = |seconds: &mut f64| *seconds /= steps.max(1) as f64;
    each(&mut step.outside);
    step.halves.iter_mut().flatten().for_each(each);
    Ok([prefill, step])
}

/// Mean over the blocks that `of` picks, of `[prefill, step]`.
fn mean(clocks: &[Clock; 2], spec: &ModelSpec, half: SubBlock, of: impl Fn(&BlockSpec) -> bool) -> [f64; 2] {
    clocks.each_ref().map(|clock| {
        let picked = clock.halves.iter().zip(&spec.blocks).filter(|(_, block)| of(block));
        let (sum, count) =
            picked.fold((0.0, 0), |(sum, count), (seconds, _)| (sum + seconds[half as usize], count + 1));
        sum / f64::from(count.max(1))
    })
}

fn median(samples: &[[f64; 2]]) -> Phases {
    let phase = |phase: usize| {
        let median = Spread::of(samples.iter().map(|sample| sample[phase]).collect()).median;
        Nanos((median * 1e9).round() as u64)
    };
    Phases { prefill: phase(0), step: phase(1) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use taper_arch::spec::example;

    #[test]
    fn sizes_are_spread_from_the_least_to_the_whole() {
        assert_eq!(spread((1..=10).collect(), 4), [1, 4, 7, 10]);
        assert_eq!(spread(vec![32, 64, 96], 9), [32, 64, 96]);
        assert_eq!(spread(vec![7], 5), [7]);
        assert_eq!(spread((0..100).collect(), 5), [0, 25, 50, 74, 99]);
    }

    #[test]
    fn runs_go_through_all_points_of_each_kind_once_at_least() {
        let mut spec = example();
        spec.blocks[1].mlp = Some(MlpSpec { d_ff: 512 });
        let (attention, mlp) = kinds(&spec, &SearchSpace::default());
        assert_eq!((attention.len(), mlp.len()), (1, 2));
        assert_eq!((&attention[0].sizes, &mlp[0].sizes), (&[vec![1, 2], vec![2]], &[vec![32, 64], vec![1]]));
        let texts: Vec<String> =
            (0..9).map(|run| architecture(&spec, (&attention, &mlp), run, 9).to_string()).collect();
        assert_eq!(texts[0], "1x2/32 1x2/64 1x2/32");
        assert_eq!(texts[8], "2x2/64 2x2/512 2x2/64");
        let distinct: std::collections::BTreeSet<&String> = texts.iter().collect();
        assert_eq!(distinct.len(), 9);
    }

    #[test]
    fn a_median_is_over_rounds_of_each_phase() {
        let found = median(&[[3e-9, 1e-6], [1e-9, 3e-6], [2e-9, 2e-6]]);
        assert_eq!(found, Phases { prefill: Nanos(2), step: Nanos(2000) });
    }
}
