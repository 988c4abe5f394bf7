//! RMSNorm and LayerNorm.

use taper_kernels::cpu::{
    layer_norm, layer_norm_backward, layer_norm_parameter_gradients, rms_norm, rms_norm_backward,
    rms_norm_weight_gradient,
};

use super::*;

const ROWS: [usize; 7] = [0, 1, 2, 3, 7, 65, 130];
const WIDTHS: [usize; 6] = [3, 5, 8, 17, 31, 33];
/// For rows of one or two, whose input gradient at a small `eps` is a difference of equal terms: f32 keeps 1e-7 of the
/// terms, not of what is left of them.
const LARGE_EPS: f64 = 0.5;
const EPS: f64 = 1e-5;

fn rms(inputs: &[Vec<f64>], d: usize, eps: f64) -> Vec<f64> {
    let row = |row: &[f64]| {
        let scale = (row.iter().map(|x| x * x).sum::<f64>() / d as f64 + eps).sqrt();
        row.iter().zip(&inputs[1]).map(|(x, w)| w * x / scale).collect::<Vec<_>>()
    };
    inputs[0].chunks(d).flat_map(row).collect()
}

fn layer(inputs: &[Vec<f64>], d: usize, eps: f64) -> Vec<f64> {
    let row = |row: &[f64]| {
        let mean = row.iter().sum::<f64>() / d as f64;
        let scale = (row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / d as f64 + eps).sqrt();
        let entries = row.iter().zip(&inputs[1]).zip(&inputs[2]);
        entries.map(|((x, w), b)| w * (x - mean) / scale + b).collect::<Vec<_>>()
    };
    inputs[0].chunks(d).flat_map(row).collect()
}

/// Calls `check` with `x`, weight, bias, `dy`, width and `eps`.
fn each_shape(mut check: impl FnMut(&Tensor, &Tensor, &Tensor, &Tensor, (usize, f64))) {
    let mut rng = stream(1, "norms", 0, 0);
    let narrow = [(1, LARGE_EPS), (2, LARGE_EPS)];
    let drawn = (0..24).map(|_| (pick(&mut rng, &WIDTHS), EPS)).collect::<Vec<_>>();
    for (seed, (d, eps)) in narrow.into_iter().chain(drawn).enumerate() {
        let (seed, rows) = (seed as u64, pick(&mut rng, &ROWS));
        let t = |name, shape: &[usize]| random(name, seed, shape);
        check(&t("x", &[rows, d]), &t("w", &[d]), &t("b", &[d]), &t("dy", &[rows, d]), (d, eps));
    }
}

#[test]
fn rms_norm_and_its_gradients() {
    each_shape(|x, weight, _, dy, (d, eps)| {
        let inputs = [wide(x), wide(weight)];
        near("rms_norm", &rms_norm(x, weight, eps).unwrap(), &rms(&inputs, d, eps));
        let wanted = differences(&inputs, &wide(dy), |inputs| rms(inputs, d, eps));
        near("rms_norm_backward", &rms_norm_backward(None, x, weight, eps, dy).unwrap(), &wanted[0]);
        let with_base: Vec<f64> = wanted[0].iter().zip(wide(dy)).map(|(dx, base)| dx + base).collect();
        near("rms_norm_backward, base", &rms_norm_backward(Some(dy), x, weight, eps, dy).unwrap(), &with_base);
        near("rms_norm_weight_gradient", &rms_norm_weight_gradient(x, eps, dy).unwrap(), &wanted[1]);
    });
}

#[test]
fn layer_norm_and_its_gradients() {
    each_shape(|x, weight, bias, dy, (d, eps)| {
        let inputs = [wide(x), wide(weight), wide(bias)];
        near("layer_norm", &layer_norm(x, weight, bias, eps).unwrap(), &layer(&inputs, d, eps));
        let wanted = differences(&inputs, &wide(dy), |inputs| layer(inputs, d, eps));
        near("layer_norm_backward", &layer_norm_backward(x, weight, eps, dy).unwrap(), &wanted[0]);
        let (dw, db) = layer_norm_parameter_gradients(x, eps, dy).unwrap();
        near("layer_norm dw", &dw, &wanted[1]);
        near("layer_norm db", &db, &wanted[2]);
    });
}

#[test]
fn wide_rows_far_from_zero() {
    let d = 4099;
    let x = (random("x", 0, &[3, d]) * 2.0).unwrap();
    let (far, weight, bias) = ((&x + 10.0).unwrap(), random("w", 0, &[d]), random("b", 0, &[d]));
    near("rms_norm", &rms_norm(&far, &weight, EPS).unwrap(), &rms(&[wide(&far), wide(&weight)], d, EPS));
    let wanted = layer(&[wide(&far), wide(&weight), wide(&bias)], d, EPS);
    near("layer_norm", &layer_norm(&far, &weight, &bias, EPS).unwrap(), &wanted);
}

#[test]
fn rows_of_nothing_are_refused_or_have_no_gradient() {
    let (x, weight) = (random("x", 0, &[3, 0]), random("w", 0, &[0]));
    let refusal = |result: taper_kernels::Result<Tensor>| result.unwrap_err().to_string();
    assert_eq!(refusal(rms_norm(&x, &weight, EPS)), "rms_norm: x has shape [3, 0], wanted rows of at least one");
    assert_eq!(
        refusal(layer_norm(&x, &weight, &weight, EPS)),
        "layer_norm: x has shape [3, 0], wanted rows of at least one"
    );
    assert!(
        rms_norm_backward(None, &x, &weight, EPS, &x).is_err() && layer_norm_backward(&x, &weight, EPS, &x).is_err()
    );
    assert_eq!(rms_norm_weight_gradient(&x, EPS, &x).unwrap().dims(), [0]);
    assert_eq!(layer_norm_parameter_gradients(&x, EPS, &x).unwrap().0.dims(), [0]);
}
