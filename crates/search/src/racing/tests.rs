use serde_json::json;
use taper_base::rng::{RngExt, normal, stream};

use super::*;
use crate::fidelity;

/// Parts of a whole batch: the noise of a score on each, as a share of the spread of full scores.
const NOISE: [f64; 4] = [1.0, 0.6, 0.3, 0.0];

/// A candidate by chance: a full score that three features tell in part, and what parts of the tokens show of it, shrunken
/// and with noise that goes together from part to part.
fn drawn(seed: u64, index: u64, mean: f64) -> Raced {
    let mut rng = stream(seed, "test", index, 0);
    let features: Vec<f64> = (0..3).map(|_| normal(&mut rng)).collect();
    let full = mean + 0.5 * features.iter().sum::<f64>() + 0.5 * normal(&mut rng);
    let common = normal(&mut rng);
    let part = |noise: &f64| (1.0 - 0.3 * noise) * full + noise * (0.6 * common + 0.8 * normal(&mut rng));
    Raced { features, scores: NOISE.iter().map(part).collect(), dropped: None }
}

fn full(raced: &Raced) -> f64 {
    raced.scores[raced.scores.len() - 1]
}

/// What becomes of a candidate that would score `whole` under `rule`, if scores from `threshold` on matter.
fn raced(rule: &Rule, whole: Raced, threshold: f64) -> Raced {
    let dropping = rule.from(Some(threshold));
    let dropped = |part| dropping.dropped(&whole.features, part, whole.scores[part]).map(|expected| (part, expected));
    match (0..whole.scores.len()).find_map(dropped) {
        Some((part, expected)) => {
            Raced { scores: whole.scores[..=part].to_vec(), dropped: Some(expected), features: whole.features }
        }
        None => whole,
    }
}

#[test]
fn who_just_reaches_the_threshold_outlives_all_parts_with_the_confidence() {
    for confidence in [0.8, 0.9] {
        let racing = Racing { confidence, recent: 60, ..Racing::default() };
        let (mut near, mut wrong, mut dropped) = (0, 0, 0);
        for seed in 0..60 {
            let mut race = racing.race();
            (0..30).for_each(|index| race.learn(drawn(seed, index, 0.0)));
            for generation in 1..4_u64 {
                let rule = race.rule();
                for index in 30 * generation..30 * (generation + 1) {
                    let whole = drawn(seed, index, 0.0);
                    near += 1; // the score itself as threshold: the hardest case
                    wrong += usize::from(raced(&rule, whole.clone(), full(&whole)).dropped.is_some());
                    let after = raced(&rule, whole, 1.0);
                    dropped += usize::from(after.dropped.is_some());
                    race.learn(after);
                }
            }
        }
        let share = wrong as f64 / f64::from(near);
        let error = (confidence * (1.0 - confidence) / 60.0).sqrt(); // as if all of one seed went together
        assert!(share < 1.0 - confidence + error, "{confidence}: {share} of {near}");
        assert!(share > 0.2 * (1.0 - confidence), "{confidence}: {share} of {near} is needlessly careful");
        assert!(dropped > near as usize / 2, "{dropped} of {near}: the mean candidate is well below 1");
    }
}

#[test]
fn the_true_winner_of_a_search_is_seldom_dropped_and_most_tokens_are_saved() {
    let (searches, cost) = (100, [1.0, 2.0, 4.0, 8.0]);
    let (mut lost, mut tokens) = (0, 0.0);
    for seed in 0..searches {
        let mut race = Racing { recent: 60, ..Racing::default() }.race();
        let mut known: Vec<f64> = Vec::new(); // scored in full
        let mut best = f64::NEG_INFINITY;
        for generation in 0..8_u64 {
            let rule = race.rule();
            known.sort_by(|a, b| b.total_cmp(a));
            let threshold = known.get(9).copied();
            for index in 0..30 {
                let whole = drawn(seed, 30 * generation + index, 0.2 * generation as f64); // children get better
                best = best.max(full(&whole));
                let after = raced(&rule, whole, threshold.unwrap_or(f64::NEG_INFINITY));
                tokens += cost[after.scores.len() - 1];
                known.extend(after.dropped.is_none().then(|| full(&after)));
                race.learn(after);
            }
        }
        lost += usize::from(!known.contains(&best));
    }
    assert!(lost <= 10, "{lost} of {searches} winners lost, at a confidence of 0.9");
    let saved = 8.0 * 240.0 * searches as f64 / tokens;
    assert!(saved > 1.5, "{saved}");
}

#[test]
fn the_interval_reaches_as_far_as_those_that_did_better_than_expected() {
    // one in five scores 10 more than the line says, none less
    let far = |sign: f64| {
        let mut race = Racing::default().race();
        for index in 0..40_u32 {
            let surprise = if index % 5 == 0 { sign * 10.0 } else { 0.0 };
            let (x, y) = (f64::from(index % 8), 2.0 * f64::from(index % 8) + surprise);
            race.learn(Raced { features: vec![1.0], scores: vec![x, y], dropped: None });
        }
        let expected = race.rule().from(Some(f64::INFINITY)).dropped(&[1.0], 0, 4.0).unwrap().score;
        let kept = |above: &f64| race.rule().from(Some(expected + above)).dropped(&[1.0], 0, 4.0).is_none();
        (1..20).map(f64::from).take_while(kept).count()
    };
    assert!((7..=9).contains(&far(1.0)), "{}: it expects 2 more than most get", far(1.0));
    assert!(far(-1.0) < 4, "{}: who does worse is no reason to wait", far(-1.0));
}

#[test]
fn confidence_is_an_order_statistic() {
    let values = |n: u32| (1..=n).rev().map(f64::from).collect::<Vec<_>>();
    assert_eq!(race::confident(values(19), 0.9), Some(18.0));
    assert_eq!(race::confident(values(9), 0.9), Some(9.0));
    assert_eq!(race::confident(values(8), 0.9), None, "no one of 8 is at 90%");
    assert_eq!(race::confident(vec![-3.0; 20], 0.9), Some(0.0));
}

#[test]
fn no_candidate_is_dropped_in_the_pilot_nor_without_threshold_nor_after_the_last_part() {
    let mut race = Racing::default().race();
    for index in 0..19 {
        race.learn(drawn(0, index, 0.0));
        assert!(!race.rule().drops() && race.rule().from(Some(1e9)).dropped(&[0.0; 3], 0, -9.0).is_none(), "{index}");
    }
    race.learn(drawn(0, 19, 0.0));
    let rule = race.rule();
    assert!(rule.from(None).dropped(&[0.0; 3], 0, -9.0).is_none());
    let dropping = rule.from(Some(3.0));
    assert!(dropping.dropped(&[0.0; 3], 0, -9.0).unwrap().score < 3.0);
    assert!(dropping.dropped(&[0.0; 3], 3, -9.0).is_none() && dropping.dropped(&[0.0; 3], 0, 9.0).is_none());
}

#[test]
fn waves_are_of_the_most_promising_first_and_all_are_in_one() {
    let mut race = Racing { wave: 2, ..Racing::default() }.race();
    let expected = [Some(1.0), None, Some(3.0), Some(1.0), Some(2.0)];
    assert_eq!(race.rule().waves(&expected), [[0, 1, 2, 3, 4]], "nothing is known yet");
    (0..20).for_each(|index| race.learn(drawn(0, index, 0.0)));
    assert_eq!(race.rule().waves(&expected), [vec![2, 4], vec![0, 3], vec![1]]);
}

#[test]
fn those_dropped_later_are_learnt_from_as_they_were_expected() {
    // what outlives part 0 is scored 2x on all; where none of those dropped on part 1 counted, there would be no example below 10
    let mut race = Racing::default().race();
    let example = |x: f64, dropped: Option<f64>| {
        let scores = if dropped.is_some() { vec![x, x] } else { vec![x, x, 2.0 * x] };
        let dropped = dropped.map(|score| Expected { score, variance: 0.01 });
        Raced { features: vec![1.0], scores, dropped }
    };
    (0..30).for_each(|x| race.learn(example(10.0 + f64::from(x), None)));
    (0..10).for_each(|x| race.learn(example(f64::from(x), Some(40.0))));
    let expected = race.rule().from(Some(f64::INFINITY)).dropped(&[1.0], 0, 3.0).unwrap().score;
    assert!(expected > 15.0, "{expected}: 6 by those scored in full, 40 by those dropped");
    let expected = race.rule().from(Some(f64::INFINITY)).dropped(&[1.0], 1, 20.0).unwrap().score;
    assert!((expected - 40.0).abs() < 0.1, "{expected}: on part 1 they say nothing");
}

#[test]
fn the_last_to_go_beyond_a_part_are_its_examples() {
    let mut race = Racing { recent: 20, ..Racing::default() }.race();
    let example = |x: u32, y: f64| Raced { features: vec![1.0], scores: vec![f64::from(x), y], dropped: None };
    (0..50).for_each(|x| race.learn(example(x % 7, f64::from(x % 5)))); // no line at all
    (0..20).for_each(|x| race.learn(example(x, 2.0 * f64::from(x) + 1.0)));
    let rule = race.rule();
    let dropping = rule.from(Some(21.0));
    assert!(dropping.dropped(&[1.0], 0, 9.5).is_some() && dropping.dropped(&[1.0], 0, 10.5).is_none());
}

#[test]
fn parts_rise_to_all_sequences() {
    let parts = |first: f64, growth: f64, sequences| Racing { first, growth, ..Racing::default() }.parts(sequences);
    assert_eq!(Racing::default().parts(32), [1, 2, 4, 8, 16, 32]);
    assert_eq!(parts(0.125, 2.0, 8), [1, 2, 4, 8]);
    assert_eq!(parts(0.1, 3.0, 10), [1, 3, 9, 10]); // .1 * 10 is 1, whatever rounding says
    assert_eq!(parts(0.5, 1.01, 4), [2, 3, 4]);
    assert_eq!(parts(0.9, 1e300, 3), [3]);
    assert_eq!(parts(0.01, 2.0, 1), [1]);
    let rng = &mut stream(0, "parts", 0, 0);
    for _ in 0..1000 {
        let sequences = rng.random_range(1..2000);
        let parts = parts(rng.random_range(1e-6..1.0), rng.random_range(1.0001..9.0), sequences);
        assert!(parts.is_sorted_by(|a, b| a < b) && parts[0] > 0 && parts.last() == Some(&sequences), "{parts:?}");
    }
}

#[test]
fn parameters_are_strict() {
    assert_eq!(fidelity("racing", &json!({"growth": 4})).unwrap(), Racing { growth: 4.0, ..Racing::default() });
    let refusal = |params| fidelity("racing", &params).unwrap_err().to_string();
    assert_eq!(refusal(json!({"first": 1})), "racing: `first` is 1, wanted a share above 0 and below 1");
    assert_eq!(refusal(json!({"growth": 1})), "racing: `growth` is 1, wanted a number above 1");
    assert_eq!(
        refusal(json!({"confidence": 0.5})),
        "racing: `confidence` is 0.5, wanted a probability above 0.5 and below 1"
    );
    assert_eq!(refusal(json!({"pilot": 3})), "racing: `pilot` is 3, wanted 4 or more");
    assert_eq!(refusal(json!({"recent": 3})), "racing: `recent` is 3, wanted 4 or more");
    assert_eq!(refusal(json!({"wave": 0})), "racing: `wave` is 0, wanted 1 or more");
    assert!(refusal(json!({"verfy": true})).starts_with("racing: unknown field `verfy`"));
    let unknown = fidelity("race", &json!({})).unwrap_err().to_string();
    assert_eq!(unknown, "unknown fidelity `race`; known: racing");
}
