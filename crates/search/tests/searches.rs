//! Laws of every strategy, and evolution against chance, on objectives with a known optimum.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use serde_json::{Value, json};
use taper_arch::budget::{Amount, Counted};
use taper_arch::{
    Architecture, AttentionSpec, BlockSpec, Budget, BudgetRange, MlpSpec, ModelSpec, SearchSpace, Workload, cost,
    spec::example,
};
use taper_base::rng::{RngExt, stream};
use taper_search::{Importance, Problem, Search, SearchError, build};

/// 12 blocks of 8 query heads in 2 KV groups and 256 channels.
fn spec() -> ModelSpec {
    let attention = Some(AttentionSpec { n_heads: 8, n_kv_heads: 2, window: None });
    ModelSpec { blocks: vec![BlockSpec { attention, mlp: Some(MlpSpec { d_ff: 256 }) }; 12], ..example() }
}

fn half(spec: &ModelSpec) -> BudgetRange {
    let budget = Budget { amount: Amount::Share(0.5), counted: Counted::NonEmbedding, tolerance: 0.02 };
    budget.range(spec).unwrap()
}

fn problem(seed: u64) -> Problem {
    let spec = spec();
    let (range, importance) = (half(&spec), Importance { blocks: vec![[1.0; 2]; 12] });
    Problem { spec, space: SearchSpace::default(), range, importance, seed }
}

/// `-Σ c·e² - Σ (e_l + e_{l+1})²/2` over the errors `e` of the kept ratios: separable and neighbours together; the best
/// is `target`, with 0.
struct Objective {
    spec: ModelSpec,
    target: Vec<f64>,
    curvature: Vec<f64>,
}

impl Objective {
    fn new(problem: &Problem, seed: u64) -> Self {
        let rng = &mut stream(seed, "objective", 0, 0);
        let target = problem.space.random(&problem.spec, problem.range, rng).unwrap().features(&problem.spec);
        let curvature = target.iter().map(|_| rng.random_range(0.2..2.0)).collect();
        Self { spec: problem.spec.clone(), target, curvature }
    }

    fn score(&self, arch: &Architecture) -> f64 {
        let errors: Vec<f64> = arch.features(&self.spec).iter().zip(&self.target).map(|(x, t)| x - t).collect();
        let alone: f64 = errors.iter().zip(&self.curvature).map(|(e, c)| c * e * e).sum();
        let together: f64 = errors.iter().zip(&errors[3..]).map(|(a, b)| (a + b).powi(2) / 2.0).sum();
        -alone - together
    }
}

/// Runs to the end; `score` may say that something cannot be scored.
fn run(search: &mut dyn Search, score: impl Fn(&Architecture) -> Option<f64>) -> Vec<Architecture> {
    let mut asked = Vec::new();
    loop {
        let generation: Vec<Architecture> = search.ask().unwrap().into_iter().map(|p| p.architecture).collect();
        if generation.is_empty() {
            return asked;
        }
        let scores: Vec<_> = generation.iter().map(&score).collect();
        search.tell(&scores).unwrap();
        asked.extend(generation);
    }
}

fn start(name: &str, params: &Value, problem: Problem) -> Box<dyn Search> {
    build(name, params).unwrap().start(problem).unwrap()
}

const BOTH: [(&str, &str); 2] = [("evolution", r#"{"generations": 12}"#), ("random", r#"{"trials": 360}"#)];

fn both() -> impl Iterator<Item = (&'static str, Value)> {
    BOTH.into_iter().map(|(name, params)| (name, serde_json::from_str(params).unwrap()))
}

/// Best scores of evolution and of random search after 600 candidates, for ten seeds.
fn duels(params: &Value, importance: impl Fn(&Objective) -> Importance) -> Vec<(f64, f64)> {
    let duel = |seed| {
        let objective = Objective::new(&problem(seed), seed);
        let best = |name: &str, params: &Value| {
            let mut search = start(name, params, Problem { importance: importance(&objective), ..problem(seed) });
            assert_eq!(run(&mut *search, |arch| Some(objective.score(arch))).len(), 600);
            search.best().unwrap().1
        };
        (best("evolution", params), best("random", &json!({"trials": 600})))
    };
    (0..10).map(duel).collect()
}

#[test]
fn evolution_beats_random_at_equal_evaluations_whatever_its_start() {
    for init in ["importance", "uniform", "random"] {
        let even = |_: &Objective| Importance { blocks: vec![[1.0; 2]; 12] };
        let duels = duels(&json!({"generations": 20, "init": init}), even);
        let mean = |pick: fn(&(f64, f64)) -> f64| duels.iter().map(pick).sum::<f64>() / duels.len() as f64;
        println!("{init}: evolution {:.3}, random {:.3}", mean(|d| d.0), mean(|d| d.1));
        assert!(duels.iter().all(|(evolution, random)| evolution > random), "{init}: {duels:?}");
        assert!(mean(|d| d.0) > 0.5 * mean(|d| d.1), "{init}: less than half of the loss of random: {duels:?}");
    }
}

#[test]
fn importance_that_tells_something_helps() {
    let even = duels(&json!({"generations": 20}), |_| Importance { blocks: vec![[1.0; 2]; 12] });
    let told = duels(&json!({"generations": 20}), |objective| {
        let blocks = objective.target.chunks_exact(3).map(|block| [block[0] * block[1], block[2]]);
        Importance { blocks: blocks.collect() }
    });
    let mean = |duels: &[(f64, f64)]| duels.iter().map(|duel| duel.0).sum::<f64>() / duels.len() as f64;
    println!("importance: even {:.3}, telling {:.3}", mean(&even), mean(&told));
    assert!(mean(&told) > mean(&even), "{even:?} {told:?}");
}

#[test]
fn proposals_are_new_legal_inside_and_numbered() {
    for (name, params) in both() {
        let (problem, objective) = (problem(3), Objective::new(&problem(3), 3));
        let mut search = start(name, &params, problem.clone());
        let asked = run(&mut *search, |arch| Some(objective.score(arch)));
        assert_eq!(asked.len(), 360, "{name}");
        let distinct: std::collections::BTreeSet<&Architecture> = asked.iter().collect();
        assert_eq!(distinct.len(), asked.len(), "{name}");
        for arch in &asked {
            problem.space.contains(&problem.spec, arch).unwrap();
            assert!(problem.range.holds(&cost(&problem.spec, arch, Workload::default()).unwrap()), "{name}: {arch}");
        }
        let mut search = start(name, &params, problem);
        for (child, proposal) in search.ask().unwrap().iter().enumerate() {
            let place = (&*proposal.provenance.strategy, proposal.provenance.generation, proposal.provenance.child);
            assert_eq!(place, (name, 0, child as u64));
        }
    }
}

#[test]
fn replay_gives_the_same_and_another_seed_does_not() {
    for (name, params) in both() {
        let objective = Objective::new(&problem(5), 5);
        let asked = |seed| run(&mut *start(name, &params, problem(seed)), |arch| Some(objective.score(arch)));
        assert!(asked(5) == asked(5), "{name}");
        assert!(asked(5) != asked(6), "{name}");
    }
}

#[test]
fn what_cannot_be_scored_is_never_best() {
    for (name, params) in both() {
        let (objective, drops) = (Objective::new(&problem(7), 7), |arch: &Architecture| arch.blocks[0].mlp.is_none());
        let mut search = start(name, &params, problem(7));
        let asked = run(&mut *search, |arch| (!drops(arch)).then(|| objective.score(arch)));
        assert!(asked.iter().any(drops), "{name}: the case occurs");
        let (best, score) = search.best().unwrap();
        assert!(!drops(best) && score == objective.score(best), "{name}: {best}");
        let by_hand = asked.iter().filter(|a| !drops(a)).map(|a| objective.score(a)).fold(f64::NEG_INFINITY, f64::max);
        assert_eq!(score, by_hand, "{name}");

        let mut hopeless = start(name, &params, problem(7));
        assert_eq!(run(&mut *hopeless, |_| None).len(), 360, "{name}");
        assert!(hopeless.best().is_none(), "{name}");
    }
}

/// The result and all that is asked for, if scores below the threshold are told as `told(score, threshold)`.
fn estimated(
    name: &str,
    params: &Value,
    told: fn(f64, f64) -> Option<f64>,
) -> (Vec<Architecture>, Architecture, usize) {
    let (objective, mut asked, mut below) = (Objective::new(&problem(9), 9), Vec::new(), 0);
    let mut search = start(name, params, problem(9));
    loop {
        let generation: Vec<Architecture> = search.ask().unwrap().into_iter().map(|p| p.architecture).collect();
        if generation.is_empty() {
            return (asked, search.best().unwrap().0.clone(), below);
        }
        let threshold = search.threshold(&[]);
        let scores = generation.iter().map(|arch| match (objective.score(arch), threshold) {
            (score, Some(threshold)) if score < threshold => {
                below += 1;
                told(score, threshold)
            }
            (score, _) => Some(score),
        });
        search.tell(&scores.collect::<Vec<_>>()).unwrap();
        asked.extend(generation);
    }
}

#[test]
fn what_scores_below_the_threshold_score_does_not_matter() {
    for (name, params) in both() {
        let exact = estimated(name, &params, |score, _| Some(score));
        assert!(exact.2 > 100, "{name}: the case occurs, {} times of 360", exact.2);
        let tricks: [fn(f64, f64) -> Option<f64>; 3] =
            [|_, threshold| Some(threshold.next_down()), |score, _| Some(2.0 * score - 1.0), |_, _| None];
        for told in tricks {
            assert!(estimated(name, &params, told) == exact, "{name}");
        }
    }
}

#[test]
fn the_threshold_of_evolution_is_its_last_elite_and_in_the_end_the_best() {
    let mut search = start("evolution", &json!({"population": 4, "elites": 3, "generations": 3}), problem(0));
    let mut tell = |scores: [Option<f64>; 4]| {
        search.ask().unwrap();
        let threshold = search.threshold(&[]);
        search.tell(&scores).unwrap();
        threshold
    };
    assert_eq!(tell([Some(1.0), None, Some(3.0), None]), None);
    assert_eq!(tell([Some(2.0), Some(0.0), None, Some(1.5)]), None, "two are no three elites");
    assert_eq!(tell([None; 4]), Some(3.0), "no parents are wanted after the last generation");
    let mut search = start("evolution", &json!({"population": 4, "elites": 3}), problem(0));
    search.ask().unwrap();
    search.tell(&[Some(1.0), Some(4.0), Some(3.0), Some(2.0)]).unwrap();
    search.ask().unwrap();
    assert_eq!(search.threshold(&[]), Some(2.0));
}

#[test]
fn ties_go_to_the_earlier_one() {
    for (name, params) in both() {
        let mut search = start(name, &params, problem(1));
        let asked = run(&mut *search, |_| Some(1.0));
        assert_eq!(search.best().unwrap(), (&asked[0], 1.0), "{name}");
    }
}

/// 3 blocks, 64 channels in steps of 32, at most one half of a kind removed.
fn tiny() -> Problem {
    let range = BudgetRange { counted: Counted::NonEmbedding, least: 0, most: 22_000 };
    let importance = Importance { blocks: vec![[1.0, 2.0]; 3] };
    Problem { spec: example(), space: SearchSpace::default(), range, importance, seed: 0 }
}

#[test]
fn a_tiny_space_is_exhausted_and_the_search_ends() {
    let problem = tiny();
    let sizes = ["1x2", "2x2", "-"].into_iter().flat_map(|a| ["32", "64", "-"].map(|m| format!("{a}/{m}")));
    let blocks: Vec<String> = sizes.collect();
    let mut legal = std::collections::BTreeSet::new();
    for number in 0..blocks.len().pow(3) {
        let text = [number / 81, number / 9 % 9, number % 9].map(|at| &*blocks[at]).join(" ");
        let arch: Architecture = text.parse().unwrap();
        let inside = problem.range.holds(&cost(&problem.spec, &arch, Workload::default()).unwrap());
        if inside && problem.space.contains(&problem.spec, &arch).is_ok() {
            legal.insert(arch);
        }
    }
    for (name, params) in [("evolution", json!({"generations": 5000})), ("random", json!({"trials": 100_000}))] {
        let mut search = start(name, &params, tiny());
        let asked = run(&mut *search, |arch| Some(arch.features(&tiny().spec).iter().sum()));
        let found: std::collections::BTreeSet<Architecture> = asked.iter().cloned().collect();
        assert_eq!(found.len(), asked.len(), "{name}");
        assert!(found.is_subset(&legal), "{name}");
        println!("{name}: {} of {}", found.len(), legal.len());
        assert!(10 * found.len() >= 9 * legal.len(), "{name}: {} of {}", found.len(), legal.len());
        assert!(search.ask().unwrap().is_empty(), "{name}: over is over");
        search.tell(&[]).unwrap();
    }
}

#[test]
fn tied_and_depth_only_spaces_are_searched_by_their_rules() {
    let spaces = [
        SearchSpace { tied_depth: true, ..SearchSpace::default() },
        SearchSpace { heads: false, width: false, least_blocks: 0.25, ..SearchSpace::default() },
        SearchSpace { drop_attention: false, drop_mlp: false, ..SearchSpace::default() },
        SearchSpace { groups: Some(true), channels_multiple: 1, ..SearchSpace::default() },
    ];
    for space in spaces {
        let range = BudgetRange { least: half(&spec()).most * 19 / 20, ..half(&spec()) };
        let mut search = start("evolution", &json!({"generations": 6}), Problem { space, range, ..problem(0) });
        let objective = Objective::new(&problem(0), 0);
        let asked = run(&mut *search, |arch| Some(objective.score(arch)));
        assert!(asked.len() > 100, "{space:?}: {}", asked.len());
        asked.iter().for_each(|arch| space.contains(&spec(), arch).unwrap());
    }
}

#[test]
fn misuse_and_impossible_problems_are_refused() {
    for (name, params) in both() {
        let mut search = start(name, &params, problem(0));
        search.ask().unwrap();
        assert!(matches!(search.ask(), Err(SearchError::Untold { pending: 30 })), "{name}");
        assert!(matches!(search.tell(&[None]), Err(SearchError::Scores { want: 30, got: 1 })), "{name}");
        assert!(matches!(search.tell(&[Some(f64::NAN); 30]), Err(SearchError::Score { index: 0, .. })), "{name}");
        search.tell(&[None; 30]).unwrap();

        let refusal = |problem: Problem| build(name, &params).unwrap().start(problem).err().unwrap().to_string();
        let blocks = |value: f64| Importance { blocks: vec![[1.0, value]; 12] };
        let negative = "importance of block 0, mlp, is -1, wanted a finite number of 0 or more";
        assert_eq!(refusal(Problem { importance: blocks(-1.0), ..problem(0) }), negative);
        assert!(refusal(Problem { importance: blocks(f64::NAN), ..problem(0) }).contains("is NaN"));
        let short = Importance { blocks: Vec::new() };
        assert_eq!(refusal(Problem { importance: short, ..problem(0) }), "importance has 0 blocks, the model 12");
        let range = BudgetRange { least: 1, most: 2, ..half(&spec()) };
        assert!(refusal(Problem { range, ..problem(0) }).starts_with("no architecture of this search space has"));
        let space = SearchSpace { least_heads: 0.0, ..SearchSpace::default() };
        assert!(refusal(Problem { space, ..problem(0) }).starts_with("least_heads is 0"));
    }
}
