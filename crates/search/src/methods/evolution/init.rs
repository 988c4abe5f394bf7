//! The first generation.
//!
//! From importance, a half of block `l` wants the kept ratio `r · I_l / mean(I)`, `r` the budget's share of the whole and the
//! mean over halves of its kind; [`SearchSpace::fit`](taper_arch::SearchSpace::fit) scales that into the budget. Child 0 is
//! that, child 1 the uniform architecture, and all others jitter importance by N(1, sigma) before. Every second of those also
//! loses its least important halves, a number by chance up to what depth allows.

use taper_arch::{Architecture, SubBlock, Workload, cost};
use taper_base::rng::{Rng, RngExt, normal};

use super::{Draw, Evolution, Init};
use crate::problem::feasible;
use crate::{Problem, SearchError};

/// Attempt `attempt` at child `child`.
pub(super) fn draw(
    problem: &Problem,
    evolution: &Evolution,
    (child, attempt): (u64, usize),
    rng: &mut impl Rng,
) -> Result<Draw, SearchError> {
    let Problem { spec, space, range, .. } = problem;
    let by_importance = evolution.init == Init::Importance;
    if evolution.init == Init::Random {
        return Ok(feasible(space.random(spec, *range, rng))?.map(|arch| (arch, "random")));
    }
    if attempt == 0 && child == u64::from(by_importance) {
        return Ok(feasible(space.uniform(spec, *range))?.map(|arch| (arch, "uniform")));
    }
    let plain = attempt == 0 && child == 0;
    let mut weights = if by_importance { relative(problem) } else { vec![[1.0; 2]; spec.blocks.len()] };
    if !plain {
        let sigma = evolution.sigma;
        weights.iter_mut().flatten().for_each(|weight| *weight *= (1.0 + sigma * normal(rng)).max(0.0));
    }
    let whole = range.counted.of(&cost(spec, &Architecture::whole(spec), Workload::default())?);
    let share = range.most as f64 / whole as f64;
    let mut wanted: Vec<[Option<f64>; 2]> =
        weights.iter().map(|pair| pair.map(|weight| Some(share * weight))).collect();
    if !plain && child % 2 == 1 {
        for half in SubBlock::BOTH {
            let order = least_first(problem, &weights, half);
            let removed = rng.random_range(0..=order.len() - space.least_kept(spec, half));
            order.into_iter().take(removed).for_each(|block| wanted[block][half as usize] = None);
        }
    }
    Ok(feasible(space.fit(spec, *range, &wanted))?.map(|arch| (arch, "warm-start")))
}

/// Importance over its mean among the halves of its kind; 1 everywhere if that mean is 0.
fn relative(problem: &Problem) -> Vec<[f64; 2]> {
    let values = &problem.importance.blocks;
    let means = SubBlock::BOTH.map(|half| {
        let present = present(problem, half);
        present.iter().map(|block| values[*block][half as usize]).sum::<f64>() / present.len().max(1) as f64
    });
    let over = |value: f64, mean: f64| if mean > 0.0 { value / mean } else { 1.0 };
    values.iter().map(|pair| [over(pair[0], means[0]), over(pair[1], means[1])]).collect()
}

/// Blocks of the model that have `half`.
fn present(problem: &Problem, half: SubBlock) -> Vec<usize> {
    let has = |index: &usize| {
        let block = problem.spec.blocks[*index];
        match half {
            SubBlock::Attention => block.attention.is_some(),
            SubBlock::Mlp => block.mlp.is_some(),
        }
    };
    (0..problem.spec.blocks.len()).filter(has).collect()
}

/// Blocks that have `half`, least weight first.
fn least_first(problem: &Problem, weights: &[[f64; 2]], half: SubBlock) -> Vec<usize> {
    let mut order = present(problem, half);
    order.sort_by(|a, b| weights[*a][half as usize].total_cmp(&weights[*b][half as usize]));
    order
}
