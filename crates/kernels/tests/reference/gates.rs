//! SwiGLU, GELU and GEGLU.

use taper_kernels::Gelu;
use taper_kernels::cpu::{geglu, geglu_backward, gelu, gelu_backward, swiglu, swiglu_backward};

use super::*;

/// The last is more than one task.
const SHAPES: [&[usize]; 7] = [&[0, 5], &[1, 1], &[1, 7], &[3, 0], &[5, 13], &[31], &[3, 4, 5]];
const LONG: [usize; 2] = [131, 257];

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// PyTorch's definitions.
fn plain(form: Gelu) -> fn(f64) -> f64 {
    match form {
        Gelu::Exact => |x| 0.5 * x * (1.0 + libm::erf(x / 2.0_f64.sqrt())),
        Gelu::Tanh => |x| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh()),
    }
}

fn gated(f: fn(f64) -> f64) -> impl Fn(&[Vec<f64>]) -> Vec<f64> {
    move |inputs| inputs[0].iter().zip(&inputs[1]).map(|(gate, up)| f(*gate) * up).collect()
}

/// Entries apart from each other, so a long result needs no more than the slope at each.
fn slopes(f: fn(f64) -> f64, x: &[f64]) -> Vec<f64> {
    x.iter().map(|x| (f(x + STEP) - f(x - STEP)) / (2.0 * STEP)).collect()
}

type Gate = dyn Fn(&Tensor, &Tensor) -> Tensor;
type GateBackward = dyn Fn(&Tensor, &Tensor, &Tensor) -> (Tensor, Tensor);

fn check(name: &str, f: fn(f64) -> f64, forward: &Gate, backward: &GateBackward) {
    let scaled = |name, seed, shape: &[usize]| (random(name, seed, shape) * 3.0).unwrap(); // reaches the tails
    for (seed, shape) in SHAPES.into_iter().enumerate() {
        let [gate, up, dh] = ["gate", "up", "dh"].map(|name| scaled(name, seed as u64, shape));
        let inputs = [wide(&gate), wide(&up)];
        near(name, &forward(&gate, &up), &gated(f)(&inputs));
        let (dgate, dup) = backward(&gate, &up, &dh);
        let wanted = differences(&inputs, &wide(&dh), gated(f));
        near(name, &dgate, &wanted[0]);
        near(name, &dup, &wanted[1]);
    }
    let [gate, up, dh] = ["gate", "up", "dh"].map(|name| scaled(name, 0, &LONG));
    let inputs = [wide(&gate), wide(&up)];
    near(name, &forward(&gate, &up), &gated(f)(&inputs));
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).collect::<Vec<_>>();
    let along = product(&wide(&dh), &inputs[1]);
    near(name, &backward(&gate, &up, &dh).0, &product(&along, &slopes(f, &inputs[0])));
}

#[test]
fn swiglu_and_its_gradients() {
    check("swiglu", silu, &|gate, up| swiglu(gate, up).unwrap(), &|gate, up, dh| {
        swiglu_backward(gate, up, dh).unwrap()
    });
}

#[test]
fn geglu_and_its_gradients() {
    for form in [Gelu::Exact, Gelu::Tanh] {
        let forward = move |gate: &Tensor, up: &Tensor| geglu(gate, up, form).unwrap();
        let backward = move |gate: &Tensor, up: &Tensor, dh: &Tensor| geglu_backward(gate, up, dh, form).unwrap();
        check("geglu", plain(form), &forward, &backward);
    }
}

#[test]
fn gelu_and_its_gradient() {
    for form in [Gelu::Exact, Gelu::Tanh] {
        let f = plain(form);
        for (seed, shape) in SHAPES.into_iter().chain([&LONG as &[usize]]).enumerate() {
            let x = (random("x", seed as u64, shape) * 3.0).unwrap();
            let (dy, inputs) = (random("dy", seed as u64, shape), wide(&x));
            near("gelu", &gelu(&x, form).unwrap(), &inputs.iter().map(|x| f(*x)).collect::<Vec<_>>());
            let wanted: Vec<f64> = slopes(f, &inputs).iter().zip(wide(&dy)).map(|(slope, dy)| slope * dy).collect();
            near("gelu_backward", &gelu_backward(&x, &dy, form).unwrap(), &wanted);
        }
    }
}
