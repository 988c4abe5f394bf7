use super::{BOTH, Gpu, close, given};
use crate::definitions::norm as reference;
use taper_kernels::cuda::{
    Array, Norm, Storage, layer_norm, layer_norm_backward, norm_weight_gradient, rms_norm, rms_norm_backward,
};

const EPS: f64 = 1e-5;
/// For rows of one value, whose normalised value is constant but for this: else there is only rounding to compare.
const WIDE_EPS: f64 = 0.5;
/// Rows and columns: one value, less than a warp, odd, more than a block, more rows than a piece.
const SHAPES: [[usize; 2]; 6] = [[1, 1], [1, 7], [3, 33], [5, 577], [2, 1024], [131, 20]];

pub fn norms_forward(machine: &Gpu) {
    for (shape, storage) in SHAPES.into_iter().flat_map(|shape| BOTH.map(|storage| (shape, storage))) {
        let d = &shape[1..];
        let (x, w, b) =
            (given(machine, "x", &shape, storage), given(machine, "w", d, storage), given(machine, "b", d, storage));
        let got = rms_norm(&x.array, &w.array, EPS).unwrap();
        close(&format!("rms_norm {shape:?}"), &got, &reference::rms(&x.values, &w.values, EPS), storage);
        let got = layer_norm(&x.array, &w.array, &b.array, EPS).unwrap();
        close(&format!("layer_norm {shape:?}"), &got, &reference::layer(&x.values, &w.values, &b.values, EPS), storage);
    }
}

pub fn norms_backward(machine: &Gpu) {
    for (shape, storage) in SHAPES.into_iter().flat_map(|shape| BOTH.map(|storage| (shape, storage))) {
        let (x, w) = (given(machine, "x", &shape, storage), given(machine, "w", &shape[1..], storage));
        let dy = given(machine, "dy", &shape, storage);
        let eps = if shape[1] == 1 { WIDE_EPS } else { EPS };
        let got = rms_norm_backward(None, &x.array, &w.array, eps, &dy.array).unwrap();
        let want = reference::rms_backward(&x.values, &w.values, eps, &dy.values).0;
        close(&format!("rms_norm_backward {shape:?}"), &got, &want, storage);
        if shape[1] == 1 {
            continue; // LayerNorm of one value is 0
        }
        let got = layer_norm_backward(&x.array, &w.array, EPS, &dy.array).unwrap();
        let want = reference::layer_backward(&x.values, &w.values, EPS, &dy.values).0;
        close(&format!("layer_norm_backward {shape:?}"), &got, &want, storage);
    }
}

pub fn weight_gradients(machine: &Gpu) {
    for (shape, storage) in SHAPES.into_iter().flat_map(|shape| BOTH.map(|storage| (shape, storage))) {
        let (x, w) = (given(machine, "x", &shape, storage), given(machine, "w", &shape[1..], storage));
        let dy = given(machine, "dy", &shape, storage);
        let got = norm_weight_gradient(Norm::Rms, &x.array, EPS, &dy.array).unwrap();
        let want = reference::rms_backward(&x.values, &w.values, EPS, &dy.values).1;
        close(&format!("rms weight {shape:?}"), &got, &want, Storage::F32);
        if shape[1] == 1 {
            continue;
        }
        let got = norm_weight_gradient(Norm::Layer, &x.array, EPS, &dy.array).unwrap();
        let want = reference::layer_backward(&x.values, &w.values, EPS, &dy.values).1;
        close(&format!("layer weight {shape:?}"), &got, &want, Storage::F32);
    }
}

pub fn arguments_are_checked(machine: &Gpu) {
    let x = Array::of(machine, &[1.0, 2.0], &[1, 2], Storage::F32).unwrap();
    let long = Array::of(machine, &[1.0; 3], &[3], Storage::F32).unwrap();
    let half = Array::of(machine, &[1.0; 2], &[2], Storage::Bf16).unwrap();
    let refusal = |w: &Array| rms_norm(&x, w, EPS).unwrap_err().to_string();
    assert_eq!(refusal(&long), "rms_norm: weight has shape [3], wanted [2]");
    assert_eq!(refusal(&half), "rms_norm: weight holds bf16, wanted f32");
}
