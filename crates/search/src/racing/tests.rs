use serde_json::json;
use taper_base::rng::{RngExt, normal, stream};

use super::*;
use crate::fidelity;

/// Quantile .95 of Student's t with 3 degrees of freedom, from a table.
const T3: f64 = 2.353_363;

#[test]
fn a_line_and_its_margin_are_those_worked_out_by_hand() {
    let pairs = [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0), (3.0, 5.0), (4.0, 4.0)];
    let line = Line::through(&pairs, 0.95).unwrap();
    // mean 2 and 3, Sxx = 10, Sxy = 9, residuals -.2 -.1 0 1.1 -.8: SSE = 1.9
    assert!((line.slope - 0.9).abs() < 1e-12 && (line.at(0.0) - 1.2).abs() < 1e-12);
    let s = (1.9_f64 / 3.0).sqrt();
    for (x, factor) in [(2.0, 1.2_f64), (4.0, 1.6), (7.0, 3.7)] {
        assert!((line.margin(x) - T3 * s * factor.sqrt()).abs() < 1e-5, "{x}: {}", line.margin(x));
    }
}

#[test]
fn where_nothing_can_be_predicted_there_is_no_line() {
    assert!(Line::through(&[(0.0, 1.0), (1.0, 2.0)], 0.9).is_none());
    assert!(Line::through(&[(1.0, 1.0), (1.0, 2.0), (1.0, 5.0)], 0.9).is_none());
    assert!(Line::through(&[], 0.9).is_none());
}

/// A full score by chance, and what a noisy and shrunken part of it looks like.
fn drawn(seed: u64, index: u64) -> [f64; 2] {
    let mut rng = stream(seed, "test", index, 0);
    let full = normal(&mut rng);
    [0.6 * full + 0.3 * normal(&mut rng) - 2.0, full]
}

#[test]
fn about_as_many_are_dropped_wrongly_as_the_confidence_says() {
    let racing = Racing { confidence: 0.9, ..Racing::default() };
    let (mut near, mut wrong, mut dropped) = (0, 0, 0);
    for seed in 0..400 {
        let mut race = racing.race();
        (0..30).for_each(|index| race.learn(drawn(seed, index).to_vec()));
        for index in 30..60 {
            let [part, full] = drawn(seed, index);
            // the score itself as threshold: the hardest case, a candidate that just reaches it
            wrong += usize::from(race.rule(Some(full)).dropped(0, part).is_some());
            near += 1;
            dropped += usize::from(race.rule(Some(1.0)).dropped(0, part).is_some());
        }
    }
    let share = f64::from(wrong as u32) / f64::from(near as u32);
    assert!((0.085..0.115).contains(&share), "{share}: 10% up to 4 standard errors");
    assert!(dropped > near / 2, "{dropped} of {near}: the mean candidate is well below 1");
}

#[test]
fn no_candidate_is_dropped_in_the_pilot_nor_without_threshold_nor_after_the_last_part() {
    let mut race = Racing::default().race();
    for index in 0..19 {
        race.learn(drawn(0, index).to_vec());
        assert!(race.rule(Some(1e9)).dropped(0, -9.0).is_none(), "{index}");
    }
    race.learn(drawn(0, 19).to_vec());
    assert!(race.rule(None).dropped(0, -9.0).is_none());
    let rule = race.rule(Some(3.0));
    assert!(rule.dropped(0, -9.0).unwrap() < 3.0);
    assert!(rule.dropped(1, -9.0).is_none() && rule.dropped(0, 9.0).is_none());
}

#[test]
fn a_part_that_tells_all_drops_all_that_is_below_and_nothing_else() {
    let mut race = Racing::default().race();
    (0..20).for_each(|x| race.learn(vec![f64::from(x), 2.0 * f64::from(x) + 1.0]));
    let rule = race.rule(Some(21.0));
    assert!(rule.dropped(0, 9.999).is_some() && rule.dropped(0, 10.0).is_none());
}

#[test]
fn lines_go_through_the_candidates_last_scored_in_full() {
    let mut race = Racing { recent: 10, ..Racing::default() }.race();
    (0..50).for_each(|x| race.learn(vec![f64::from(x % 7), f64::from(x % 5)])); // no line at all
    (0..10).for_each(|x| race.learn(vec![f64::from(x), 2.0 * f64::from(x) + 1.0]));
    let rule = race.rule(Some(21.0));
    assert!(rule.dropped(0, 9.999).is_some() && rule.dropped(0, 10.0).is_none());
}

#[test]
fn parts_rise_to_all_sequences() {
    let parts = |first: f64, growth: f64, sequences| Racing { first, growth, ..Racing::default() }.parts(sequences);
    assert_eq!(Racing::default().parts(32), [2, 4, 8, 16, 32]);
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
    assert!(refusal(json!({"verfy": true})).starts_with("racing: unknown field `verfy`"));
    let unknown = fidelity("race", &json!({})).unwrap_err().to_string();
    assert_eq!(unknown, "unknown fidelity `race`; known: racing");
}
