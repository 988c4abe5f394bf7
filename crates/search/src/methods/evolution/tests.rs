//! Operators and parameters; laws that hold for every strategy are in `crates/search/tests`.

use serde_json::json;
use taper_arch::{Architecture, BudgetRange, SearchSpace, budget::Counted, spec::example};
use taper_base::rng::stream;

use super::{Evolution, Init, Running, init, operators};
use crate::archive::Archive;
use crate::{Importance, Problem, build};

fn arch(text: &str) -> Architecture {
    text.parse().unwrap()
}

#[test]
fn crossover_takes_depth_by_range_and_sizes_between() {
    let (first, second) = (arch("1x2/10 -/20 2x2/- 4x2/40"), arch("3x4/30 2x2/- -/50 -/-"));
    let mut ranges = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let child = operators::crossover(&first, &second, &mut stream(seed, "test", 0, 0));
        let from_second: Vec<bool> = child
            .blocks
            .iter()
            .zip(&second.blocks)
            .skip(1)
            .map(|(c, s)| c.attention.is_some() == s.attention.is_some() && c.mlp.is_some() == s.mlp.is_some())
            .collect();
        for (block, index) in child.blocks.iter().zip(0..4) {
            let parents = [&first.blocks[index], &second.blocks[index]];
            let depth = |b: &taper_arch::BlockGenes| (b.attention.is_some(), b.mlp.is_some());
            assert!(parents.iter().any(|parent| depth(parent) == depth(block)), "{child}");
        }
        let switches = from_second.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!(switches <= 2, "one contiguous range: {child}");
        ranges.insert(from_second);
        let both = child.blocks[0].clone();
        assert!((10..=30).contains(&both.mlp.unwrap().channels), "{child}");
        let attention = both.attention.unwrap();
        assert!((1..=3).contains(&attention.heads_per_group) && (2..=4).contains(&attention.groups), "{child}");
        if let Some(mlp) = &child.blocks[1].mlp {
            assert_eq!(mlp.channels, 20, "of the parent that has it: {child}");
        }
    }
    assert!(ranges.len() >= 6, "{ranges:?}");
}

#[test]
fn crossover_shares_are_those_of_the_parents() {
    let (first, second) = (arch("1x1/100 1x1/100"), arch("1x1/200 1x1/200"));
    for seed in 0..50 {
        let child = operators::crossover(&first, &second, &mut stream(seed, "test", 0, 0));
        let channels: Vec<usize> = child.blocks.iter().map(|b| b.mlp.as_ref().unwrap().channels).collect();
        assert!(channels[0].abs_diff(channels[1]) <= 1, "one b a child: {child}");
    }
}

#[test]
fn flip_changes_depth_and_brings_back_the_mean_ratio() {
    let spec = example();
    for seed in 0..50 {
        let mut child = arch("1x2/32 1x2/32 1x2/-");
        operators::flip(&spec, &SearchSpace::default(), &mut child, &mut stream(seed, "test", 0, 0));
        assert_ne!(child, arch("1x2/32 1x2/32 1x2/-"));
        if let Some(mlp) = &child.blocks[2].mlp {
            assert_eq!(mlp.channels, 32);
        }
    }
    let fixed = SearchSpace { drop_attention: false, drop_mlp: false, ..SearchSpace::default() };
    let mut child = arch("1x2/32 1x2/32 1x2/32");
    operators::flip(&spec, &fixed, &mut child, &mut stream(0, "test", 0, 0));
    assert_eq!(child, arch("1x2/32 1x2/32 1x2/32"));
}

#[test]
fn jitter_hits_at_its_chance_and_is_centred() {
    let draw = |seed, chance| {
        let mut child = arch("4x4/1000");
        operators::jitter(&mut child, chance, 0.3, &mut stream(seed, "test", 0, 0));
        child
    };
    assert!((0..50).all(|seed| draw(seed, 0.0) == arch("4x4/1000")));
    let channels: Vec<f64> =
        (0..2000).map(|seed| draw(seed, 1.0).blocks[0].mlp.clone().unwrap().channels as f64).collect();
    let mean = channels.iter().sum::<f64>() / 2000.0;
    let deviation = (channels.iter().map(|c| (c - mean).powi(2)).sum::<f64>() / 2000.0).sqrt();
    assert!((mean - 1000.0).abs() < 30.0 && (deviation - 300.0).abs() < 25.0, "{mean} {deviation}"); // 4 standard errors
    let hits = (0..2000).filter(|seed| draw(*seed, 0.2).blocks[0].mlp != arch("4x4/1000").blocks[0].mlp).count();
    assert!((320..480).contains(&hits), "{hits}");
}

fn problem(importance: [[f64; 2]; 3]) -> Problem {
    let space = SearchSpace { channels_multiple: 1, ..SearchSpace::default() };
    let range = BudgetRange { counted: Counted::NonEmbedding, least: 15_000, most: 16_000 };
    Problem { spec: example(), space, range, importance: Importance { blocks: importance.to_vec() }, seed: 0 }
}

#[test]
fn the_first_child_follows_importance_and_the_second_is_uniform() {
    let problem = problem([[1.0, 6.0], [1.0, 2.0], [1.0, 4.0]]);
    let draw = |child| {
        let drawn = init::draw(&problem, &Evolution::default(), (child, 0), &mut stream(0, "test", child, 0));
        drawn.unwrap().unwrap()
    };
    let channels = |arch: &Architecture| -> Vec<usize> {
        arch.blocks.iter().map(|b| b.mlp.as_ref().map_or(0, |mlp| mlp.channels)).collect()
    };
    let (first, origin) = draw(0);
    let kept = channels(&first);
    assert_eq!(origin, "warm-start");
    assert!(kept[0] > kept[2] && kept[2] > kept[1] && kept[0].abs_diff(3 * kept[1]) <= 3, "{first}");
    let uniform = problem.space.uniform(&problem.spec, problem.range).unwrap();
    assert_eq!(draw(1), (uniform, "uniform"));
    let removed = |child: &u64| channels(&draw(*child).0)[1] == 0;
    assert!((2..30).any(|child| removed(&child)) && (2..30).step_by(2).all(|child| !removed(&child)));
}

#[test]
fn without_importance_the_start_is_even() {
    let drawn = |importance| {
        let problem = problem(importance);
        init::draw(&problem, &Evolution::default(), (0, 0), &mut stream(0, "test", 0, 0)).unwrap().unwrap().0
    };
    assert_eq!(drawn([[0.0; 2]; 3]), drawn([[7.0; 2]; 3]));
}

#[test]
fn children_of_later_generations_come_of_elites_alone() {
    let problem = problem([[1.0; 2]; 3]);
    let evolution = Evolution { crossover: 1.0, mutation_depth: 0.0, mutation_width: 0.0, ..Evolution::default() };
    let running = Running { problem, evolution, archive: Archive::default() };
    let elites = [arch("2x2/40 2x2/40 2x2/-"), arch("2x2/- 2x2/40 2x2/40")];
    for child in 0..30 {
        let (bred, origin) = running.breed(&elites, &mut stream(0, "test", child, 0)).unwrap().unwrap();
        assert_eq!(origin, "crossover");
        assert!(bred.blocks.iter().all(|block| block.attention.is_some()), "no parent lacks one: {bred}");
    }
    let (_, origin) = running.breed(&elites[..1], &mut stream(0, "test", 0, 0)).unwrap().unwrap();
    assert_eq!(origin, "mutation");
}

#[test]
fn parameters_are_strict_and_every_refusal_names_key_value_and_wanted() {
    let built =
        build("evolution", &json!({"population": 4, "elites": 2, "generations": 5, "init": "uniform"})).unwrap();
    assert_eq!(built.trials(), 20);
    for init in [Init::Importance, Init::Uniform, Init::Random] {
        build("evolution", &json!({"init": init.to_string()})).unwrap();
    }
    let refusal =
        |key: &str, value: serde_json::Value| build("evolution", &json!({ key: value })).unwrap_err().to_string();
    let prefix = |key: &str, value: serde_json::Value, start: &str| {
        let text = refusal(key, value);
        assert!(text.starts_with(&format!("evolution: {start}")), "{text}");
    };
    prefix("population", json!(0), "`population` is 0, wanted 1 to 1000000");
    prefix("population", json!(9), "`elites` is 10, wanted 1 to `population`, 9");
    prefix("population", json!(-3), "`population`: invalid value: integer `-3`");
    prefix("elites", json!(0), "`elites` is 0, wanted 1 to `population`, 30");
    prefix("elites", json!(31), "`elites` is 31, wanted");
    prefix("generations", json!(0), "`generations` is 0, wanted 1 to 1000000");
    prefix("generations", json!(1.5), "`generations`: invalid type: floating point `1.5`");
    for key in ["crossover", "mutation_depth", "mutation_width"] {
        prefix(key, json!(1.5), &format!("`{key}` is 1.5, wanted a probability, 0 to 1"));
        prefix(key, json!(-0.1), &format!("`{key}` is -0.1, wanted a probability"));
        prefix(key, json!("often"), &format!("`{key}`: invalid type: string"));
    }
    prefix("sigma", json!(0), "`sigma` is 0, wanted above 0 and at most 1");
    prefix("sigma", json!(2), "`sigma` is 2, wanted");
    prefix("init", json!("warm"), "`init`: unknown variant `warm`, expected one of `importance`, `uniform`, `random`");
    prefix("mutation", json!(0.1), "unknown field `mutation`, expected one of `population`");
    let still = build("evolution", &json!({"crossover": 0, "mutation_depth": 0, "mutation_width": 0}));
    let text = still.unwrap_err().to_string();
    assert_eq!(text, "evolution: `crossover` is 0, wanted above 0, or one of the mutations: nothing would ever change");
    let schema = schemars::schema_for!(Evolution).to_value();
    assert_eq!(schema["additionalProperties"], json!(false));
}
