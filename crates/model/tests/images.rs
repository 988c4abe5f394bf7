//! Against PyTorch: logits, loss and every gradient of tiny classifiers of images (`golden-vit/README.toml`).

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use taper_arch::{ImageSpec, SelectedBlock, Selection};
use taper_model::{
    Batch, Checkpoint, Gradients, Model, Parameter, PassOptions, Place, Recompute, Slopes, StoredType, calibrate,
    parameters, save,
};

const LOGITS: f64 = 1e-4; // as golden-vit/README.toml says, and why
const LOSS: f64 = 1e-5;
const GRADIENT: f64 = 1e-4;
const KEY_BIAS: f64 = 1e-6; // its gradient is 0 but for rounding

struct Golden {
    model: Model,
    pixels: Vec<f32>,
    labels: Vec<u32>,
    values: BTreeMap<String, Tensor>,
}

fn folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden-vit");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.retain(|path| path.is_dir());
    folders.sort();
    assert_eq!(folders.len(), 7);
    folders
}

impl Golden {
    fn open(folder: &Path) -> Self {
        let model = Model::load(&Checkpoint::open(folder).unwrap()).unwrap();
        let values = candle_core::safetensors::load(folder.join("golden.safetensors"), &Device::Cpu).unwrap();
        let values: BTreeMap<String, Tensor> = values.into_iter().collect();
        let labels = values["labels"].to_dtype(DType::U32).unwrap().to_vec1::<u32>().unwrap();
        Self { model, pixels: flat(&values["pixel_values"]), labels, values }
    }

    fn batch(&self) -> Batch<'_> {
        Batch::images(&self.pixels, &self.labels, self.model.spec().image.unwrap()).unwrap()
    }
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn logits(model: &Model, golden: &Golden) -> Vec<f32> {
    flat(&model.logits(golden.batch()).unwrap())
}

#[test]
fn logits_are_those_of_transformers() {
    for folder in folders() {
        let golden = Golden::open(&folder);
        let worst = testkit::max_abs_diff(&logits(&golden.model, &golden), &flat(&golden.values["logits"]));
        assert!(worst <= LOGITS, "{}: {worst}", folder.display());
    }
}

#[test]
fn loss_and_every_gradient_are_those_of_pytorch() {
    for folder in folders() {
        let golden = Golden::open(&folder);
        let spec = golden.model.spec();
        for recompute in [Recompute::Nothing, Recompute::Cheap, Recompute::Insides] {
            let mut sink = Gradients::default();
            let weight = 1.0 / golden.labels.len() as f32;
            let losses = golden.model.backward(golden.batch(), weight, recompute, &mut sink).unwrap();
            let loss = losses.iter().map(|loss| f64::from(*loss)).sum::<f64>() / losses.len() as f64;
            let wanted = f64::from(golden.values["loss"].to_scalar::<f32>().unwrap());
            assert!((loss - wanted).abs() <= LOSS, "{}: loss {loss}, wanted {wanted}", folder.display());
            let places = parameters(spec);
            assert_eq!(sink.by_place.len(), places.len());
            for (place, shape) in places {
                let name = place.name(spec);
                let Some(wanted) = golden.values.get(&format!("grad.{name}")) else {
                    assert!(folder.to_string_lossy().contains("timm"), "{name}"); // fused there, and looked at by logits
                    continue;
                };
                let mut found = sink.by_place[&place].to_host().unwrap();
                if place.parameter.transposed() {
                    found = found.t().unwrap();
                }
                assert_eq!(found.elem_count(), shape.iter().product::<usize>(), "{name}");
                let (found, wanted) = (flat(&found), flat(wanted));
                let largest = wanted.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
                let worst = testkit::max_abs_diff(&found, &wanted);
                if place.parameter == Parameter::KBias {
                    assert!(worst <= KEY_BIAS, "{} {name}: {worst}", folder.display());
                } else {
                    assert!(worst / f64::from(largest) <= GRADIENT, "{} {name}: {worst}", folder.display());
                }
            }
        }
    }
}

/// Some cuts of every kind: fewer heads, fewer channels, halves and a block removed.
fn cuts(model: &Model) -> Vec<Vec<SelectedBlock>> {
    let whole = Selection::whole(model.spec()).blocks;
    let change = |f: &dyn Fn(usize, &mut SelectedBlock)| {
        let mut blocks = whole.clone();
        blocks.iter_mut().enumerate().for_each(|(index, block)| f(index, block));
        blocks
    };
    let heads = |block: &mut SelectedBlock| {
        let attention = block.attention.as_mut().unwrap();
        (attention.heads, attention.groups) = (vec![1], vec![1]); // heads are their own groups here
    };
    vec![
        change(&|_, block| heads(block)),
        change(&|index, block| _ = (index == 0).then(|| heads(block))),
        change(&|index, block| block.mlp = Some((index..17).collect())),
        change(&|index, block| _ = (index == 1).then(|| block.attention = None)),
        change(&|index, block| _ = (index == 0).then(|| block.mlp = None)),
        change(&|index, block| _ = (index == 1).then(|| (block.attention, block.mlp) = (None, None))),
    ]
}

/// What the head sees, and the gradient of everything from one of it.
fn through(
    model: &Model,
    batch: Batch<'_>,
    whole: bool,
    recompute: Recompute,
) -> (Vec<f32>, BTreeMap<Place, Vec<f32>>) {
    let mut sink = Gradients::default();
    let pass = model.pass(batch, PassOptions { whole, ..PassOptions::new(recompute) }).unwrap();
    let seen = model.read(&pass).unwrap();
    let slopes: Vec<f32> = (0..seen.elem_count()).map(|i| (i as f32 * 0.7).sin()).collect();
    let slopes = Tensor::from_vec(slopes, seen.dims(), &Device::Cpu).unwrap().into();
    let end = Some(model.read_backward(&pass, &slopes, &mut sink).unwrap());
    let before = pass.backward(model, Slopes { end, ..Slopes::default() }, &mut sink).unwrap().unwrap();
    model.embed_backward(batch, &before, &mut sink).unwrap();
    let gradients = sink.by_place.into_iter().map(|(place, gradient)| (place, gradient.to_vec().unwrap()));
    (seen.to_vec().unwrap(), gradients.collect())
}

#[test]
fn tokens_that_nobody_reads_need_not_go_to_the_end() {
    for folder in folders() {
        let golden = Golden::open(&folder);
        for (number, kept) in cuts(&golden.model).into_iter().enumerate() {
            let model = golden.model.cut(&kept).unwrap();
            for recompute in [Recompute::Nothing, Recompute::Insides] {
                let (seen, gradients) = through(&model, golden.batch(), false, recompute);
                let (whole_seen, whole_gradients) = through(&model, golden.batch(), true, recompute);
                let place = format!("{}, cut {number}", folder.display());
                assert!(testkit::max_abs_diff(&seen, &whole_seen) < 1e-5, "{place}");
                assert_eq!(gradients.keys().collect::<Vec<_>>(), whole_gradients.keys().collect::<Vec<_>>());
                for (at, gradient) in &gradients {
                    let largest = whole_gradients[at].iter().fold(1e-3_f32, |most, x| most.max(x.abs()));
                    let worst = testkit::max_abs_diff(gradient, &whole_gradients[at]);
                    let bound = 1e-5 * f64::from(if at.parameter == Parameter::KBias { 1.0 } else { largest });
                    assert!(worst <= bound, "{place}, {at:?}: {worst} of {largest}");
                }
            }
        }
    }
}

/// This model with the output weights of all that is not kept set to 0, and what removed halves add.
fn masked(model: &Model, kept: &[SelectedBlock]) -> Model {
    let tensors: BTreeMap<Place, taper_kernels::Tensor> = model.tensors().into_iter().collect();
    let spec = model.spec();
    let take = |place: Place| {
        let tensor = tensors[&place].clone();
        let Some(kept) = place.block.map(|block| &kept[block]) else { return Ok(tensor) };
        let units: Option<Vec<usize>> = match place.parameter {
            Parameter::O | Parameter::OBias => kept
                .attention
                .as_ref()
                .map(|a| a.heads.iter().flat_map(|head| head * spec.d_head..(head + 1) * spec.d_head).collect()),
            Parameter::Down | Parameter::DownBias => kept.mlp.clone(),
            _ => return Ok(tensor),
        };
        let bias = matches!(place.parameter, Parameter::OBias | Parameter::DownBias);
        let (mut values, dims) = (tensor.to_vec().unwrap(), tensor.dims().to_vec());
        for (at, value) in values.iter_mut().enumerate() {
            let stays = units.as_ref().is_some_and(|units| bias || units.contains(&(at / spec.d_model)));
            *value *= f32::from(u8::from(stays));
        }
        Ok(Tensor::from_vec(values, dims, &Device::Cpu).unwrap().into())
    };
    Model::assemble(spec.clone(), &take).unwrap()
}

#[test]
fn masked_and_cut_and_saved_compute_the_same() {
    for folder in folders() {
        let golden = Golden::open(&folder);
        let whole = logits(&golden.model, &golden);
        for (number, kept) in cuts(&golden.model).iter().enumerate() {
            let what = format!("{} cut {number}", folder.display());
            let cut = golden.model.cut(kept).unwrap();
            let wanted = logits(&masked(&golden.model, kept), &golden);
            let largest = wanted.iter().fold(1.0_f32, |most, x| most.max(x.abs()));
            let found = logits(&cut, &golden);
            assert!(testkit::max_abs_diff(&found, &wanted) <= 1e-5 * f64::from(largest), "{what}");
            assert!(testkit::max_abs_diff(&found, &whole) > 1e-4, "{what}: nothing was cut");
            let saved = tempfile::tempdir().unwrap();
            save(&cut, saved.path(), StoredType::F32, u64::MAX).unwrap();
            let spec = cut.without_empty_blocks().spec().clone();
            let names: Vec<String> = parameters(&spec).iter().map(|(place, _)| place.name(&spec)).collect();
            let stored = candle_core::safetensors::load(saved.path().join("model.safetensors"), &Device::Cpu).unwrap();
            assert_eq!(stored.len(), names.len(), "{what}");
            for (place, shape) in parameters(&spec) {
                assert_eq!(stored[&place.name(&spec)].dims(), shape, "{what} {place:?}");
            }
        }
    }
}

#[test]
fn calibration_ranks_units_by_what_they_add() {
    let golden = Golden::open(&folders()[3]);
    let found = calibrate(&golden.model, golden.batch()).unwrap();
    let loss = f64::from(golden.values["loss"].to_scalar::<f32>().unwrap());
    assert!((found.loss - loss).abs() < LOSS, "{} {loss}", found.loss);
    let spec = golden.model.spec();
    assert!(found.units.iter().all(|[heads, channels]| heads.len() == 3 && channels.len() == 48), "{spec:?}");
    assert!(found.order.check(spec).is_ok());
}

#[test]
fn what_is_no_batch_for_the_model_is_refused() {
    let golden = Golden::open(&folders()[5]);
    let image = golden.model.spec().image.unwrap();
    let refusal = |batch: Batch<'_>| golden.model.logits(batch).unwrap_err().to_string();
    assert_eq!(refusal(Batch::new(&[1, 2, 3, 4], 2).unwrap()), "images: the model reads images, not tokens");
    let other = ImageSpec { size: [8, 8], ..image };
    let pixels = vec![0.0; other.pixels()];
    assert_eq!(
        refusal(Batch::images(&pixels, &[0], other).unwrap()),
        "images: images of another size than the model's"
    );
    let labels = Batch::images(&golden.pixels[..image.pixels()], &[99], image).unwrap();
    assert_eq!(refusal(labels), "images: class 99 of an image is none of the 4");
    assert!(Batch::images(&golden.pixels[1..], &golden.labels, image).is_err());
}

#[test]
fn another_resolution_is_that_of_transformers() {
    let mut seen = 0;
    for folder in folders() {
        let golden = Golden::open(&folder);
        for kind in ["large", "small"] {
            let Some(pixels) = golden.values.get(&format!("pixel_values_{kind}")) else { continue };
            let [_, _, height, width] = pixels.dims()[..] else { panic!("{:?}", pixels.dims()) };
            let model = golden.model.at_resolution([height, width]).unwrap();
            let values = flat(pixels);
            let labels = vec![0; pixels.dims()[0]];
            let batch = Batch::images(&values, &labels, model.spec().image.unwrap()).unwrap();
            let found = flat(&model.logits(batch).unwrap());
            let worst = testkit::max_abs_diff(&found, &flat(&golden.values[&format!("logits_{kind}")]));
            assert!(worst <= LOGITS, "{} {kind}: {worst}", folder.display());
            seen += 1;
        }
        let same = golden.model.at_resolution(golden.model.spec().image.unwrap().size).unwrap();
        assert_eq!(logits(&same, &golden), logits(&golden.model, &golden));
    }
    assert_eq!(seen, 4);
    let refusal = Golden::open(&folders()[0]).model.at_resolution([3, 16]).unwrap_err().to_string();
    assert_eq!(refusal, "images: [3, 16] pixels have no patch of 4");
}
