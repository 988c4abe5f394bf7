//! Masked, cut, sorted, saved and reloaded models are the same model; and the engine's gradients are slopes.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(clippy::print_stdout, reason = "the largest differences, for --nocapture")]

mod calibration;
mod gradient;
mod masked;
mod reference;
#[path = "../shared/mod.rs"]
mod shared;
mod sorted;

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value, json};
use taper_arch::{ModelSpec, SelectedBlock, Selection};
use taper_model::{Batch, Checkpoint, Model, Place, StoredType, parameters, save};

use crate::reference::Reference;
use crate::shared::golden_folders;

/// Largest difference of a logit, relative to the model's largest logit (4 to 11 here) if that is above 1: two orders of
/// summation in f32 differ by about 1e-6 of it, and by which amount depends on the processor.
pub(crate) const LOGITS: f64 = 1e-5;

/// A model of `golden/` with its token ids, twice: as the engine has it and as the plain reference has it.
pub(crate) struct Tiny {
    pub(crate) name: String,
    pub(crate) config: Value,
    pub(crate) model: Model,
    pub(crate) reference: Reference,
    pub(crate) ids: Vec<u32>,
    pub(crate) length: usize,
}

impl Tiny {
    pub(crate) fn all() -> Vec<Self> {
        golden_folders().iter().map(|folder| Self::open(folder)).collect()
    }

    fn open(folder: &Path) -> Self {
        let checkpoint = Checkpoint::open(folder).unwrap();
        let golden = candle_core::safetensors::load(folder.join("golden.safetensors"), &Device::Cpu).unwrap();
        let ids = golden["input_ids"].to_dtype(DType::U32).unwrap().to_vec2::<u32>().unwrap();
        Self {
            name: folder.file_name().unwrap().to_string_lossy().into_owned(),
            config: checkpoint.config().clone(),
            model: Model::load(&checkpoint).unwrap(),
            reference: Reference::open(folder),
            length: ids[0].len(),
            ids: ids.concat(),
        }
    }

    pub(crate) fn spec(&self) -> &ModelSpec {
        self.model.spec()
    }

    pub(crate) fn whole(&self) -> Vec<SelectedBlock> {
        Selection::whole(self.spec()).blocks
    }

    pub(crate) fn batch(&self) -> Batch<'_> {
        Batch::new(&self.ids, self.length).unwrap()
    }

    pub(crate) fn logits(&self, model: &Model) -> Vec<f32> {
        flat(&model.logits(self.batch()).unwrap())
    }

    /// This model with the output weights of all units outside of `kept` set to zero, read from a file: masked as the
    /// engine itself computes it.
    pub(crate) fn masked(&self, kept: &[SelectedBlock]) -> Model {
        let mut weights = self.reference.weights.clone();
        for (block, mask) in self.reference.mask(kept).into_iter().enumerate() {
            for (name, mask) in [("self_attn.o_proj", mask.heads), ("mlp.down_proj", mask.channels)] {
                let name = format!("model.layers.{block}.{name}");
                let weight = weights.get_mut(&format!("{name}.weight")).unwrap();
                match mask {
                    Some(mask) => {
                        let columns = weight.len() / self.spec().d_model;
                        let unit = |at: usize| at % columns / (columns / mask.len());
                        weight.iter_mut().enumerate().for_each(|(at, w)| *w *= mask[unit(at)]);
                    }
                    None => {
                        weight.fill(0.0);
                        weights.entry(format!("{name}.bias")).and_modify(|bias| bias.fill(0.0));
                    }
                }
            }
        }
        let tensor = |(place, shape): (Place, Vec<usize>)| {
            let values: Vec<f32> = weights[&place.name(self.spec())].iter().map(|w| *w as f32).collect();
            (place.name(self.spec()), Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
        };
        let tensors = parameters(self.spec()).into_iter().map(tensor).collect();
        let folder = tempfile::tempdir().unwrap();
        candle_core::safetensors::save(&tensors, folder.path().join("model.safetensors")).unwrap();
        taper_base::files::write_json(&folder.path().join("config.json"), &self.config).unwrap();
        Model::load(&Checkpoint::open(folder.path()).unwrap()).unwrap()
    }

    /// `model`, cut from this one, through files; `shard_bytes` as in [`save`].
    pub(crate) fn reloaded(&self, model: &Model, shard_bytes: u64) -> Model {
        let folder = tempfile::tempdir().unwrap();
        save(model, folder.path(), StoredType::F32, shard_bytes).unwrap();
        let config = configuration(&self.config, model.without_empty_blocks().spec());
        taper_base::files::write_json(&folder.path().join("config.json"), &config).unwrap();
        Model::load(&Checkpoint::open(folder.path()).unwrap()).unwrap()
    }
}

/// The largest difference, and what of it [`LOGITS`] bounds.
pub(crate) fn difference<A: Copy + Into<f64>, B: Copy + Into<f64>>(a: &[A], b: &[B]) -> [f64; 2] {
    let largest = b.iter().fold(1.0_f64, |most, x| most.max((*x).into().abs()));
    let difference = testkit::max_abs_diff(a, b);
    [difference, difference / largest]
}

pub(crate) fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The configuration of a cut model: the original's, with every layer's sizes spelled out.
fn configuration(source: &Value, spec: &ModelSpec) -> Value {
    let layer = |(index, block): (usize, &taper_arch::BlockSpec)| {
        let (mut keys, mut skip) = (Map::new(), Vec::new());
        match block.attention {
            Some(attention) => {
                keys.insert("num_attention_heads".to_owned(), json!(attention.n_heads));
                keys.insert("num_key_value_heads".to_owned(), json!(attention.n_kv_heads));
            }
            None => skip.push("attention"),
        }
        match block.mlp {
            Some(mlp) => drop(keys.insert("intermediate_size".to_owned(), json!(mlp.d_ff))),
            None => skip.push("mlp"),
        }
        keys.insert("skip".to_owned(), json!(skip));
        (index.to_string(), Value::Object(keys))
    };
    let mut config = source.clone();
    config["head_dim"] = json!(spec.d_head);
    config["num_hidden_layers"] = json!(spec.blocks.len());
    config["per_layer_config"] = spec.blocks.iter().enumerate().map(layer).collect::<Map<_, _>>().into();
    config
}
