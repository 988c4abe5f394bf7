//! Against PyTorch: loss, correlation, norm and saliency of candidates of five tiny models (`scripts/reference_trace.py`).

#![expect(clippy::unwrap_used, reason = "a failing test panics, and says what it measured")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use taper_arch::{KeptBlock, SelectedBlock, Selection};
use taper_base::Fingerprint;
use taper_model::{Batch, Checkpoint, Model, Parameter, Place};
use taper_proxies::methods::gradient_trace::GradientTrace;
use taper_proxies::{Base, Needs, Observation, Parts, Pass, Projection, Proxy, Settings};

const NAMES: [&str; 5] = ["llama-bias", "llama-gqa-rope3", "mistral-window", "qwen2-gqa", "qwen3-gqa"];
const ABSOLUTE: f64 = 1e-5; // rho and loss, as the goldens' provenance says
const RELATIVE: f64 = 1e-4; // dot, norms and saliency

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/golden").join(name)
}

fn tokens(name: &str) -> (Vec<u32>, usize) {
    let golden = candle_core::safetensors::load(folder(name).join("golden.safetensors"), &candle_core::Device::Cpu);
    let ids = golden.unwrap()["input_ids"].to_dtype(candle_core::DType::U32).unwrap().to_vec2::<u32>().unwrap();
    (ids.concat(), ids[0].len())
}

fn reference(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("golden/{name}.json"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Calls `check` with each candidate's reference and what taper sees of it.
fn each_candidate(check: impl Fn(&str, &Value, &Observation)) {
    each(|about, wanted, _, seen| check(about, wanted, seen));
}

fn each_candidate_of(check: impl Fn(&Model, &[SelectedBlock], &Observation)) {
    each(|_, _, (model, kept), seen| check(model, kept, seen));
}

fn each(check: impl Fn(&str, &Value, (&Model, &[SelectedBlock]), &Observation)) {
    for name in NAMES {
        let model = Model::load(&Checkpoint::open(&folder(name)).unwrap()).unwrap();
        let (ids, length) = tokens(name);
        let needs = Needs { loss: true, trace: Some(Projection::Dense), magnitudes: true, weights: true };
        let base = Base::new(&model, Batch::new(&ids, length).unwrap(), Settings { needs, seed: 0, memory: u64::MAX })
            .unwrap();
        let reference = reference(name);
        let loss = reference["base_loss"].as_f64().unwrap();
        assert!((base.loss().unwrap() - loss).abs() < ABSOLUTE);
        let candidates = reference["candidates"].as_array().unwrap();
        assert_eq!(candidates.len(), 6);
        for wanted in candidates {
            let kept: Vec<KeptBlock> = serde_json::from_value(wanted["candidate"].clone()).unwrap();
            let kept = Selection::from_candidate(model.spec(), &kept).unwrap();
            let about = format!("{name}: {}", wanted["about"].as_str().unwrap());
            check(&about, wanted, (&model, &kept.blocks), &base.observe(&kept.blocks).unwrap());
        }
    }
}

/// The reference's per-block lists of attention and MLP beside what was seen.
fn pairs(wanted: &Value, seen: &Observation, value: impl Fn(&taper_proxies::Seen) -> f64) -> Vec<(f64, Option<f64>)> {
    let mut all = Vec::new();
    for (half, name) in ["attention", "mlp"].into_iter().enumerate() {
        let list = wanted[name].as_array().unwrap();
        assert_eq!(list.len(), seen.blocks.len());
        for (wanted, block) in list.iter().zip(&seen.blocks) {
            all.push((wanted.as_f64().unwrap_or(0.0), block[half].as_ref().map(&value)));
        }
    }
    all
}

#[test]
fn losses_and_kept_ratios_are_those_of_pytorch() {
    each_candidate(|about, wanted, seen| {
        let loss = wanted["loss"].as_f64().unwrap();
        assert!((seen.loss.unwrap() - loss).abs() < ABSOLUTE, "{about}: {:?} {loss}", seen.loss);
        for (wanted, kept) in pairs(&wanted["kept"], seen, |seen| seen.kept) {
            assert!((kept.unwrap_or(0.0) - wanted).abs() < 1e-9, "{about}");
        }
    });
}

#[test]
fn correlations_and_their_sums_are_those_of_pytorch() {
    each_candidate(|about, wanted, seen| {
        for similarity in ["pearson", "cosine", "dot"] {
            for removed in ["zero", "drop"] {
                let wanted = &wanted["trace"][similarity][removed];
                let options = json!({"similarity": similarity, "removed": removed, "sketch_rank": "dense"});
                let proxy: GradientTrace = serde_json::from_value(options).unwrap();
                let near = |found: f64, wanted: f64| {
                    let scale = if similarity == "dot" { RELATIVE * wanted.abs().max(1e-3) } else { ABSOLUTE };
                    assert!((found - wanted).abs() <= scale, "{about} {similarity} {removed}: {found} {wanted}");
                };
                for (wanted, found) in pairs(&wanted["rho"], seen, |seen| proxy.correlation(seen).unwrap()) {
                    near(found.unwrap_or(0.0), wanted);
                }
                let mut wide = proxy;
                near(wide.score(seen).unwrap(), wanted["phi"].as_f64().unwrap());
                wide.aggregation = taper_proxies::methods::gradient_trace::Aggregation::None;
                near(wide.score(seen).unwrap(), wanted["phi_unweighted"].as_f64().unwrap());
            }
        }
    });
}

#[test]
fn norms_and_saliencies_are_those_of_pytorch() {
    each_candidate(|about, wanted, seen| {
        let near = |found: f64, wanted: f64| {
            assert!((found - wanted).abs() <= RELATIVE * wanted.abs().max(1e-6), "{about}: {found} {wanted}");
        };
        for (wanted, found) in pairs(&wanted["gradient_norm"], seen, |seen| seen.gradient_square.unwrap().sqrt()) {
            near(found.unwrap_or(0.0), wanted);
        }
        for (wanted, found) in pairs(&wanted["synaptic_saliency"], seen, |seen| seen.saliency.unwrap()) {
            near(found.unwrap_or(0.0), wanted);
        }
        let total = taper_proxies::build("synaptic-saliency", &Value::Null).unwrap().score(seen).unwrap();
        near(total, wanted["synaptic_saliency"]["total"].as_f64().unwrap());
    });
}

/// Sums of the units kept, taken from the whole model's matrices.
#[test]
fn weight_magnitudes_are_those_of_the_units_kept() {
    each_candidate_of(|model, kept, seen| {
        let tensors: BTreeMap<Place, taper_kernels::Tensor> = model.tensors().into_iter().collect();
        let sum = |block, parameter, units: &[usize], width: usize| {
            let Some(tensor) = tensors.get(&Place::of(block, parameter)) else { return 0.0 };
            let (values, d) = (tensor.to_vec().unwrap(), tensor.dims()[1]);
            let rows = units.iter().flat_map(|unit| unit * width..(unit + 1) * width);
            rows.flat_map(|row| &values[row * d..(row + 1) * d]).map(|w| f64::from(w.abs())).sum::<f64>()
        };
        let d_head = model.spec().d_head;
        let mut total = 0.0;
        for (block, (kept, seen)) in kept.iter().zip(&seen.blocks).enumerate() {
            let attention = kept.attention.as_ref().map(|a| {
                let of = |parameter, units: &[usize]| sum(block, parameter, units, d_head);
                let queries = [Parameter::Q, Parameter::O].map(|parameter| of(parameter, &a.heads));
                queries.into_iter().chain([Parameter::K, Parameter::V].map(|p| of(p, &a.groups))).sum::<f64>()
            });
            let matrices = [Parameter::Gate, Parameter::Up, Parameter::Down];
            let mlp = kept.mlp.as_ref().map(|m| matrices.map(|p| sum(block, p, m, 1)).into_iter().sum::<f64>());
            for (wanted, seen) in [attention, mlp].into_iter().zip(seen) {
                let found = seen.map(|seen| seen.weights.unwrap());
                assert_eq!(wanted.is_some(), found.is_some());
                let (wanted, found) = (wanted.unwrap_or(0.0), found.unwrap_or(0.0));
                assert!((wanted - found).abs() <= 1e-9 * wanted.max(1.0), "block {block}: {found}, wanted {wanted}");
                total += wanted;
            }
        }
        let score = taper_proxies::build("weight-magnitude", &Value::Null).unwrap().score(seen).unwrap();
        assert!((score - total).abs() <= 1e-9 * total);
    });
}

/// Every number of an observation that a proxy may use.
fn numbers(seen: &Observation) -> Vec<f64> {
    let half = |seen: &taper_proxies::Seen| {
        let both = [seen.trace.unwrap(), seen.trace_with_removed.unwrap()];
        let moments = both.into_iter().flat_map(|m| [m.n, m.x, m.xx, m.y, m.yy, m.xy]);
        moments
            .chain([seen.kept, seen.gradient_square.unwrap(), seen.saliency.unwrap(), seen.weights.unwrap()])
            .collect::<Vec<_>>()
    };
    seen.kept().flat_map(half).chain([seen.loss.unwrap(), seen.parameters as f64]).collect()
}

#[test]
fn a_part_is_seen_as_if_there_were_no_more_tokens() {
    for name in NAMES {
        let model = Model::load(&Checkpoint::open(&folder(name)).unwrap()).unwrap();
        let (ids, length) = tokens(name);
        let ids: Vec<u32> = ids.iter().chain(ids.iter().rev()).copied().collect(); // 4 rows or more
        let all = ids.len() / length;
        let ends = [1, all - 1, all];
        for trace in [Projection::Dense, Projection::Rank(8)] {
            let settings = Settings {
                needs: Needs { loss: true, trace: Some(trace), magnitudes: true, weights: true },
                seed: 0,
                memory: u64::MAX,
            };
            let parts = Parts::new(Batch::new(&ids, length).unwrap(), &ends).unwrap();
            let base = Base::in_parts(&model, parts, settings).unwrap();
            let kept = reference(name)["candidates"][1]["candidate"].clone();
            let kept =
                Selection::from_candidate(model.spec(), &serde_json::from_value::<Vec<KeptBlock>>(kept).unwrap());
            let kept = kept.unwrap().blocks;
            let id = Fingerprint::of_bytes(b"");
            let mut pass = Pass::new(&base, &kept, id.clone()).unwrap();
            for (part, end) in ends.into_iter().enumerate() {
                let alone = Base::new(&model, Batch::new(&ids[..end * length], length).unwrap(), settings)
                    .unwrap()
                    .observe(&kept)
                    .unwrap();
                let seen = pass.up_to(part).unwrap();
                let directly = Pass::new(&base, &kept, id.clone()).unwrap().up_to(part).unwrap();
                assert_eq!(seen, directly, "{name}: what was looked at in between does not matter");
                let scale = numbers(&alone).iter().fold(0.0_f64, |most, number| most.max(number.abs()));
                for (seen, alone) in numbers(&seen).into_iter().zip(numbers(&alone)) {
                    let near = (seen - alone).abs() <= RELATIVE * alone.abs() + 1e-9 * scale;
                    assert!(near, "{name}, {end} of {all}: {seen} {alone}");
                }
            }
            let error = pass.up_to(2).unwrap_err().to_string();
            assert_eq!(error, "part 2 was asked for, wanted 3 to below 3");
        }
    }
}

#[test]
fn what_is_no_nesting_is_refused() {
    let ids = [0; 12];
    for ends in [&[][..], &[0, 3], &[2], &[1, 1, 3], &[2, 1, 3], &[1, 4]] {
        let error = Parts::new(Batch::new(&ids, 4).unwrap(), ends).unwrap_err().to_string();
        assert_eq!(error, format!("parts of {ends:?} sequences, wanted rising numbers up to 3"));
    }
    assert_eq!(Parts::new(Batch::new(&ids, 4).unwrap(), &[1, 3]).unwrap().tokens(1), 12);
}
