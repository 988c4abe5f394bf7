//! Objectives, gradients and optimizers against PyTorch: `golden/units.json`, made by `scripts/reference_heal.py`.

#![expect(clippy::unwrap_used, reason = "a failing test panics, and says what it measured")]

use std::path::Path;

use serde_json::{Value, json};
use taper_heal::objectives::{self, Guide, OfLogits, Pair, View};
use taper_heal::optimizers::{self, Kind, Slot};

fn golden() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/units.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

/// The largest difference, as a share of the largest wanted number.
fn away(found: &[f32], wanted: &[f32]) -> f64 {
    assert_eq!(found.len(), wanted.len());
    let most = wanted.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    let difference = found.iter().zip(wanted).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
    f64::from(difference) / f64::from(most)
}

/// Mean loss and gradient over the tokens of an objective of logits.
fn of_logits(objective: &dyn OfLogits, case: &Value) -> (f64, Vec<f32>) {
    let input = |name: &str| case["inputs"].get(name).map(floats);
    let (student, teacher, votes) = (input("student").unwrap(), input("teacher").unwrap(), input("votes"));
    let vocab = case["shapes"]["student"][1].as_u64().unwrap() as usize;
    let targets: Vec<u32> = serde_json::from_value(case["inputs"]["targets"].clone()).unwrap();
    let (mut loss, mut gradient) = (0.0, vec![0.0; student.len()]);
    let share = 1.0 / targets.len() as f32;
    for (row, target) in targets.iter().enumerate() {
        let at = row * vocab..(row + 1) * vocab;
        let (ids, log_probabilities) = likeliest(&teacher[at.clone()], &case["params"]);
        let guide = match (&votes, case["params"]["top"].is_null()) {
            (Some(votes), _) => Guide::Probabilities(&votes[at.clone()]),
            (None, true) => Guide::Logits(&teacher[at.clone()]),
            (None, false) => Guide::Top { ids: &ids, log_probabilities: &log_probabilities },
        };
        let one = objective.loss(&student[at.clone()], *target, Some(guide), share, &mut gradient[at]);
        loss += f64::from(one * share);
    }
    (loss, gradient)
}

/// The teacher's `top` likeliest tokens, in f64.
fn likeliest(logits: &[f32], params: &Value) -> (Vec<u32>, Vec<f32>) {
    let top = params["top"].as_u64().unwrap_or(1) as usize;
    let scaled: Vec<f64> =
        logits.iter().map(|x| f64::from(*x) / params["temperature"].as_f64().unwrap_or(1.0)).collect();
    let log_sum = scaled.iter().map(|x| x.exp()).sum::<f64>().ln();
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    ids.sort_by(|a, b| scaled[*b as usize].total_cmp(&scaled[*a as usize]));
    ids.truncate(top);
    let logs = ids.iter().map(|id| (scaled[*id as usize] - log_sum) as f32).collect();
    (ids, logs)
}

#[test]
fn objectives_and_their_gradients_are_those_of_pytorch() {
    let golden = golden();
    let cases = golden["objectives"].as_array().unwrap();
    assert_eq!(cases.len(), 20);
    let mut worst = [0.0_f64; 2];
    for case in cases {
        let (name, params) = (case["objective"].as_str().unwrap(), &case["params"]);
        let objective = objectives::build(name, params).unwrap();
        let rows = [floats(&case["inputs"]["student"]), floats(&case["inputs"]["teacher"])];
        let size = |side: &str, at: usize| case["shapes"][side][at].as_u64().unwrap_or(0) as usize;
        let pair = Pair {
            student: &rows[0],
            teacher: &rows[1],
            shape: [size("student", 0), size("student", 1)],
            widths: [size("student", 2), size("teacher", 2)],
        };
        let (loss, gradient) = match objective.view() {
            View::Logits(objective) => of_logits(objective, case),
            View::Streams(objective) => objective.loss(pair).unwrap(),
            View::Relations(objective) => objective.loss(pair).unwrap(),
        };
        let wanted = case["loss"].as_f64().unwrap();
        let off = [(loss / wanted - 1.0).abs(), away(&gradient, &floats(&case["gradient"]))];
        assert!(off.iter().all(|off| *off <= 1e-5), "{name} {params}: {off:?}");
        worst = [worst[0].max(off[0]), worst[1].max(off[1])];
    }
    println!("losses {:.1e}, gradients {:.1e}", worst[0], worst[1]);
}

#[test]
fn two_hundred_steps_are_those_of_pytorch() {
    let golden = golden();
    for case in golden["optimizers"].as_array().unwrap() {
        let name = case["optimizer"].as_str().unwrap();
        let shape: Vec<usize> = serde_json::from_value(case["shape"].clone()).unwrap();
        let (count, hidden) = (shape.iter().product::<usize>(), name == "muon" && shape.len() == 2);
        let optimizer = optimizers::build(name, &json!({})).unwrap();
        for transposed in [false, true] {
            if transposed && !hidden {
                continue;
            }
            let turn = |values: &[f32]| if transposed { turned(values, shape[1]) } else { values.to_vec() };
            let lies = if transposed { vec![shape[1], shape[0]] } else { shape.clone() };
            let kind = Kind { shape: &lies, hidden, transposed };
            let mut weight = turn(&(0..count).map(|i| (i as f64).cos() as f32).collect::<Vec<_>>());
            let mut state = vec![vec![0.0; count]; optimizer.buffers(kind)];
            let mut worst = 0.0_f64;
            for step in 1..=200_u64 {
                let own: Vec<f32> = (1..=count).map(|i| (i as f64 * step as f64).sin() as f32).collect();
                let gradient: Vec<f32> = turn(&own).iter().zip(&weight).map(|(own, w)| own + 0.3 * w).collect();
                let slot = Slot { kind, weight: &mut weight, gradient: &gradient, scale: 1.0, state: &mut state };
                optimizer.update(slot, step, case["rate"].as_f64().unwrap());
                if let Some(wanted) = case["weights"].get(step.to_string()) {
                    worst = worst.max(away(&weight, &turn(&floats(wanted))) / step as f64);
                }
            }
            assert!(worst <= 1e-6, "{name} {shape:?}: {worst:e} a step");
            println!("{name} {shape:?}, transposed {transposed}: {worst:.1e} a step");
        }
    }
}

/// Rows of `columns` as columns.
fn turned(values: &[f32], columns: usize) -> Vec<f32> {
    let rows = values.len() / columns;
    (0..values.len()).map(|at| values[at % rows * columns + at / rows]).collect()
}
