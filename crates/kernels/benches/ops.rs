//! Each operation at the shape of `docs/performance.md`: 4096 tokens, d_model 1024, d_ff 2816, 16 heads, 8 × 512 tokens.
//!
//! Throughput in the unit that bounds the operation: elements are FLOPs (products, attention, the head), bytes are those
//! of operands and results, each counted once (all else). `cargo bench -p taper-kernels`; as a test each runs once, tiny.

use std::hint::black_box;

use candle_core::{Device, Tensor};
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput, measurement::WallTime};
use taper_kernels::cpu::{
    Rope, attention, attention_backward, column_square_sums, column_sums, cross_entropy, from_units, gather_rows,
    geglu, geglu_backward, gelu, gelu_backward, into_units, layer_norm, layer_norm_backward,
    layer_norm_parameter_gradients, rms_norm, rms_norm_backward, rms_norm_weight_gradient, row_abs_sums, scatter_rows,
    square_sum, swiglu, swiglu_backward, token_losses, unit_gradient,
};
use taper_kernels::{Gelu, Heads, Moments, Sight, Turn};

const D_HEAD: usize = 64;
const RANK: usize = 64; // of sketches
const F32: usize = 4;
const EPS: f64 = 1e-5;

/// Sizes; `cargo test` takes the small ones.
#[derive(Clone, Copy)]
struct Shape {
    sequences: usize,
    length: usize,
    d: usize,
    d_ff: usize,
    vocab: usize,
}

impl Shape {
    fn new(full: bool) -> Self {
        if full {
            Self { sequences: 8, length: 512, d: 1024, d_ff: 2816, vocab: 8192 }
        } else {
            Self { sequences: 1, length: 4, d: 128, d_ff: 8, vocab: 16 }
        }
    }

    fn tokens(self) -> usize {
        self.sequences * self.length
    }
}

fn random(shape: &[usize]) -> Tensor {
    Tensor::randn(0.0_f32, 1.0, shape, &Device::Cpu).expect("a shape that fits in memory")
}

type Group<'a> = BenchmarkGroup<'a, WallTime>;

fn flops<R>(group: &mut Group<'_>, name: &str, count: usize, op: impl FnMut() -> taper_kernels::Result<R>) {
    measure(group, name, Throughput::Elements(count as u64), op);
}

/// `floats` read and written.
fn bytes<R>(group: &mut Group<'_>, name: &str, floats: usize, op: impl FnMut() -> taper_kernels::Result<R>) {
    measure(group, name, Throughput::Bytes((F32 * floats) as u64), op);
}

fn measure<R>(
    group: &mut Group<'_>,
    name: &str,
    throughput: Throughput,
    mut op: impl FnMut() -> taper_kernels::Result<R>,
) {
    group.throughput(throughput);
    group.bench_function(name, |bencher| bencher.iter(|| black_box(op().expect("shapes fit"))));
}

/// `2 · tokens · units · d` each.
fn products(group: &mut Group<'_>, s: Shape) {
    let (t, d, units) = (s.tokens(), s.d, s.d_ff);
    let (x, w, h, narrow) = (random(&[t, d]), random(&[units, d]), random(&[t, units]), random(&[t, RANK.min(d)]));
    flops(group, "into_units", 2 * t * units * d, || into_units(&x, &w, None));
    flops(group, "from_units", 2 * t * units * d, || from_units(None, &[(&h, &w)], None));
    flops(group, "unit_gradient", 2 * t * units * d, || unit_gradient(&h, &x));
    flops(group, "unit_gradient, sketched", 2 * t * units * RANK.min(d), || unit_gradient(&h, &narrow));
}

/// Causal pairs alone: 2 products forward, 5 backward.
fn attentions(group: &mut Group<'_>, s: Shape) {
    let (t, heads) = (s.tokens(), s.d / D_HEAD);
    let [q, k, v, dout] = [0; 4].map(|_| random(&[t, s.d]));
    let kv_of: Vec<usize> = (0..heads).collect();
    let heads = Heads {
        sequences: s.sequences,
        tokens: s.length,
        d_head: D_HEAD,
        kv_of: &kv_of,
        n_kv_heads: heads,
        window: None,
        first: None,
        sight: Sight::Causal,
    };
    let product = 2 * s.d * s.sequences * s.length * (s.length + 1) / 2;
    flops(group, "attention", 2 * product, || attention(&q, &k, &v, heads));
    let attended = attention(&q, &k, &v, heads).expect("shapes fit");
    flops(group, "attention_backward", 5 * product, || attention_backward([&q, &k, &v], heads, &attended, &dout));
}

fn head(group: &mut Group<'_>, s: Shape) {
    let (t, d) = (s.tokens(), s.d);
    let (hidden, weight) = (random(&[t, d]), random(&[s.vocab, d]));
    let targets: Vec<u32> = (0..t).map(|token| (token * 31 % s.vocab) as u32).collect();
    let (product, weights) = (2 * t * d * s.vocab, vec![1.0; t]);
    flops(group, "token_losses", product, || token_losses(&hidden, &weight, &targets));
    flops(group, "cross_entropy", 2 * product, || cross_entropy(&hidden, &weight, &targets, &weights, None));
    let n = t * d;
    bytes(group, "gather_rows", 2 * n, || gather_rows(&weight, &targets));
    bytes(group, "scatter_rows", n + s.vocab * d, || scatter_rows(&targets, &hidden, s.vocab));
}

fn norms(group: &mut Group<'_>, s: Shape) {
    let n = s.tokens() * s.d;
    let (x, dy) = (random(&[s.tokens(), s.d]), random(&[s.tokens(), s.d]));
    let (weight, bias) = (random(&[s.d]), random(&[s.d]));
    bytes(group, "rms_norm", 2 * n, || rms_norm(&x, &weight, EPS));
    bytes(group, "rms_norm_backward", 3 * n, || rms_norm_backward(None, &x, &weight, EPS, &dy));
    bytes(group, "rms_norm_weight_gradient", 2 * n, || rms_norm_weight_gradient(&x, EPS, &dy));
    bytes(group, "layer_norm", 2 * n, || layer_norm(&x, &weight, &bias, EPS));
    bytes(group, "layer_norm_backward", 3 * n, || layer_norm_backward(&x, &weight, EPS, &dy));
    bytes(group, "layer_norm_parameter_gradients", 2 * n, || layer_norm_parameter_gradients(&x, EPS, &dy));
    let rope = Rope::new(&[0.5; D_HEAD / 2], s.length);
    bytes(group, "rope", 2 * n, || rope.turn(&x, Turn::Forward));
}

fn gates(group: &mut Group<'_>, s: Shape) {
    let n = s.tokens() * s.d_ff;
    let [gate, up, dh] = [0; 3].map(|_| random(&[s.tokens(), s.d_ff]));
    bytes(group, "swiglu", 3 * n, || swiglu(&gate, &up));
    bytes(group, "swiglu_backward", 5 * n, || swiglu_backward(&gate, &up, &dh));
    for (name, form) in [("exact", Gelu::Exact), ("tanh", Gelu::Tanh)] {
        bytes(group, &format!("gelu, {name}"), 2 * n, || gelu(&gate, form));
        bytes(group, &format!("gelu_backward, {name}"), 3 * n, || gelu_backward(&gate, &dh, form));
        bytes(group, &format!("geglu, {name}"), 3 * n, || geglu(&gate, &up, form));
        bytes(group, &format!("geglu_backward, {name}"), 5 * n, || geglu_backward(&gate, &up, &dh, form));
    }
}

fn sums(group: &mut Group<'_>, s: Shape) {
    let n = s.tokens() * s.d_ff;
    let (x, y) = (random(&[s.tokens(), s.d_ff]), random(&[s.tokens(), s.d_ff]));
    let rows: Vec<usize> = (0..s.tokens()).collect();
    bytes(group, "column_sums", n, || column_sums(&x));
    bytes(group, "column_square_sums", n, || column_square_sums(&x));
    bytes(group, "row_abs_sums", n, || row_abs_sums(&x));
    bytes(group, "square_sum", n, || square_sum(&x));
    bytes(group, "moments", 2 * n, || Moments::of_rows(&x, &y, &rows));
    bytes(group, "copy", 2 * n, || Ok(x.copy())); // the floor: what memory gives
}

fn main() {
    let full = std::env::args().any(|argument| argument == "--bench"); // `cargo test` does not pass it
    let mut criterion = Criterion::default().configure_from_args().sample_size(10);
    let mut group = criterion.benchmark_group("ops");
    group.sampling_mode(SamplingMode::Flat);
    let shape = Shape::new(full);
    for part in [products, attentions, head, norms, gates, sums] {
        part(&mut group, shape);
    }
    group.finish();
    criterion.final_summary();
}
