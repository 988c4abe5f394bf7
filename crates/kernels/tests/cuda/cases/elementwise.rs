use super::{BOTH, Gpu, close, given};
use taper_kernels::Turn;
use taper_kernels::cuda::{Activation, Rope, accumulate, activation_backward, add, add_bias, gate, gate_backward};

const SHAPES: [[usize; 2]; 3] = [[1, 1], [3, 7], [5, 333]];
/// Step of the finite difference in f64.
const STEP: f64 = 1e-5;

pub fn sums(machine: &Gpu) {
    for (shape, storage) in SHAPES.into_iter().flat_map(|shape| BOTH.map(|storage| (shape, storage))) {
        let (a, b) = (given(machine, "a", &shape, storage), given(machine, "b", &shape, storage));
        let want: Vec<f64> = a.values.iter().zip(&b.values).map(|(a, b)| a + b).collect();
        let sum = add(&a.array, &b.array).unwrap();
        close("add", &sum, &want, storage);
        accumulate(&sum, &b.array).unwrap();
        let want: Vec<f64> = a.values.iter().zip(&b.values).map(|(a, b)| a + b + b).collect();
        close("accumulate", &sum, &want, storage);
        let bias = given(machine, "bias", &shape[1..], storage);
        let want: Vec<f64> = a.values.iter().enumerate().map(|(i, a)| a + bias.values[i % shape[1]]).collect();
        let mut y = a.array;
        add_bias(&mut y, &bias.array).unwrap();
        close("add_bias", &y, &want, storage);
    }
}

/// The error function by its series, which converges for all x that occur here.
fn erf(x: f64) -> f64 {
    let mut term = x;
    let mut sum = x;
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

fn act(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => x * 0.5 * (1.0 + erf(x / 2.0_f64.sqrt())),
        Activation::GeluTanh => {
            x * 0.5 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        }
    }
}

pub fn gates(machine: &Gpu) {
    for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
        for (shape, storage) in SHAPES.into_iter().flat_map(|shape| BOTH.map(|storage| (shape, storage))) {
            let x = ["gate", "up", "dh"].map(|name| given(machine, name, &shape, storage));
            let [g, u, dh] = x.each_ref().map(|x| &x.array);
            let each = |f: &dyn Fn(f64, f64, f64) -> f64| -> Vec<f64> {
                (0..x[0].values.len()).map(|i| f(x[0].values[i], x[1].values[i], x[2].values[i])).collect()
            };
            let slope = |g: f64| (act(activation, g + STEP) - act(activation, g - STEP)) / (2.0 * STEP);
            let h = gate(activation, g, Some(u)).unwrap();
            close("gate", &h, &each(&|g, u, _| act(activation, g) * u), storage);
            let alone = gate(activation, g, None).unwrap();
            close("activation", &alone, &each(&|g, _, _| act(activation, g)), storage);
            let (dgate, dup) = gate_backward(activation, g, u, dh).unwrap();
            close("dgate", &dgate, &each(&|g, u, dh| dh * u * slope(g)), storage);
            close("dup", &dup, &each(&|g, _, dh| dh * act(activation, g)), storage);
            let dgate = activation_backward(activation, g, dh).unwrap();
            close("dgate alone", &dgate, &each(&|g, _, dh| dh * slope(g)), storage);
        }
    }
}

pub fn turns(machine: &Gpu) {
    for (tokens, sequences, heads, half) in [(1, 1, 1, 1), (5, 2, 3, 4), (7, 1, 2, 33), (3, 2, 2, 16)] {
        let frequencies: Vec<f32> = (0..half).map(|i| 0.7_f32.powi(i as i32)).collect();
        let rope = Rope::new(machine, &frequencies, tokens).unwrap();
        for storage in BOTH {
            let x = given(machine, "x", &[sequences * tokens, heads * 2 * half], storage);
            let turned = |sign: f64| -> Vec<f64> {
                let mut out = vec![0.0; x.values.len()];
                for at in (0..out.len()).filter(|at| at % (2 * half) < half) {
                    let (row, i) = (at / (heads * 2 * half), at % (2 * half));
                    let angle = (row % tokens) as f64 * f64::from(frequencies[i]) * sign;
                    let (low, high) = (x.values[at], x.values[at + half]);
                    out[at] = low * angle.cos() - high * angle.sin();
                    out[at + half] = low * angle.sin() + high * angle.cos();
                }
                out
            };
            let back = given(machine, "x", &[sequences * tokens, heads * 2 * half], storage).array;
            rope.turn(&back, Turn::Back).unwrap();
            close("rope back", &back, &turned(-1.0), storage);
            rope.turn(&x.array, Turn::Forward).unwrap();
            close("rope", &x.array, &turned(1.0), storage);
        }
        let odd = given(machine, "x", &[tokens, 2 * half + 1], BOTH[0]);
        assert!(rope.turn(&odd.array, Turn::Forward).is_err());
    }
}
