//! Candidates to measure, and the FLOPs of scoring one.
//!
//! FLOPs are those of the method, whatever the engine does: an add and a multiply for each weight and token, forward and for
//! the input's gradient; attention's causal pairs alone, 2 products forward and 5 backward (arXiv:2205.14135); sketches
//! or weight gradients. Activations computed again, norms and softmax do not count.

use taper_arch::{BlockSpec, ModelSpec, SelectedAttention, SelectedBlock};
use taper_model::{Parameter, parameters};

/// The first units of each half.
pub(crate) fn first_units(block: &BlockSpec, ratio: f64) -> SelectedBlock {
    let first = |units: usize| (0..((units as f64 * ratio).round() as usize).max(1)).collect::<Vec<_>>();
    let attention = block.attention.map(|attention| {
        let heads = first(attention.n_heads);
        let groups = heads.len().div_ceil(attention.heads_per_group());
        SelectedAttention { heads, groups: (0..groups).collect() }
    });
    SelectedBlock { attention, mlp: block.mlp.map(|mlp| first(mlp.d_ff)) }
}

/// All FLOPs of a forward and backward pass, and those of attention's own products; with sketches of a `rank`, or all
/// weight gradients.
pub(crate) fn flops(spec: &ModelSpec, tokens: usize, length: usize, rank: Option<usize>) -> [f64; 2] {
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
