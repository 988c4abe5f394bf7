//! Against PyTorch: logits, loss and every gradient of seven tiny models (`golden/README.toml`).

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod shared;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use taper_model::{Batch, Checkpoint, Gradients, Model, Recompute, parameters};

use shared::golden_folders;

const LOGITS: f64 = 1e-4; // as golden/README.toml says, and why
const LOSS: f64 = 1e-5;
const GRADIENT: f64 = 1e-4;

struct Golden {
    model: Model,
    ids: Vec<u32>,
    length: usize,
    values: BTreeMap<String, Tensor>,
}

impl Golden {
    fn open(folder: &Path) -> Self {
        let model = Model::load(&Checkpoint::open(folder).unwrap()).unwrap();
        let values = candle_core::safetensors::load(folder.join("golden.safetensors"), &Device::Cpu).unwrap();
        let values: BTreeMap<String, Tensor> = values.into_iter().collect();
        let ids = values["input_ids"].to_dtype(DType::U32).unwrap().to_vec2::<u32>().unwrap();
        Self { model, length: ids[0].len(), ids: ids.concat(), values }
    }

    fn batch(&self) -> Batch<'_> {
        Batch::new(&self.ids, self.length).unwrap()
    }
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn logits_are_those_of_transformers() {
    for folder in golden_folders() {
        let golden = Golden::open(&folder);
        let logits = golden.model.logits(golden.batch()).unwrap();
        let worst = testkit::max_abs_diff(&flat(&logits), &flat(&golden.values["logits"]));
        assert!(worst <= LOGITS, "{}: {worst}", folder.display());
    }
}

#[test]
fn loss_and_every_gradient_are_those_of_pytorch() {
    for folder in golden_folders() {
        let golden = Golden::open(&folder);
        for recompute in [Recompute::Nothing, Recompute::Cheap, Recompute::Insides] {
            let mut sink = Gradients { tied_head: golden.model.spec().tied_head, ..Gradients::default() };
            let weight = 1.0 / (golden.ids.len() - golden.ids.len() / golden.length) as f32;
            let losses = golden.model.backward(golden.batch(), weight, recompute, &mut sink).unwrap();
            let loss = losses.iter().map(|loss| f64::from(*loss)).sum::<f64>() / losses.len() as f64;
            let wanted = f64::from(golden.values["loss"].to_scalar::<f32>().unwrap());
            assert!((loss - wanted).abs() <= LOSS, "{}: loss {loss}, wanted {wanted}", folder.display());
            let places = parameters(golden.model.spec());
            assert_eq!(sink.by_place.len(), places.len());
            for (place, shape) in places {
                let mut found = sink.by_place[&place].to_host().unwrap();
                if place.parameter.transposed() {
                    found = found.t().unwrap();
                }
                assert_eq!(found.dims(), shape, "{place:?}");
                let wanted = flat(&golden.values[&format!("grad.{}", place.name(golden.model.spec()))]);
                let largest = wanted.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
                let worst = testkit::max_abs_diff(&flat(&found), &wanted) / f64::from(largest);
                assert!(worst <= GRADIENT, "{} {place:?}: {worst}", folder.display());
            }
        }
    }
}

#[test]
fn pieces_of_a_batch_give_the_gradient_of_the_whole() {
    let golden = Golden::open(&golden_folders()[0]);
    let gradients = |tokens: usize| {
        let mut sink = Gradients::default();
        for piece in golden.batch().pieces(tokens) {
            golden.model.backward(piece, 0.5, Recompute::Nothing, &mut sink).unwrap();
        }
        sink.by_place
    };
    let (whole, pieces) = (gradients(1000), gradients(1));
    for (place, gradient) in whole {
        assert!(
            testkit::relative_difference(&pieces[&place].to_vec().unwrap(), &gradient.to_vec().unwrap()) < 1e-5,
            "{place:?}"
        );
    }
}
