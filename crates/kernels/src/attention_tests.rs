//! Against a brute-force version in f64, and finite differences of it.

use super::*;
use candle_core::Device;
use taper_base::rng::{normal, stream};

const SHAPE: (usize, usize, usize) = (2, 70, 4); // sequences, tokens (more than a tile), d_head

fn random(columns: usize, name: &str) -> Tensor {
    let (sequences, tokens, d_head) = SHAPE;
    let mut rng = stream(7, name, 0, 0);
    let rows = sequences * tokens;
    let values: Vec<f32> = (0..rows * columns * d_head).map(|_| normal(&mut rng) as f32).collect();
    Tensor::from_vec(values, (rows, columns * d_head), &Device::Cpu).unwrap()
}

fn heads(kv_of: &[usize], window: Option<usize>) -> Heads<'_> {
    let (sequences, tokens, d_head) = SHAPE;
    Heads { sequences, tokens, d_head, kv_of, n_kv_heads: 2, window, first: None, sight: Sight::Causal }
}

/// The definition, row by row, in f64.
fn brute([q, k, v]: [&Vec<Vec<f64>>; 3], heads: &Heads<'_>) -> Vec<Vec<f64>> {
    let (d, window) = (heads.d_head, heads.window.unwrap_or(usize::MAX));
    let mut out = vec![vec![0.0; heads.kv_of.len() * d]; q.len()];
    for row in 0..q.len() {
        let each = heads.queries();
        let (first, token) = (row / each * heads.tokens, row % each);
        for (head, kv) in heads.kv_of.iter().enumerate() {
            let before = (0..=token).filter(|s| token - s < window);
            let seen: Vec<usize> =
                if heads.sight != Sight::Causal { (0..heads.tokens).collect() } else { before.collect() };
            let seen: Vec<usize> = seen.into_iter().map(|s| first + s).collect();
            let score =
                |s: &usize| (0..d).map(|i| q[row][head * d + i] * k[*s][kv * d + i]).sum::<f64>() / (d as f64).sqrt();
            let weights: Vec<f64> = seen.iter().map(|s| score(s).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for (s, w) in seen.iter().zip(&weights) {
                (0..d).for_each(|i| out[row][head * d + i] += w / sum * v[*s][kv * d + i]);
            }
        }
    }
    out
}

fn wide(tensor: &Tensor) -> Vec<Vec<f64>> {
    tensor.to_dtype(candle_core::DType::F64).unwrap().to_vec2().unwrap()
}

fn furthest(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn the_forward_is_the_definition_with_groups_windows_and_uneven_heads() {
    for (kv_of, window) in
        [(vec![0, 0, 1, 1], None), (vec![0, 1], Some(5)), (vec![1, 0, 1], Some(68)), (vec![1], Some(1))]
    {
        let (q, k, v) = (random(kv_of.len(), "q"), random(2, "k"), random(2, "v"));
        let heads = heads(&kv_of, window);
        for heads in [heads, Heads { sight: Sight::Full { queries: heads.tokens }, ..heads }] {
            let got = attention(&q, &k, &v, heads).unwrap();
            let want = brute([&wide(&q), &wide(&k), &wide(&v)], &heads);
            assert!(furthest(&wide(&got.out), &want) < 1e-5, "{kv_of:?} {window:?}");
        }
    }
}

#[test]
fn the_backward_is_the_finite_difference_of_the_definition() {
    for (kv_of, window, sight) in [
        (vec![0, 0, 1], None, Sight::Causal),
        (vec![1, 0], Some(6), Sight::Causal),
        (vec![1, 1], None, Sight::Causal),
        (vec![0, 1], None, Sight::Full { queries: SHAPE.1 }),
    ] {
        let heads = Heads { sight, ..heads(&kv_of, window) };
        let inputs = [random(kv_of.len(), "q"), random(2, "k"), random(2, "v")];
        let dout = random(kv_of.len(), "dout");
        let attended = attention(&inputs[0], &inputs[1], &inputs[2], heads).unwrap();
        let gradients = attention_backward([&inputs[0], &inputs[1], &inputs[2]], heads, &attended, &dout).unwrap();
        let wides = inputs.each_ref().map(wide);
        let dout = wide(&dout);
        let loss = |wides: &[Vec<Vec<f64>>; 3]| -> f64 {
            let out = brute([&wides[0], &wides[1], &wides[2]], &heads);
            out.iter().flatten().zip(dout.iter().flatten()).map(|(o, g)| o * g).sum()
        };
        for (which, gradient) in gradients.iter().enumerate() {
            let gradient = wide(gradient);
            for (row, column) in [(0, 0), (3, 1), (64, 2), (69, 3), (70, 0), (100, 7 % gradient[0].len()), (139, 1)] {
                let moved = |by: f64| {
                    let mut wides = wides.clone();
                    wides[which][row][column] += by;
                    loss(&wides)
                };
                let want = (moved(1e-4) - moved(-1e-4)) / 2e-4;
                let got = gradient[row][column];
                assert!((got - want).abs() < 1e-4 * want.abs().max(1.0), "{which} {row} {column}: {got} {want}");
            }
        }
    }
}

#[test]
fn shapes_are_checked_by_name() {
    let (q, k) = (random(2, "q"), random(2, "k"));
    let refusal = |q: &Tensor, kv_of: &[usize]| attention(q, &k, &k, heads(kv_of, None)).unwrap_err().to_string();
    assert_eq!(refusal(&k, &[0]), "attention: q has shape [140, 8], wanted [140, 4]");
    assert_eq!(refusal(&q, &[0, 2]), "attention: kv_of has shape [2], wanted KV heads below 2");
}
