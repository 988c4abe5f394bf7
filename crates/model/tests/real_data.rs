//! Real models against the logits and losses of transformers (`reference.json` of the shared data).

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(clippy::print_stdout, reason = "the largest differences, for --nocapture")]

use std::path::Path;

use candle_core::{D, IndexOp};
use serde_json::Value;
use taper_model::{Batch, Checkpoint, Decoder, Model, greedy};

/// Row a of the first issue. The reference prints logits to 1e-6, sums over 63 tokens in full and over windows to 1e-4.
const LOGITS: f64 = 1e-4;
const NLL: f64 = 1e-5; // relative
/// Two orders of summation in f32, relative to the largest logit.
const CACHED: f64 = 1e-5;

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    numbers(value).into_iter().map(|id| id as u32).collect()
}

fn sum(losses: &[f32]) -> f64 {
    losses.iter().map(|loss| f64::from(*loss)).sum()
}

fn each_model(data: &Path, test: impl Fn(&str, &Model, &Value, &Path)) {
    for name in testkit::models() {
        let folder = data.join("models").join(name);
        let model = Model::load(&Checkpoint::open(&folder).unwrap()).unwrap();
        test(name, &model, &json(&folder.join("reference.json")), &folder);
    }
}

fn relative(found: f64, wanted: f64) -> f64 {
    ((found - wanted) / wanted).abs()
}

fn logits_and_loss_of_64_tokens_are_those_of_transformers(data: &Path) {
    each_model(data, |name, model, reference, _| {
        let wanted = &reference["forward64"];
        let ids = ids(&wanted["input_ids"]);
        let batch = Batch::new(&ids, ids.len()).unwrap();
        let logits = model.logits(batch).unwrap();
        let last: Vec<f32> = logits.i(ids.len() - 1).unwrap().to_vec1().unwrap();
        let difference = testkit::max_abs_diff(&last[..8], &numbers(&wanted["last_logits_first8"]));
        let best: Vec<u32> = logits.argmax(D::Minus1).unwrap().to_vec1().unwrap();
        assert_eq!(
            best,
            numbers(&wanted["argmax_per_position"]).iter().map(|x| *x as u32).collect::<Vec<_>>(),
            "{name}"
        );
        let mean = f64::from(logits.mean_all().unwrap().to_scalar::<f32>().unwrap());
        let mean_difference = (mean - wanted["all_logits_mean"].as_f64().unwrap()).abs();
        let nll = relative(sum(&model.token_losses(batch).unwrap()), wanted["nll_sum_63"].as_f64().unwrap());
        println!("{name}: logits {difference:.1e}, mean of all logits {mean_difference:.1e}, NLL relative {nll:.1e}");
        assert!(difference <= LOGITS && mean_difference <= LOGITS && nll <= NLL, "{name}");
    });
}

fn loss_of_every_window_is_that_of_transformers(data: &Path) {
    each_model(data, |name, model, reference, folder| {
        let wanted = &reference["perplexity"];
        let length = wanted["window"].as_u64().unwrap() as usize;
        let ids = ids(&json(&folder.join("reference_tokens.json"))["ids"]);
        let batch = Batch::new(&ids, length).unwrap();
        let losses = batch.pieces(4096).flat_map(|piece| model.token_losses(piece).unwrap()).collect::<Vec<_>>();
        let found: Vec<f64> = losses.chunks(length - 1).map(sum).collect();
        let windows = numbers(&wanted["window_nll_sums"]);
        assert_eq!((found.len(), windows.len()), (80, 80), "{name}");
        let each = found.iter().zip(&windows).map(|(found, wanted)| relative(*found, *wanted)).fold(0.0, f64::max);
        let total = relative(found.iter().sum(), wanted["nll_sum"].as_f64().unwrap());
        println!("{name}: NLL of a window relative {each:.1e}, of all {total:.1e}");
        assert!(each <= NLL && total <= NLL, "{name}");
    });
}

/// A prompt of 20 tokens, then one a step: the choices of transformers, and the logits of the full forward pass.
fn steps_choose_as_transformers_and_give_the_full_pass(data: &Path) {
    each_model(data, |name, model, reference, _| {
        let wanted = &reference["forward64"];
        let ids = ids(&wanted["input_ids"]);
        let full: Vec<Vec<f32>> = model.logits(Batch::new(&ids, ids.len()).unwrap()).unwrap().to_vec2().unwrap();
        let choices = numbers(&wanted["argmax_per_position"]);
        let mut decoder = Decoder::new(model, &[ids.len()]).unwrap();
        let (mut worst, mut from) = (0.0_f64, 0);
        for to in 20..=ids.len() {
            let logits = decoder.feed(&ids[from..to], &mut |_| ()).unwrap();
            assert_eq!(f64::from(greedy(&logits).unwrap()[0]), choices[to - 1], "{name}, position {}", to - 1);
            let logits: Vec<f32> = logits.flatten_all().unwrap().to_vec1().unwrap();
            let largest = full[to - 1].iter().fold(1.0_f32, |most, x| most.max(x.abs()));
            worst = worst.max(testkit::max_abs_diff(&logits, &full[to - 1]) / f64::from(largest));
            from = to;
        }
        println!("{name}: cached logits differ by {worst:.1e} of the largest");
        assert!(worst <= CACHED, "{name}: {worst}");
    });
}

testkit::real_data_tests!(
    steps_choose_as_transformers_and_give_the_full_pass,
    logits_and_loss_of_64_tokens_are_those_of_transformers,
    loss_of_every_window_is_that_of_transformers,
);
