//! A forward pass to compare with: plain loops in f64 over the stored weights, nothing shared with the engine.
//!
//! Removed units are multiplied by 0 where they enter the output projection; nothing is cut.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use taper_arch::{AttentionSpec, ModelSpec, RopeScaling, SelectedBlock};
use taper_model::{Checkpoint, Model};

type Rows = Vec<Vec<f64>>; // one row a token

/// What of one block takes part: 1 or 0 for each head and channel; `None` is a removed half.
#[derive(Clone)]
pub struct Mask {
    pub heads: Option<Vec<f64>>,
    pub channels: Option<Vec<f64>>,
}

/// Weights by their stored name, in their stored shape.
pub struct Reference {
    pub spec: ModelSpec,
    pub weights: BTreeMap<String, Vec<f64>>,
    kv_of: Vec<Vec<usize>>, // by block and head
}

/// What one pass saw.
pub struct Seen {
    /// `[tokens, vocab]`.
    pub logits: Vec<f64>,
    /// Inputs of o and down, by block.
    pub units: Vec<[Rows; 2]>,
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// KV head of each query head in a checkpoint: groups one after the other.
fn stored_kv_of(spec: &ModelSpec) -> Vec<Vec<usize>> {
    let heads = |a: AttentionSpec| (0..a.n_heads).map(|head| head / (a.n_heads / a.n_kv_heads)).collect();
    spec.blocks.iter().map(|block| block.attention.map_or(Vec::new(), heads)).collect()
}

impl Reference {
    /// The checkpoint in `folder`.
    pub fn open(folder: &Path) -> Self {
        let spec = Checkpoint::open(folder).unwrap().spec().clone();
        let stored = candle_core::safetensors::load(folder.join("model.safetensors"), &Device::Cpu).unwrap();
        let stored: BTreeMap<String, Tensor> = stored.into_iter().collect();
        let weights = stored.iter().map(|(name, tensor)| (name.clone(), values(tensor))).collect();
        Self { kv_of: stored_kv_of(&spec), spec, weights }
    }

    /// The weights of a model in memory, cut from `whole` by `kept` and without empty blocks.
    pub fn of(model: &Model, whole: &ModelSpec, kept: &[SelectedBlock]) -> Self {
        let stored = |(place, tensor): (taper_model::Place, taper_kernels::Tensor)| {
            let tensor = tensor.to_host().unwrap();
            let tensor = if place.parameter.transposed() { tensor.t().unwrap() } else { tensor };
            (place.name(whole), values(&tensor))
        };
        let kv_of = kept.iter().zip(stored_kv_of(whole)).map(|(kept, kv_of)| {
            let kept = kept.attention.as_ref();
            kept.map_or(Vec::new(), |kept| {
                let group = |head: &usize| kept.groups.iter().position(|group| *group == kv_of[*head]).unwrap();
                kept.heads.iter().map(group).collect()
            })
        });
        Self {
            spec: model.spec().clone(),
            weights: model.tensors().into_iter().map(stored).collect(),
            kv_of: kv_of.collect(),
        }
    }

    /// Everything takes part.
    pub fn whole(&self) -> Vec<Mask> {
        let mask = |block: &taper_arch::BlockSpec| Mask {
            heads: block.attention.map(|a| vec![1.0; a.n_heads]),
            channels: block.mlp.map(|m| vec![1.0; m.d_ff]),
        };
        self.spec.blocks.iter().map(mask).collect()
    }

    /// Only what `kept` names takes part.
    pub fn mask(&self, kept: &[SelectedBlock]) -> Vec<Mask> {
        let pick =
            |ones: Vec<f64>, kept: &[usize]| (0..ones.len()).map(|unit| f64::from(kept.contains(&unit))).collect();
        let block = |(whole, kept): (Mask, &SelectedBlock)| Mask {
            heads: kept.attention.as_ref().map(|kept| pick(whole.heads.unwrap(), &kept.heads)),
            channels: kept.mlp.as_ref().map(|kept| pick(whole.channels.unwrap(), kept)),
        };
        self.whole().into_iter().zip(kept).map(block).collect()
    }

    /// `ids` in rows of `length`, each for itself.
    pub fn forward(&self, ids: &[u32], length: usize, masks: &[Mask]) -> Seen {
        let mut seen = Seen { logits: Vec::new(), units: vec![[Rows::new(), Rows::new()]; masks.len()] };
        for ids in ids.chunks(length) {
            let (d, embedding) = (self.spec.d_model, &self.weights["model.embed_tokens.weight"]);
            let mut x: Rows = ids.iter().map(|id| embedding[*id as usize * d..][..d].to_vec()).collect();
            for (block, mask) in masks.iter().enumerate() {
                if let Some(mask) = &mask.heads {
                    let units = self.heads(block, &x, mask);
                    x = add(&x, &self.linear(&format!("model.layers.{block}.self_attn.o_proj"), &units));
                    seen.units[block][0].extend(units);
                }
                if let Some(mask) = &mask.channels {
                    let units = self.channels(block, &x, mask);
                    x = add(&x, &self.linear(&format!("model.layers.{block}.mlp.down_proj"), &units));
                    seen.units[block][1].extend(units);
                }
            }
            let x = self.norm("model.norm.weight", &x, self.spec.d_model);
            let head = if self.spec.tied_head { "model.embed_tokens" } else { "lm_head" };
            seen.logits.extend(self.linear(head, &x).concat());
        }
        seen
    }

    /// Mean loss of the next token, in nats.
    pub fn loss(&self, ids: &[u32], length: usize, masks: &[Mask]) -> f64 {
        let logits = self.forward(ids, length, masks).logits;
        let predicted = (0..ids.len()).filter(|token| token % length != length - 1);
        let losses = predicted.map(|token| {
            let row = &logits[token * self.spec.vocab..][..self.spec.vocab];
            let most = row.iter().fold(f64::MIN, |most, x| most.max(*x));
            most + row.iter().map(|x| (x - most).exp()).sum::<f64>().ln() - row[ids[token + 1] as usize]
        });
        losses.sum::<f64>() / (ids.len() - ids.len() / length) as f64
    }

    /// `x Wᵀ + b`, the bias if there is one.
    fn linear(&self, name: &str, x: &Rows) -> Rows {
        let (weight, bias) = (&self.weights[&format!("{name}.weight")], self.weights.get(&format!("{name}.bias")));
        let rows = |x: &Vec<f64>| {
            let dot = |w: &[f64]| w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
            let out = weight.chunks(x.len()).enumerate();
            out.map(|(at, w)| dot(w) + bias.map_or(0.0, |bias| bias[at])).collect()
        };
        x.iter().map(rows).collect()
    }

    /// RMSNorm of each piece of `width`.
    fn norm(&self, name: &str, x: &Rows, width: usize) -> Rows {
        let weight = &self.weights[name];
        let piece = |x: &[f64]| -> Vec<f64> {
            let root = (x.iter().map(|x| x * x).sum::<f64>() / width as f64 + self.spec.norm_eps).sqrt();
            x.iter().zip(weight).map(|(x, w)| x / root * w).collect()
        };
        x.iter().map(|row| row.chunks(width).flat_map(piece).collect()).collect()
    }

    fn channels(&self, block: usize, x: &Rows, mask: &[f64]) -> Rows {
        let n = self.norm(&format!("model.layers.{block}.post_attention_layernorm.weight"), x, self.spec.d_model);
        let gate = self.linear(&format!("model.layers.{block}.mlp.gate_proj"), &n);
        let up = self.linear(&format!("model.layers.{block}.mlp.up_proj"), &n);
        let unit = |((g, u), m): ((&f64, &f64), &f64)| g / (1.0 + (-g).exp()) * u * m;
        gate.iter().zip(&up).map(|(g, u)| g.iter().zip(u).zip(mask).map(unit).collect()).collect()
    }

    fn heads(&self, block: usize, x: &Rows, mask: &[f64]) -> Rows {
        let at = format!("model.layers.{block}");
        let d = self.spec.d_head;
        let n = self.norm(&format!("{at}.input_layernorm.weight"), x, self.spec.d_model);
        let projected = |which: &str| self.linear(&format!("{at}.self_attn.{which}_proj"), &n);
        let turned = |which: &str| {
            let norm = format!("{at}.self_attn.{which}_norm.weight");
            let x = projected(which);
            self.turn(&if self.spec.qk_norm { self.norm(&norm, &x, d) } else { x })
        };
        let (q, k, v) = (turned("q"), turned("k"), projected("v"));
        let window = self.spec.blocks[block].attention.unwrap().window.unwrap_or(usize::MAX);
        let mut out = vec![vec![0.0; mask.len() * d]; x.len()];
        for (head, kv) in self.kv_of[block].iter().enumerate() {
            for (t, out) in out.iter_mut().enumerate() {
                let keys = (t + 1).saturating_sub(window)..t + 1;
                let score =
                    |s: usize| (0..d).map(|i| q[t][head * d + i] * k[s][kv * d + i]).sum::<f64>() / (d as f64).sqrt();
                let weights: Vec<f64> = keys.clone().map(|s| score(s).exp()).collect();
                let total: f64 = weights.iter().sum();
                for (s, weight) in keys.zip(weights) {
                    (0..d).for_each(|i| out[head * d + i] += mask[head] * weight / total * v[s][kv * d + i]);
                }
            }
        }
        out
    }

    /// Rotary embedding of every head; row `t` is position `t`.
    fn turn(&self, x: &Rows) -> Rows {
        let (d, half) = (self.spec.d_head, self.spec.d_head / 2);
        let mut out = x.clone();
        for (t, row) in out.iter_mut().enumerate() {
            for head in row.chunks_mut(d) {
                for i in 0..half {
                    // frequency and angle are defined in f32: that is how transformers computes them
                    let angle = f64::from(t as f32 * self.frequency(i) as f32);
                    let (a, b) = (head[i], head[i + half]);
                    head[i] = a * angle.cos() - b * angle.sin();
                    head[i + half] = b * angle.cos() + a * angle.sin();
                }
            }
        }
        out
    }

    fn frequency(&self, pair: usize) -> f64 {
        let f = self.spec.rope_theta.powf(-2.0 * pair as f64 / self.spec.d_head as f64);
        match self.spec.rope_scaling {
            None => f,
            Some(RopeScaling::Linear { factor }) => f / factor,
            Some(RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            }) => {
                let (old, wavelength) = (original_max_position_embeddings as f64, std::f64::consts::TAU / f);
                if wavelength < old / high_freq_factor {
                    f
                } else if wavelength > old / low_freq_factor {
                    f / factor
                } else {
                    let kept = (old / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    (1.0 - kept) * f / factor + kept * f
                }
            }
        }
    }
}

fn add(a: &Rows, b: &Rows) -> Rows {
    a.iter().zip(b).map(|(a, b)| a.iter().zip(b).map(|(a, b)| a + b).collect()).collect()
}
