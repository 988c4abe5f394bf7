//! Against the shared reference traces of four real models.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a failing test panics, and says what it measured")]

use std::path::Path;

use serde_json::Value;
use taper_arch::{KeptBlock, Selection};
use taper_model::{Batch, Checkpoint, Model};
use taper_proxies::methods::gradient_trace::GradientTrace;
use taper_proxies::{Base, Needs, Projection, Proxy, Settings};

const TOLERANCE: f64 = 1e-3; // the bar; f32 sums in another order stay far below

fn traces_are_those_of_pytorch(data: &Path) {
    for name in testkit::models() {
        let folder = data.join("models").join(name);
        let read =
            |file: &str| -> Value { serde_json::from_slice(&std::fs::read(folder.join(file)).unwrap()).unwrap() };
        let (reference, tokens) = (read("reference_trace.json"), read("reference_tokens.json"));
        let count = |key: &str| reference[key].as_u64().unwrap() as usize;
        let ids = tokens.get("ids").unwrap_or(&tokens).as_array().unwrap();
        let ids: Vec<u32> = ids.iter().map(|id| id.as_u64().unwrap() as u32).collect();
        let ids = &ids[..count("sequences") * count("length")];
        let model = Model::load(&Checkpoint::open(&folder).unwrap()).unwrap();
        let needs = Needs { loss: true, trace: Some(Projection::Dense), magnitudes: true, weights: true };
        let base =
            Base::new(&model, Batch::new(ids, count("length")).unwrap(), Settings { needs, seed: 0, memory: u64::MAX })
                .unwrap();
        let proxy = GradientTrace { sketch_rank: Projection::Dense, ..GradientTrace::default() };
        let mut worst = (base.loss().unwrap() - reference["base_loss"].as_f64().unwrap()).abs();
        for wanted in reference["candidates"].as_array().unwrap() {
            let kept: Vec<KeptBlock> = serde_json::from_value(wanted["candidate"].clone()).unwrap();
            let seen = base.observe(&Selection::from_candidate(model.spec(), &kept).unwrap().blocks).unwrap();
            let mut compare = |found: f64, wanted: f64| worst = worst.max((found - wanted).abs());
            compare(seen.loss.unwrap(), wanted["loss"].as_f64().unwrap());
            compare(proxy.score(&seen).unwrap(), wanted["phi"].as_f64().unwrap());
            for (half, key) in ["attention", "mlp"].into_iter().enumerate() {
                for (block, seen) in seen.blocks.iter().enumerate() {
                    let of = |what: &str| wanted[what][key][block].as_f64();
                    assert_eq!(seen[half].is_some(), of("rho").is_some());
                    if let Some(seen) = &seen[half] {
                        compare(proxy.correlation(seen).unwrap(), of("rho").unwrap());
                        compare(seen.gradient_square.unwrap().sqrt(), of("gradient_norm").unwrap());
                    }
                }
            }
        }
        assert!(worst <= TOLERANCE, "{name}: {worst}");
        println!("{name}: largest difference {worst:.1e}");
    }
}

testkit::real_data_tests!(traces_are_those_of_pytorch);
