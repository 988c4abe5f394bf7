//! What `uniform`, `fit`, `random` and `repair` promise, over models, spaces and budgets by chance.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::sync::Arc;

use proptest::prelude::*;
use taper_arch::budget::{Amount, Counted};
use taper_arch::latency::{Phases, Times};
use taper_arch::{
    ArchError, Architecture, AttentionGenes, AttentionSpec, BlockGenes, BlockSpec, Budget, BudgetRange, Generation,
    LatencyTable, MlpGenes, MlpSpec, ModelSpec, SearchSpace, Workload, cost, spec::example,
};
use taper_base::Nanos;
use taper_base::rng::{RngExt, stream};

/// A model of `blocks` blocks; every fourth lacks a half when `holes`.
fn model(blocks: usize, heads: [usize; 2], d_ff: usize, holes: bool) -> ModelSpec {
    let block = |index: usize| BlockSpec {
        attention: (!holes || index % 4 != 1).then_some(AttentionSpec {
            n_heads: heads[0] * heads[1],
            n_kv_heads: heads[1],
            window: None,
        }),
        mlp: (!holes || index % 4 != 2).then_some(MlpSpec { d_ff }),
    };
    ModelSpec { qkv_bias: holes, blocks: (0..blocks).map(block).collect(), ..example() }
}

fn models() -> impl Strategy<Value = ModelSpec> {
    let heads = prop::sample::select(vec![[1, 8], [4, 2], [3, 3], [8, 1]]);
    (2..12_usize, heads, prop::sample::select(vec![96, 172, 256]), any::<bool>())
        .prop_map(|(blocks, heads, d_ff, holes)| model(blocks, heads, d_ff, holes))
}

fn spaces() -> impl Strategy<Value = SearchSpace> {
    let groups = prop::sample::select(vec![None, Some(true), Some(false)]);
    let drops = prop::sample::select(vec![
        (true, true, true, false),
        (true, false, true, false),
        (true, true, true, true),
        (true, true, false, false),
        (false, true, false, false),
    ]);
    (groups, drops, any::<bool>(), prop::sample::select(vec![1_usize, 32]), 0.3..0.9_f64).prop_map(
        |(
            groups,
            (drop_attention, drop_first_attention, drop_mlp, tied_depth),
            heads,
            channels_multiple,
            least_blocks,
        )| SearchSpace {
            groups,
            drop_attention,
            drop_first_attention,
            drop_mlp,
            tied_depth,
            heads,
            channels_multiple,
            least_blocks,
            ..SearchSpace::default()
        },
    )
}

/// Times by chance for all that `space` leaves of `spec`, at few sizes: rough, and in places flat.
fn with_times(mut spec: ModelSpec, space: &SearchSpace, seed: u64) -> ModelSpec {
    let mut rng = stream(seed, "times", 0, 0);
    let mut times = |n: usize| -> Vec<Phases> {
        (0..n)
            .map(|_| Phases { prefill: Nanos(rng.random_range(0..9000)), step: Nanos(rng.random_range(0..90)) })
            .collect()
    };
    let ends = |all: Vec<usize>| -> Vec<usize> {
        let few = all.iter().copied().enumerate().filter(|(at, _)| at % 3 == 0 || at + 1 == all.len());
        few.map(|(_, size)| size).collect()
    };
    let mut table = LatencyTable {
        generation: Generation { prompt: 8, generate: 11, batch: 1 },
        outside: times(1)[0],
        attention: Vec::new(),
        mlp: Vec::new(),
    };
    for index in 0..spec.blocks.len() {
        let block = spec.blocks[index];
        if let Some(whole) = block.attention.filter(|_| table.attention.is_empty()) {
            let sizes = [ends(space.head_choices(&spec, index)), ends(space.group_choices(&spec, index))];
            let count = sizes[0].len() * sizes[1].len();
            table.attention.push(Times::new(whole, sizes, times(count)).unwrap());
        }
        if let Some(whole) = block.mlp.filter(|_| table.mlp.is_empty()) {
            let sizes = [ends(space.channel_choices(&spec, index)), vec![1]];
            let count = sizes[0].len();
            table.mlp.push(Times::new(whole, sizes, times(count)).unwrap());
        }
    }
    spec.latency = Some(Arc::new(table));
    spec
}

/// Budgets by share of what the space reaches, as a share or as a count.
fn problem() -> impl Strategy<Value = (ModelSpec, SearchSpace, BudgetRange)> {
    let counted = prop::sample::select(vec![Counted::Total, Counted::NonEmbedding, Counted::Latency]);
    (models(), spaces(), counted, 0.05..1.0_f64, any::<bool>()).prop_map(|(spec, space, counted, level, as_count)| {
        let spec = with_times(spec, &space, level.to_bits());
        let count = |arch: &Architecture| counted.of(&cost(&spec, arch, Workload::default()).unwrap());
        let (low, high) = (count(&space.smallest(&spec).unwrap()), count(&space.largest(&spec)));
        let most = low as f64 + level * (high - low) as f64;
        let amount = if as_count { Amount::Count(most as u64) } else { Amount::Share(most / high as f64) };
        let range = Budget { amount, counted, tolerance: 0.05 }.range(&spec).unwrap();
        (spec, space, range)
    })
}

/// Anything of the right number of blocks, legal or not.
fn wild(spec: &ModelSpec, seed: u64) -> Architecture {
    let mut rng = stream(seed, "wild", 0, 0);
    let keep: f64 = rng.random();
    let block = |_: &BlockSpec| BlockGenes {
        attention: rng.random_bool(keep).then(|| AttentionGenes {
            kind: Default::default(),
            heads_per_group: rng.random_range(0..10),
            groups: rng.random_range(0..10),
            bits: None,
        }),
        mlp: rng.random_bool(keep).then(|| MlpGenes { channels: rng.random_range(0..300), bits: None }),
    };
    Architecture { blocks: spec.blocks.iter().map(block).collect(), ..Architecture::whole(spec) }
}

fn assert_inside(spec: &ModelSpec, space: &SearchSpace, range: BudgetRange, arch: &Architecture) {
    space.contains(spec, arch).unwrap_or_else(|fault| panic!("{fault}: {arch}"));
    let costs = cost(spec, arch, Workload::default()).unwrap();
    assert!(range.holds(&costs), "{range:?} {costs:?} {arch}");
}

/// The result, or `None` where the space has a gap as wide as the window; any other error fails.
fn found(result: Result<Architecture, ArchError>) -> Option<Architecture> {
    match result {
        Ok(arch) => Some(arch),
        Err(ArchError::Infeasible { .. }) => None,
        Err(other) => panic!("{other}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn repair_ends_legal_inside_and_is_then_the_identity((spec, space, range) in problem(), seed: u64) {
        let repair = |arch: &Architecture| space.repair(&spec, range, arch, &mut stream(seed, "repair", 0, 0));
        let arch = wild(&spec, seed);
        if let Some(repaired) = found(repair(&arch)) {
            assert_inside(&spec, &space, range, &repaired);
            prop_assert_eq!(&repair(&repaired).unwrap(), &repaired);
            prop_assert_eq!(&repair(&arch).unwrap(), &repaired); // same stream, same result
        }
    }

    #[test]
    fn random_ends_legal_and_inside((spec, space, range) in problem(), seed: u64) {
        let random = || space.random(&spec, range, &mut stream(seed, "random", 0, 0));
        if let Some(arch) = found(random()) {
            assert_inside(&spec, &space, range, &arch);
            prop_assert_eq!(random().unwrap(), arch);
        }
    }

    #[test]
    fn fit_ends_legal_and_inside((spec, space, range) in problem(), seed: u64) {
        let mut rng = stream(seed, "wanted", 0, 0);
        let mut ratio = || rng.random_bool(0.7).then(|| rng.random::<f64>() * 2.0);
        let wanted: Vec<_> = spec.blocks.iter().map(|_| [ratio(), ratio()]).collect();
        if let Some(arch) = found(space.fit(&spec, range, &wanted)) {
            assert_inside(&spec, &space, range, &arch);
        }
    }

    #[test]
    fn uniform_keeps_every_block_and_is_inside((spec, space, range) in problem()) {
        if let Some(arch) = found(space.uniform(&spec, range)) {
            assert_inside(&spec, &space, range, &arch);
            for (genes, block) in arch.blocks.iter().zip(&spec.blocks) {
                prop_assert_eq!(genes.attention.is_some(), block.attention.is_some());
                prop_assert_eq!(genes.mlp.is_some(), block.mlp.is_some());
            }
        }
    }

    /// With single channels free, steps (3 · 32 weights and a bias) are finer than the window: nothing excuses a failure.
    #[test]
    fn fine_spaces_never_fail((spec, space, range) in problem(), seed: u64) {
        let space = SearchSpace { channels_multiple: 1, ..space };
        prop_assume!(range.most - range.least > 200 && range.counted != Counted::Latency);
        let rng = &mut stream(seed, "fine", 0, 0);
        space.repair(&spec, range, &wild(&spec, seed), rng).unwrap();
        space.random(&spec, range, rng).unwrap();
    }
}

#[test]
fn a_gap_is_a_gap_for_every_draw_and_gaps_are_few() {
    let (spec, space) = (model(6, [4, 2], 172, false), SearchSpace::default());
    let mut gaps = Vec::new();
    for percent in 20..=100 {
        let amount = Amount::Share(f64::from(percent) / 100.0);
        let range = Budget { amount, counted: Counted::NonEmbedding, tolerance: 0.01 }.range(&spec).unwrap();
        let draws = (0..20).map(|i| found(space.random(&spec, range, &mut stream(0, "gap", percent as u64, i))));
        let found: Vec<Architecture> = draws.flatten().collect();
        found.iter().for_each(|arch| assert_inside(&spec, &space, range, arch));
        assert!(found.len() == 20 || found.is_empty(), "{percent}%: the exact search is exact in a space this small");
        gaps.extend(found.is_empty().then_some(percent));
    }
    assert!(gaps.len() <= 10 && gaps.iter().all(|percent| *percent < 50), "{gaps:?}");
}

#[test]
fn uniform_is_even_where_the_steps_allow() {
    let spec = model(8, [8, 2], 256, false);
    let whole = cost(&spec, &Architecture::whole(&spec), Workload::default()).unwrap();
    let half: Architecture = ["4x2/128"; 8].join(" ").parse().unwrap();
    let most = cost(&spec, &half, Workload::default()).unwrap().non_embedding.0;
    let range = BudgetRange { counted: Counted::NonEmbedding, least: most - 100, most };
    assert_eq!(SearchSpace::default().uniform(&spec, range).unwrap(), half);
    let depth_only = SearchSpace { heads: false, width: false, ..SearchSpace::default() };
    let refusal = depth_only.uniform(&spec, range).unwrap_err().to_string();
    let only = whole.non_embedding.0;
    assert!(refusal.ends_with(&format!("it reaches from {only} to {only}")), "{refusal}");
}

#[test]
fn fit_keeps_the_wanted_order_and_removals() {
    let spec = model(4, [8, 2], 256, false);
    let budget = Budget { amount: Amount::Share(0.5), counted: Counted::NonEmbedding, tolerance: 0.05 };
    let range = budget.range(&spec).unwrap();
    let space = SearchSpace { channels_multiple: 1, ..SearchSpace::default() };
    let wanted = [[Some(0.9), Some(0.2)], [None, Some(0.4)], [Some(0.5), None], [Some(0.9), Some(0.8)]];
    let arch = space.fit(&spec, range, &wanted).unwrap();
    assert_inside(&spec, &space, range, &arch);
    assert!(arch.blocks[1].attention.is_none() && arch.blocks[2].mlp.is_none());
    let channels: Vec<usize> = arch.blocks.iter().filter_map(|b| b.mlp.as_ref()).map(|m| m.channels).collect();
    assert!(channels.is_sorted_by(|a, b| a < b), "{channels:?}");
    for (bad, want) in [(f64::NAN, "NaN"), (-0.5, "-0.5"), (f64::INFINITY, "inf")] {
        let refusal = space.fit(&spec, range, &[[Some(bad), None]; 4]).unwrap_err().to_string();
        assert_eq!(refusal, format!("kept ratio of block 0, attention is {want}, wanted a number of 0 or more"));
    }
    assert!(matches!(space.fit(&spec, range, &[]), Err(ArchError::Mismatch { .. })));
}

#[test]
fn random_is_broad() {
    let spec = model(12, [4, 2], 256, false);
    let budget = Budget { amount: Amount::Share(0.5), counted: Counted::NonEmbedding, tolerance: 0.02 };
    let (space, range) = (SearchSpace::default(), budget.range(&spec).unwrap());
    let draws: Vec<Architecture> =
        (0..300).map(|i| space.random(&spec, range, &mut stream(0, "broad", i, 0)).unwrap()).collect();
    for half in 0..2 {
        let kept = |arch: &Architecture| {
            let kept = arch.blocks.iter().filter(|b| if half == 0 { b.attention.is_some() } else { b.mlp.is_some() });
            kept.count()
        };
        let counts: std::collections::BTreeSet<usize> = draws.iter().map(kept).collect();
        assert!(counts.len() >= 6, "{counts:?}"); // of the 7 from 6 to 12
    }
    let distinct: std::collections::BTreeSet<&Architecture> = draws.iter().collect();
    assert!(distinct.len() >= 298, "{}", distinct.len());
}
