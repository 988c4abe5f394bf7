//! Times of the operations at the shapes of a 7B model, as one line of JSON. Medians of runs that end with a copy to the
//! host, so that the device is done before the clock stops.

use std::time::Instant;

use taper_kernels::cuda::{
    Activation, Array, CudaError, Device, Kind, Result, Storage, attention, attention_backward, cross_entropy,
    from_units, gate, gate_backward, into_units, rms_norm, rms_norm_backward,
};
use taper_kernels::{Heads, Sight};

use crate::cases::Gpu;

/// Runs before the clock counts: the first one compiles.
const WARM: usize = 3;
const RUNS: usize = 15;
const TOKENS: usize = 2 * 4096;
const D_MODEL: usize = 4096;
const D_FF: usize = 11_008;
const VOCAB: usize = 32_000;

struct Row {
    name: &'static str,
    flops: f64,
    bytes: f64,
    ms: Vec<f64>,
}

impl Row {
    fn json(&self) -> String {
        let (low, middle, high) = (self.ms[0], self.ms[RUNS / 2], self.ms[RUNS - 1]);
        let (tflops, gb) = (self.flops / middle / 1e9, self.bytes / middle / 1e6);
        format!(
            "{{\"op\":\"{}\",\"ms\":{middle:.4},\"ms_least\":{low:.4},\"ms_most\":{high:.4},\"tflop_per_s\":{tflops:.1},\
             \"gb_per_s\":{gb:.0}}}",
            self.name
        )
    }
}

/// Sorted times of `f`, whose last array is waited for.
fn time(name: &'static str, flops: f64, bytes: f64, f: impl Fn() -> Result<Array>) -> Row {
    let once = || {
        let start = Instant::now();
        let out = f().unwrap();
        let width = out.shape().last().copied().unwrap();
        out.reshaped(&[out.shape().iter().product::<usize>() / width, width])
            .unwrap()
            .rows(0, 1)
            .unwrap()
            .to_host()
            .unwrap();
        start.elapsed().as_secs_f64() * 1e3
    };
    let mut ms: Vec<f64> = (0..WARM + RUNS).map(|_| once()).skip(WARM).collect();
    ms.sort_by(f64::total_cmp);
    Row { name, flops, bytes, ms }
}

/// Small values that differ: zeros would be faster than what models hold.
fn values(machine: &Gpu, shape: &[usize]) -> Array {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|i| ((i * 2_654_435_761) % 1_000) as f32 / 500.0 - 1.0).collect();
    Array::of(machine, &values, shape, Storage::Bf16).unwrap()
}

fn products(machine: &Gpu) -> Vec<Row> {
    let (x, w) = (values(machine, &[8192, 8192]), values(machine, &[8192, 8192]));
    let cube = time("product 8192^3", 2.0 * 8192_f64.powi(3), 0.0, || into_units(&x, &w, None));
    let (x, w) = (values(machine, &[TOKENS, D_MODEL]), values(machine, &[D_FF, D_MODEL]));
    let h = values(machine, &[TOKENS, D_FF]);
    let flops = 2.0 * (TOKENS * D_MODEL) as f64 * D_FF as f64;
    let into = time("into_units 4096 to 11008", flops, 0.0, || into_units(&x, &w, None));
    vec![cube, into, time("from_units 11008 to 4096", flops, 0.0, || from_units(None, &[(&h, &w)], None))]
}

fn elementwise(machine: &Gpu) -> Vec<Row> {
    let (x, dy, w) =
        (values(machine, &[TOKENS, D_MODEL]), values(machine, &[TOKENS, D_MODEL]), values(machine, &[D_MODEL]));
    let (g, u) = (values(machine, &[TOKENS, D_FF]), values(machine, &[TOKENS, D_FF]));
    let (row, wide) = ((TOKENS * D_MODEL * 2) as f64, (TOKENS * D_FF * 2) as f64);
    vec![
        time("rms_norm", 0.0, 2.0 * row, || rms_norm(&x, &w, 1e-5)),
        time("rms_norm_backward", 0.0, 3.0 * row, || rms_norm_backward(None, &x, &w, 1e-5, &dy)),
        time("swiglu", 0.0, 3.0 * wide, || gate(Activation::Silu, &g, Some(&u))),
        time("swiglu_backward", 0.0, 5.0 * wide, || Ok(gate_backward(Activation::Silu, &g, &u, &u)?.0)),
    ]
}

fn attentions(machine: &Gpu) -> Vec<Row> {
    let kv_of: Vec<usize> = (0..32).collect();
    let heads = Heads {
        sequences: 2,
        tokens: 4096,
        d_head: 128,
        kv_of: &kv_of,
        n_kv_heads: 32,
        window: None,
        first: None,
        sight: Sight::Causal,
    };
    let [q, k, v] = [(); 3].map(|()| values(machine, &[TOKENS, D_MODEL]));
    // Two products over half of all pairs; the backward does five, counted as such though two are done twice.
    let flops = 2.0 * 2.0 * 2.0 * 32.0 * 128.0 * 4096_f64.powi(2) / 2.0;
    let attended = attention(&q, &k, &v, heads).unwrap();
    let backward = || {
        let [_, dk, _] = attention_backward([&q, &k, &v], heads, &attended, &q)?;
        Ok(dk)
    };
    vec![
        time("attention causal d128", flops, 0.0, || Ok(attention(&q, &k, &v, heads)?.out)),
        time("attention_backward causal d128", 2.5 * flops, 0.0, backward),
    ]
}

fn losses(machine: &Gpu) -> Vec<Row> {
    let (hidden, head) = (values(machine, &[TOKENS, D_MODEL]), values(machine, &[VOCAB, D_MODEL]));
    let targets: Vec<u32> = (0..TOKENS as u32).collect();
    let flops = 4.0 * (TOKENS * D_MODEL) as f64 * VOCAB as f64;
    let weights = vec![1.0; TOKENS];
    let run = || Ok(cross_entropy::<CudaError>(&hidden, &head, &targets, &weights, None)?.1);
    vec![time("cross_entropy, no gradient of the head", flops, 0.0, run)]
}

#[test]
#[ignore = "needs a GPU"]
fn benchmark() {
    let device = Device::open(0).unwrap();
    let (name, capability) = (device.name().to_owned(), device.capability());
    let machine: Gpu = std::sync::Arc::new(device);
    assert_eq!(values(&machine, &[1]).kind(), Kind::Values(Storage::Bf16));
    let rows = [products, elementwise, attentions, losses].into_iter().flat_map(|part| part(&machine));
    let rows: Vec<String> = rows.map(|row| row.json()).collect();
    println!("{{\"device\":\"{name}\",\"sm\":{capability},\"storage\":\"bf16\",\"rows\":[{}]}}", rows.join(","));
}
