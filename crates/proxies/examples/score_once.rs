//! Measures the engine on orders from stdin, for `scripts/bench_vs_pytorch.sh`: the model is loaded once, each line is done
//! once, so that another program can be measured in turns with it.
//!
//! Argument: a [`Setting`] as JSON. Lines: `{"score": {"candidates": 1}}`, `"gradients"`, `{"product": {…}}`. Answers: a
//! [`Done`] as JSON each. `RAYON_NUM_THREADS` sets the threads.
//!
//! FLOPs are those of the method, whatever the engine does: an add and a multiply for each weight and token, forward and for
//! the input's gradient; attention's causal pairs alone, 2 products forward and 5 backward (arXiv:2205.14135); sketches
//! or weight gradients. Activations computed again, norms and softmax do not count.

use std::error::Error;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Instant;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use taper_arch::{BlockSpec, ModelSpec, SelectedAttention, SelectedBlock};
use taper_kernels::{into_units, square_sum};
use taper_model::{Batch, Checkpoint, Gradients, Model, Parameter, Recompute, parameters};
use taper_proxies::methods::gradient_trace::GradientTrace;
use taper_proxies::{Base, Needs, Projection, Proxy, Settings};

/// What all orders share.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Setting {
    /// Folder of the checkpoint.
    model: PathBuf,
    /// JSON list of ids, `[sequences * length]`.
    ids: PathBuf,
    length: usize,
    /// Ratio of heads and of channels kept in each block, the first ones.
    kept: f64,
    /// Rank of the sketches.
    rank: usize,
    /// Bytes to plan for; without a bound if none.
    #[serde(default)]
    memory: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Order {
    /// Score that many candidates, one after the other.
    Score { candidates: usize },
    /// Forward and backward of the whole model, with all weight gradients.
    Gradients,
    /// `[tokens, d_in] · [d_out, d_in]ᵀ`.
    Product { tokens: usize, d_in: usize, d_out: usize },
}

#[derive(Serialize)]
struct Done {
    seconds: f64,
    flops: f64,
    /// FLOPs of attention's own products among them.
    attention_flops: f64,
    /// Loss in nats per token, to compare with the other program's.
    loss: Option<f64>,
    /// Score of the candidate, or norm of all gradients.
    value: Option<f64>,
}

fn main() -> Result<(), Box<dyn Error>> {
    taper_base::heap::keep_freed(); // as taper does
    let argument = std::env::args().nth(1).ok_or("usage: score_once SETTING, see the top of its source")?;
    let setting: Setting = serde_json::from_str(&argument)?;
    let ids: Vec<u32> = serde_json::from_slice(&std::fs::read(&setting.ids)?)?;
    let model = Model::load(&Checkpoint::open(&setting.model)?)?;
    let kept: Vec<SelectedBlock> = model.spec().blocks.iter().map(|block| first_units(block, setting.kept)).collect();
    let proxy = GradientTrace { sketch_rank: Projection::Rank(setting.rank), ..GradientTrace::default() };
    let mut base = None; // made by the first order that needs it
    for line in std::io::stdin().lock().lines() {
        let done = match serde_json::from_str(&line?)? {
            Order::Score { candidates } => {
                let settings = Settings {
                    needs: Needs { loss: true, ..proxy.needs() },
                    seed: 0,
                    memory: setting.memory.unwrap_or(u64::MAX),
                };
                let base = match &base {
                    Some(base) => base,
                    None => base.insert(Base::new(&model, &ids, setting.length, settings)?),
                };
                let cut = model.cut(&kept)?;
                let flops = flops(cut.spec(), ids.len(), setting.length, Some(setting.rank));
                score(base, &kept, proxy, candidates, flops)?
            }
            Order::Gradients => gradients(&model, &ids, setting.length)?,
            Order::Product { tokens, d_in, d_out } => product(tokens, d_in, d_out)?,
        };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", serde_json::to_string(&done)?)?;
        out.flush()?;
    }
    Ok(())
}

fn first_units(block: &BlockSpec, ratio: f64) -> SelectedBlock {
    let first = |units: usize| (0..((units as f64 * ratio).round() as usize).max(1)).collect::<Vec<_>>();
    let attention = block.attention.map(|attention| {
        let heads = first(attention.n_heads);
        let groups = heads.len().div_ceil(attention.heads_per_group());
        SelectedAttention { heads, groups: (0..groups).collect() }
    });
    SelectedBlock { attention, mlp: block.mlp.map(|mlp| first(mlp.d_ff)) }
}

fn score(
    base: &Base<'_>,
    kept: &[SelectedBlock],
    proxy: GradientTrace,
    candidates: usize,
    [all, attention]: [f64; 2],
) -> Result<Done, Box<dyn Error>> {
    let (start, mut last) = (Instant::now(), (None, None));
    for _ in 0..candidates {
        let seen = base.observe(kept)?;
        last = (seen.loss, Some(proxy.score(&seen)?));
    }
    let (seconds, times, (loss, value)) = (start.elapsed().as_secs_f64(), candidates as f64, last);
    Ok(Done { seconds, flops: times * all, attention_flops: times * attention, loss, value })
}

fn gradients(model: &Model, ids: &[u32], length: usize) -> Result<Done, Box<dyn Error>> {
    let batch = Batch::new(ids, length)?;
    let weight = 1.0 / (ids.len() - batch.sequences()) as f32;
    let mut sink = Gradients { tied_head: model.spec().tied_head, ..Gradients::default() };
    let start = Instant::now();
    let losses = model.backward(batch, weight, Recompute::Nothing, &mut sink)?;
    let seconds = start.elapsed().as_secs_f64();
    let loss = losses.iter().map(|loss| f64::from(*loss)).sum::<f64>() / losses.len() as f64;
    let squares = sink.by_place.values().map(square_sum).sum::<Result<f64, _>>()?;
    let [flops, attention_flops] = flops(model.spec(), ids.len(), length, None);
    Ok(Done { seconds, flops, attention_flops, loss: Some(loss), value: Some(squares.sqrt()) })
}

fn product(tokens: usize, d_in: usize, d_out: usize) -> Result<Done, Box<dyn Error>> {
    let random = |shape| Tensor::randn(0.0_f32, 1.0, shape, &Device::Cpu);
    let (x, w) = (random((tokens, d_in))?, random((d_out, d_in))?);
    let start = Instant::now();
    into_units(&x, &w, None)?;
    let seconds = start.elapsed().as_secs_f64();
    let flops = 2.0 * tokens as f64 * d_in as f64 * d_out as f64;
    Ok(Done { seconds, flops, attention_flops: 0.0, loss: None, value: None })
}

/// All FLOPs of a forward and backward pass, and those of attention's own products; with sketches of a `rank`, or all
/// weight gradients.
fn flops(spec: &ModelSpec, tokens: usize, length: usize, rank: Option<usize>) -> [f64; 2] {
    let (t, d, head) = (tokens as f64, spec.d_model as f64, (spec.vocab * spec.d_model) as f64);
    let (mut weights, mut units, mut inputs) = (0.0, 0.0, 0.0);
    for (place, shape) in parameters(spec).iter().filter(|(place, _)| place.parameter.traced().is_some()) {
        let size: usize = shape.iter().product();
        weights += size as f64;
        units += size as f64 / d;
        // one projection serves q, k and v, another gate and up (`sketch.rs`)
        inputs += if matches!(place.parameter, Parameter::K | Parameter::V | Parameter::Up) { 0.0 } else { 1.0 };
    }
    let products = 2.0 * 2.0 * t * (weights + head);
    let gradients = match rank {
        Some(rank) => 2.0 * t * rank as f64 * (units + inputs * d),
        None => 2.0 * t * (weights + head),
    };
    let pairs = |window: Option<usize>| (0..length).map(|t| (t + 1).min(window.unwrap_or(length))).sum::<usize>();
    let attention = spec.blocks.iter().filter_map(|block| block.attention);
    let scores = attention.map(|a| (a.n_heads * spec.d_head * pairs(a.window)) as f64).sum::<f64>();
    let attention = 7.0 * 2.0 * scores * (t / length as f64);
    [products + gradients + attention, attention]
}
