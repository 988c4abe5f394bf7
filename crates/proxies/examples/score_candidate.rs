//! Scores one candidate of a model with random weights on a device, and prints one line of JSON: seconds, share of the
//! device's own bf16 peak (a product of the same run), peak memory. Nothing is read from disk.
//!
//! Argument: a [`Setting`] as JSON; what it leaves out is a model of Llama-2-7B's shape cut to 2.7e9 weights, 16 sequences
//! of 4096 tokens, on a GPU. `emulated` runs the same on the host, for tiny sizes: `scripts/gpu_run.sh` does before it packs.
//! FLOPs are counted as in `shared/mod.rs`.

use std::error::Error;
use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use taper_arch::spec::Family;
use taper_arch::{AttentionSpec, BlockSpec, MlpSpec, ModelSpec, SelectedBlock};
use taper_base::rng::{Rng, stream};
use taper_kernels::cuda::{Array, Machine, Storage};
use taper_kernels::{Tensor, into_units};
use taper_model::{Model, Place, Recompute, parameter_count, parameters};
use taper_proxies::methods::gradient_trace::GradientTrace;
use taper_proxies::{Base, Projection, Proxy, Settings};

mod shared;
use shared::{first_units, flops};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Setting {
    device: Device,
    blocks: usize,
    d_model: usize,
    heads: usize,
    d_ff: usize,
    vocab: usize,
    /// Ratio of heads and of channels kept in each block.
    kept: f64,
    sequences: usize,
    length: usize,
    /// Of the sketches.
    rank: usize,
    /// Candidates whose times are looked at; one before them is not.
    candidates: usize,
    /// Side of the square product whose speed is the peak.
    product: usize,
    /// Bytes to plan for.
    memory: u64,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            device: Device::Cuda,
            blocks: 32,
            d_model: 4096,
            heads: 32,
            d_ff: 11_008,
            vocab: 32_000,
            kept: 0.375,
            sequences: 16,
            length: 4096,
            rank: 64,
            candidates: 3,
            product: 8192,
            memory: 48 << 30,
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Device {
    Cuda,
    Emulated,
}

#[derive(Serialize)]
struct Done {
    device: String,
    weights: u64,
    kept_weights: u64,
    tokens: usize,
    recompute: bool,
    /// The whole model's pass, compiled kernels and all.
    base_seconds: f64,
    /// Of each candidate, the median first.
    seconds: Vec<f64>,
    flops: f64,
    peak_flops_per_second: f64,
    share_of_peak: f64,
    peak_bytes: u64,
    loss: Option<f64>,
    score: f64,
}

/// A machine, what it is called, and the memory it has held at most since it was last asked.
type Opened = (Arc<dyn Machine>, String, Box<dyn Fn() -> Result<u64, Box<dyn Error>>>);

fn open(device: Device) -> Result<Opened, Box<dyn Error>> {
    match device {
        Device::Emulated => {
            let host = emulation::Host::quick();
            let counter = Arc::clone(&host);
            let peak = move || {
                let peak = counter.counts().peak as u64;
                counter.reset();
                Ok(peak)
            };
            Ok((host, "emulated".to_owned(), Box::new(peak)))
        }
        #[cfg(feature = "cuda")]
        Device::Cuda => {
            let gpu = Arc::new(taper_kernels::cuda::Device::open(0)?);
            let (name, counter) = (gpu.name().to_owned(), Arc::clone(&gpu));
            Ok((gpu, name, Box::new(move || Ok(counter.take_peak_bytes()?))))
        }
        #[cfg(not(feature = "cuda"))]
        Device::Cuda => Err("built without `--features cuda`".into()),
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let setting: Setting = serde_json::from_str(&std::env::args().nth(1).unwrap_or_else(|| "{}".to_owned()))?;
    let (machine, device, peak_bytes) = open(setting.device)?;
    let peak = peak_flops(&machine, setting.product)?;
    let model = random(&machine, &spec(&setting))?;
    let ids: Vec<u32> = {
        let mut rng = stream(0, "ids", 0, 0);
        (0..setting.sequences * setting.length).map(|_| (rng.next_u64() % setting.vocab as u64) as u32).collect()
    };
    let proxy = GradientTrace { sketch_rank: Projection::Rank(setting.rank), ..GradientTrace::default() };
    let settings = Settings { needs: proxy.needs(), seed: 0, memory: setting.memory };
    peak_bytes()?; // of what follows alone
    let start = Instant::now();
    let base = Base::new(&model, taper_model::Batch::new(&ids, setting.length)?, settings)?;
    let base_seconds = start.elapsed().as_secs_f64();
    let kept: Vec<SelectedBlock> = model.spec().blocks.iter().map(|block| first_units(block, setting.kept)).collect();
    let (mut times, mut seen) = (Vec::new(), base.observe(&kept)?);
    for _ in 0..setting.candidates {
        let start = Instant::now();
        seen = base.observe(&kept)?; // its numbers are on the host: the device is done
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    times.swap(0, setting.candidates / 2);
    let cut = model.cut(&kept)?;
    let [flops, _] = flops(cut.spec(), ids.len(), setting.length, Some(setting.rank));
    let done = Done {
        device,
        weights: parameter_count(model.spec()),
        kept_weights: parameter_count(cut.spec()),
        tokens: ids.len(),
        recompute: base.plan().recompute == Recompute::Insides,
        base_seconds,
        flops,
        peak_flops_per_second: peak,
        share_of_peak: flops / times[0] / peak,
        seconds: times,
        peak_bytes: peak_bytes()?,
        loss: seen.loss,
        score: proxy.score(&seen)?,
    };
    writeln!(std::io::stdout().lock(), "{}", serde_json::to_string(&done)?)?;
    Ok(())
}

fn spec(setting: &Setting) -> ModelSpec {
    let attention = AttentionSpec { n_heads: setting.heads, n_kv_heads: setting.heads, window: None };
    let block = BlockSpec { attention: Some(attention), mlp: Some(MlpSpec { d_ff: setting.d_ff }) };
    ModelSpec {
        family: Family::Llama,
        d_model: setting.d_model,
        d_head: setting.d_model / setting.heads,
        vocab: setting.vocab,
        blocks: vec![block; setting.blocks],
        max_tokens: setting.length,
        dtype_bytes: 2,
        tied_head: false,
        ..taper_arch::spec::example()
    }
}

/// Weights that keep activations of about 1, made where they are needed, one matrix at a time.
fn random(machine: &Arc<dyn Machine>, spec: &ModelSpec) -> Result<Model, Box<dyn Error>> {
    let shapes = parameters(spec);
    let scale = 1.0 / (spec.d_model as f32).sqrt();
    let take = |place: Place| {
        let shape = shapes.iter().find(|(other, _)| *other == place).map(|(_, shape)| shape.clone());
        let mut shape = shape.unwrap_or_default();
        if place.parameter.transposed() {
            shape.reverse();
        }
        let name = place.name(spec);
        let uniform = |bits: u64| (bits as f32 / u16::MAX as f32 - 0.5) * 3.5 * scale; // of variance scale²
        let mut values = vec![1.0; shape.iter().product()]; // norms
        if shape.len() > 1 {
            values.par_chunks_mut(1 << 20).enumerate().for_each(|(index, chunk)| {
                let mut rng = stream(1, &name, index as u64, 0);
                for four in chunk.chunks_mut(4) {
                    let word = rng.next_u64();
                    four.iter_mut().zip([0, 16, 32, 48]).for_each(|(x, shift)| *x = uniform(word >> shift & 0xffff));
                }
            });
        }
        let array = Array::of(machine, &values, &shape, Storage::Bf16);
        array
            .map(Tensor::from)
            .map_err(|cause| taper_model::ModelError::Compute { place: name, cause: Box::new(cause.into()) })
    };
    Ok(Model::assemble(spec.clone(), &take)?)
}

/// FLOP/s of a square product in bf16, the best of some runs.
fn peak_flops(machine: &Arc<dyn Machine>, side: usize) -> Result<f64, Box<dyn Error>> {
    let mut rng = stream(2, "product", 0, 0);
    let values: Vec<f32> = (0..side * side).map(|_| (rng.next_u64() as u16) as f32 / 65_536.0 - 0.5).collect();
    let square: Tensor = Array::of(machine, &values, &[side, side], Storage::Bf16)?.into();
    let mut best = f64::INFINITY;
    for _ in 0..8 {
        let start = Instant::now();
        let products: Vec<Tensor> = (0..4).map(|_| into_units(&square, &square, None)).collect::<Result<_, _>>()?;
        products.iter().try_for_each(|product| product.rows(0, 1)?.to_vec().map(drop))?; // they are done
        best = best.min(start.elapsed().as_secs_f64() / 4.0);
    }

    Ok(2.0 * (side as f64).powi(3) / best)
}
