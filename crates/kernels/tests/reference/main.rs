//! Every operation against f64, on random shapes: odd sizes, one token, one head, rows of one, nothing.
//!
//! A forward is compared with its formula written out, a backward with central differences of that formula: no derivative
//! is written twice. Errors are relative to the largest entry of the result.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod attention;
mod gates;
mod loss;
mod norms;
mod products;
mod rows;
mod sums;
mod threads;

use candle_core::{Device, Tensor};
use taper_base::rng::{Rng, RngExt, normal, stream};

/// Of f32 results whose sums are short or kept in f64 or in lanes.
const TOLERANCE: f64 = 1e-5;
/// Of central differences: their own error, `STEP² f''' / 6` and rounding by `1e-16 / STEP`, stays below 1e-7.
const STEP: f64 = 1e-4;

/// Standard normal entries.
fn random(name: &str, seed: u64, shape: &[usize]) -> Tensor {
    let mut rng = stream(seed, name, 0, 0);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| normal(&mut rng) as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// One of `sizes`.
fn pick(rng: &mut impl Rng, sizes: &[usize]) -> usize {
    sizes[rng.random_range(0..sizes.len())]
}

fn wide(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect()
}

/// Largest difference over the largest entry wanted; infinite for what is not a number, or not zero where zeros are wanted.
fn error(found: &[f64], wanted: &[f64]) -> f64 {
    assert_eq!(found.len(), wanted.len(), "entries");
    if wanted.is_empty() {
        return 0.0;
    }
    let largest = wanted.iter().fold(0.0_f64, |most, x| most.max(x.abs()));
    let worst = testkit::max_abs_diff(found, wanted);
    if worst == 0.0 { 0.0 } else { worst / largest }
}

#[track_caller]
fn near(what: &str, found: &Tensor, wanted: &[f64]) {
    let error = error(&wide(found), wanted);
    assert!(error <= TOLERANCE, "{what} {:?}: {error:.1e}", found.dims());
}

/// Gradients of `Σ dy · f(inputs)` for each input, by central differences.
fn differences(inputs: &[Vec<f64>], dy: &[f64], f: impl Fn(&[Vec<f64>]) -> Vec<f64>) -> Vec<Vec<f64>> {
    let mut at = inputs.to_vec();
    let mut gradients: Vec<Vec<f64>> = inputs.iter().map(|input| vec![0.0; input.len()]).collect();
    for (which, gradient) in gradients.iter_mut().enumerate() {
        for (entry, slope) in gradient.iter_mut().enumerate() {
            let mut moved = |by: f64| {
                at[which][entry] = inputs[which][entry] + by;
                let value: f64 = f(&at).iter().zip(dy).map(|(y, dy)| y * dy).sum();
                at[which][entry] = inputs[which][entry];
                value
            };
            *slope = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
        }
    }
    gradients
}

#[test]
fn the_differences_of_a_cube_are_its_slope() {
    let slopes = differences(&[vec![2.0, -1.0], vec![3.0]], &[1.0, 10.0], |inputs| {
        vec![inputs[0][0].powi(3) * inputs[1][0], inputs[0][1]]
    });
    assert!(error(&slopes[0], &[36.0, 10.0]) < 1e-8 && error(&slopes[1], &[8.0]) < 1e-8);
}
