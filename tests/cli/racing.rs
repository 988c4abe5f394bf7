//! Racing: fewer tokens, a winner scored in full, and the same bytes whatever happens on the way.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use taper_base::rng::{RngExt, stream};

use crate::support::{Place, RECIPE, Results, Row, text};

/// Candidates of all generations.
const TRIALS: u64 = 48;
/// Those of the generations before anybody can be dropped.
const PILOTS: u64 = 6;
/// Tokens of the whole batch.
const TOKENS: u64 = 8 * 16;
/// Sequences of each part.
const PARTS: [u64; 4] = [1, 2, 4, 8];

/// A place whose recipe races with these options besides.
fn place(options: &str) -> Place {
    let place = Place::new();
    write(&place, &format!("  fidelity: {{ racing: {{ first: 0.125, pilot: 6, {options} }} }}\n"));
    place
}

fn write(place: &Place, fidelity: &str) {
    let recipe = RECIPE.replace("sequences: 2\n  length: 32", "sequences: 8\n  length: 16");
    let recipe = recipe.replace("generations: 3", "generations: 8").replace("eval:", &format!("{fidelity}eval:"));
    place.write("tiny.yaml", recipe.as_bytes());
}

fn search(place: &Place) -> Results {
    place.done(&["search", "tiny.yaml"]);
    Results::of(&place.path("runs/tiny"))
}

fn json(results: &Results) -> Value {
    serde_json::from_slice(&results.files["search/search.json"]).unwrap()
}

/// A trial's scores by name.
fn scores(row: &Row) -> BTreeMap<&str, f64> {
    row.6.iter().map(|(name, bits)| (name.as_str(), f64::from_bits(bits.cast_unsigned()))).collect()
}

#[test]
fn the_report_is_what_the_trials_say() {
    let results = search(&place("confidence: 0.8"));
    let found = json(&results);
    let saved = &found["fidelity"];
    assert_eq!(saved["sequences"], serde_json::json!(PARTS));
    let names = ["gradient-trace@1", "gradient-trace@2", "gradient-trace@4", "gradient-trace"];
    let (mut ended, mut best) = ([0; 4], f64::NEG_INFINITY);
    for row in results.rows() {
        let scores = scores(row);
        assert!(names[..scores.len()].iter().all(|name| scores.contains_key(name)), "{row:?}");
        ended[scores.len() - 1] += 1;
        best = scores.get("gradient-trace").copied().unwrap_or(best).max(best);
    }
    assert_eq!(saved["dropped"], serde_json::json!(ended[..3]));
    let firsts = 3 * 7; // the first wave of each later generation
    assert!(ended[0] > 0 && ended[3] >= PILOTS + firsts, "{ended:?}");
    let once: u64 = ended.iter().zip(PARTS).map(|(count, part)| count * part * 16).sum();
    let raced = TRIALS - PILOTS;
    let again = raced - ended[0]; // the first part once more, for those that went beyond it
    let tokens = once + again * PARTS[0] * 16;
    assert_eq!((saved["tokens"].as_u64(), saved["tokens_in_full"].as_u64()), (Some(tokens), Some(TRIALS * TOKENS)));
    assert_eq!(saved["times_fewer"].as_f64().unwrap(), (TRIALS * TOKENS) as f64 / tokens as f64);
    assert_eq!(found["score"].as_f64().unwrap(), best, "the winner is the best of those scored in full");
}

#[test]
fn no_byte_depends_on_threads_or_on_what_other_searches_left() {
    let undisturbed = search(&place("confidence: 0.8"));
    for threads in ["1", "4"] {
        let place = place("confidence: 0.8");
        place.done(&["search", "tiny.yaml", "--threads", threads]);
        Results::of(&place.path("runs/tiny")).assert_same(&undisturbed, threads);
    }
    // with trials of a stricter race in the store, which are short of parts, and of a laxer one, which have more
    for other in ["confidence: 0.6", "confidence: 0.999"] {
        let place = place(other);
        let left = search(&place);
        write(&place, "  fidelity: { racing: { first: 0.125, pilot: 6, confidence: 0.8 } }\n");
        let again = search(&place);
        assert!(left.files["search/search.json"] != again.files["search/search.json"], "{other}");
        assert!(again.files == undisturbed.files, "{other}");
    }
}

#[test]
fn verified_against_the_full_search() {
    let raced = json(&search(&place("confidence: 0.8, verify: true")));
    let verified = &raced["fidelity"]["verified"];
    assert_eq!(verified["same"], Value::Bool(verified["architecture"] == raced["architecture"]));
    let full = Place::new();
    write(&full, "");
    let full = json(&search(&full));
    assert_eq!((&full["architecture"], full.get("fidelity")), (&verified["architecture"], None));
    let score = |value: &Value| value["score"].as_f64().unwrap();
    assert!((score(&full) - score(verified)).abs() < 1e-4, "{full} {verified}"); // sums of other parts
    let plain = json(&search(&place("confidence: 0.8")));
    assert_eq!(plain["fidelity"]["tokens"], raced["fidelity"]["tokens"], "the full search is not counted");
}

#[test]
fn kills_change_no_byte() {
    let undisturbed = {
        let place = place("confidence: 0.8, verify: true");
        search(&place)
    };
    let mut rng = stream(0, "kills of races", 0, 0);
    let mut kills = 0;
    for attempt in 0..4 {
        let place = place("confidence: 0.8, verify: true");
        let start = Instant::now();
        search(&Place::new()); // as a measure of how long a run takes now
        let usual = start.elapsed();
        for _ in 0..3 {
            let mut command = place.taper(&["search", "tiny.yaml"]);
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(usual.mul_f64(rng.random_range(0.1..1.5)));
            kills += usize::from(child.try_wait().unwrap().is_none());
            child.kill().unwrap();
            child.wait().unwrap();
            std::thread::sleep(Duration::from_millis(10));
        }
        search(&place).assert_same(&undisturbed, &format!("attempt {attempt}"));
    }
    assert!(kills >= 4, "only {kills} kills hit a running process");
}

#[test]
fn a_proxy_that_looks_at_no_tokens_cannot_race() {
    let place = Place::new();
    place.change("proxy: { gradient-trace: { sketch_rank: 8 } }", "proxy: random\n  fidelity: racing");
    let output = place.output(&["check", "tiny.yaml"]);
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(said.contains("search.fidelity: the proxy `random` looks at no tokens"), "{said}");
}
