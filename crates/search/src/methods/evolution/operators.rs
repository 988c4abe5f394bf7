//! How children come of parents, before repair: sizes may be anything, depth too shallow, costs outside.

use taper_arch::{Architecture, AttentionGenes, BlockGenes, MlpGenes, ModelSpec, SearchSpace};
use taper_base::rng::{Rng, RngExt, normal};

/// Depth of `second` within a contiguous range of blocks and of `first` outside; sizes `b·first + (1-b)·second`, or those of
/// the one that has any. Bits as in the parent that gave the depth.
pub(super) fn crossover(first: &Architecture, second: &Architecture, rng: &mut impl Rng) -> Architecture {
    let blocks = first.blocks.len();
    let (from, to) = (rng.random_range(0..blocks), rng.random_range(0..blocks));
    let range = from.min(to)..=from.max(to);
    let share: f64 = rng.random();
    let mut child = first.clone();
    for (index, (ours, theirs)) in first.blocks.iter().zip(&second.blocks).enumerate() {
        let (depth, other) = if range.contains(&index) { (theirs, ours) } else { (ours, theirs) };
        let share = if range.contains(&index) { 1.0 - share } else { share };
        let mut mix = |own: usize, other: Option<usize>| {
            let other = other.unwrap_or(own) as f64;
            round(share * own as f64 + (1.0 - share) * other, rng)
        };
        let (attention, mlp) = (other.attention.as_ref(), other.mlp.as_ref());
        child.blocks[index] = BlockGenes {
            attention: depth.attention.as_ref().map(|own| AttentionGenes {
                heads_per_group: mix(own.heads_per_group, attention.map(|a| a.heads_per_group)),
                groups: mix(own.groups, attention.map(|a| a.groups)),
                ..own.clone()
            }),
            mlp: depth
                .mlp
                .as_ref()
                .map(|own| MlpGenes { channels: mix(own.channels, mlp.map(|m| m.channels)), ..own.clone() }),
        };
    }
    child
}

/// Flips one bit of depth, and each other with probability 1 / bits.
pub(super) fn flip(spec: &ModelSpec, space: &SearchSpace, arch: &mut Architecture, rng: &mut impl Rng) {
    let mut bits = Vec::with_capacity(2 * spec.blocks.len());
    for (index, block) in spec.blocks.iter().enumerate() {
        bits.extend((space.may_drop_attention(index) && block.attention.is_some()).then_some((index, true)));
        bits.extend((space.drop_mlp && block.mlp.is_some()).then_some((index, false)));
    }
    if bits.is_empty() {
        return;
    }
    let [heads, groups, channels] = mean_ratios(spec, arch);
    let whole = Architecture::whole(spec);
    let sure = rng.random_range(0..bits.len());
    for (at, &(index, is_attention)) in bits.iter().enumerate() {
        let flipped = at == sure || rng.random_bool(1.0 / bits.len() as f64);
        let (block, full) = (&mut arch.blocks[index], &whole.blocks[index]);
        match (flipped, is_attention) {
            (false, _) => {}
            (true, true) => {
                let back = full.attention.clone().map(|full| AttentionGenes {
                    heads_per_group: round(heads * full.heads_per_group as f64, rng),
                    groups: round(groups * full.groups as f64, rng),
                    ..full
                });
                block.attention = if block.attention.is_some() { None } else { back };
            }
            (true, false) => {
                let units = |full: MlpGenes| MlpGenes { channels: round(channels * full.channels as f64, rng), ..full };
                block.mlp = if block.mlp.is_some() { None } else { full.mlp.clone().map(units) };
            }
        }
    }
}

/// Mean kept ratios of heads per group, groups and channels, over what is kept; 1 where nothing is.
fn mean_ratios(spec: &ModelSpec, arch: &Architecture) -> [f64; 3] {
    let features = arch.features(spec);
    [0, 1, 2].map(|kind| {
        let kept: Vec<f64> = features.chunks_exact(3).map(|block| block[kind]).filter(|ratio| *ratio > 0.0).collect();
        if kept.is_empty() { 1.0 } else { kept.iter().sum::<f64>() / kept.len() as f64 }
    })
}

/// Multiplies each half's units, with probability `chance`, by a draw of N(1, sigma).
pub(super) fn jitter(arch: &mut Architecture, chance: f64, sigma: f64, rng: &mut impl Rng) {
    for block in &mut arch.blocks {
        let hit = [(); 2].map(|()| rng.random_bool(chance));
        let mut draw = |units: usize| round(units as f64 * (1.0 + sigma * normal(rng)), rng);
        if let Some(attention) = block.attention.as_mut().filter(|_| hit[0]) {
            attention.heads_per_group = draw(attention.heads_per_group);
            attention.groups = draw(attention.groups);
        }
        if let Some(mlp) = block.mlp.as_mut().filter(|_| hit[1]) {
            mlp.channels = draw(mlp.channels);
        }
    }
}

/// A whole number of units, 1 or more, whose mean is `units`: up or down by chance.
fn round(units: f64, rng: &mut impl Rng) -> usize {
    let units = units.max(1.0);
    units as usize + usize::from(rng.random::<f64>() < units.fract())
}
