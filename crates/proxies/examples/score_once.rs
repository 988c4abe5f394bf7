//! Measures the engine on orders from stdin, for `scripts/bench_vs_pytorch.sh`: the model is loaded once, each line is done
//! once, so that another program can be measured in turns with it.
//!
//! Argument: a [`Setting`] as JSON. Lines: `{"score": {"candidates": 1}}`, `"gradients"`, `{"product": {…}}`. Answers: a
//! [`Done`] as JSON each. `RAYON_NUM_THREADS` sets the threads.

use std::error::Error;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Instant;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use taper_arch::SelectedBlock;
use taper_kernels::{into_units, square_sum};
use taper_model::{Batch, Checkpoint, Gradients, Model, Recompute};
use taper_proxies::methods::gradient_trace::GradientTrace;
use taper_proxies::{Base, Needs, Projection, Proxy, Settings};

mod shared;
use shared::{first_units, flops};

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
                    None => base.insert(Base::new(&model, taper_model::Batch::new(&ids, setting.length)?, settings)?),
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
    let squares = sink.by_place.values().map(|gradient| square_sum(gradient)?.wait()).sum::<Result<f64, _>>()?;
    let [flops, attention_flops] = flops(model.spec(), ids.len(), length, None);
    Ok(Done { seconds, flops, attention_flops, loss: Some(loss), value: Some(squares.sqrt()) })
}

fn product(tokens: usize, d_in: usize, d_out: usize) -> Result<Done, Box<dyn Error>> {
    let random = |shape| Tensor::randn(0.0_f32, 1.0, shape, &Device::Cpu).map(taper_kernels::Tensor::from);
    let (x, w) = (random((tokens, d_in))?, random((d_out, d_in))?);
    let start = Instant::now();
    into_units(&x, &w, None)?;
    let seconds = start.elapsed().as_secs_f64();
    let flops = 2.0 * tokens as f64 * d_in as f64 * d_out as f64;
    Ok(Done { seconds, flops, attention_flops: 0.0, loss: None, value: None })
}
