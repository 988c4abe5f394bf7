//! Rotations, and rows of a table.

use taper_kernels::Turn;
use taper_kernels::cpu::{Rope, gather_rows, scatter_rows};

use super::*;

fn rotated(inputs: &[Vec<f64>], frequencies: &[f32], tokens: usize, width: usize) -> Vec<f64> {
    let half = frequencies.len();
    let mut out = inputs[0].clone();
    for (row, values) in out.chunks_mut(width).enumerate() {
        for head in values.chunks_mut(2 * half) {
            for (i, frequency) in frequencies.iter().enumerate() {
                let angle = f64::from((row % tokens) as f32 * frequency); // in f32, as transformers has it
                let (x, y) = (head[i], head[i + half]);
                (head[i], head[i + half]) = (x * angle.cos() - y * angle.sin(), y * angle.cos() + x * angle.sin());
            }
        }
    }
    out
}

#[test]
fn rope_and_its_gradient() {
    let mut rng = stream(5, "rope", 0, 0);
    for seed in 0..16 {
        let (sequences, tokens) = (pick(&mut rng, &[1, 2, 3]), pick(&mut rng, &[1, 2, 7, 33]));
        let (heads, half) = (pick(&mut rng, &[1, 2, 3]), pick(&mut rng, &[1, 2, 5]));
        let frequencies: Vec<f32> = (0..half).map(|i| 10.0_f32.powi(-(i as i32))).collect();
        let shape = [sequences * tokens, heads * 2 * half];
        let (x, dy) = (random("x", seed, &shape), random("dy", seed, &shape));
        let (rope, inputs) = (Rope::new(&frequencies, tokens), [wide(&x)]);
        let turned = |inputs: &[Vec<f64>]| rotated(inputs, &frequencies, tokens, shape[1]);
        let back = differences(&inputs, &wide(&dy), turned).remove(0);
        rope.turn(&x, Turn::Forward).unwrap();
        near("rope", &x, &turned(&inputs));
        rope.turn(&dy, Turn::Back).unwrap();
        near("rope, back", &dy, &back);
    }
    let empty = random("x", 0, &[4, 0]);
    Rope::new(&[1.0], 2).turn(&empty, Turn::Forward).unwrap();
}

#[test]
fn rows_of_a_table_and_their_gradient() {
    let mut rng = stream(6, "table", 0, 0);
    for seed in 0..16 {
        let (vocab, d) = (pick(&mut rng, &[1, 2, 7, 600]), pick(&mut rng, &[1, 2, 5, 17]));
        let tokens = pick(&mut rng, &[0, 1, 3, 40, 500]);
        let ids: Vec<u32> = (0..tokens).map(|_| rng.random_range(0..vocab as u32)).collect();
        let (table, dy) = (random("table", seed, &[vocab, d]), random("dy", seed, &[tokens, d]));
        let (rows, gradients) = (wide(&table), wide(&dy));
        let gathered: Vec<f64> = ids.iter().flat_map(|id| rows[*id as usize * d..][..d].to_vec()).collect();
        assert_eq!(wide(&gather_rows(&table, &ids).unwrap()), gathered);
        let mut wanted = vec![0.0; vocab * d];
        for (id, dy) in ids.iter().zip(gradients.chunks(d)) {
            wanted[*id as usize * d..][..d].iter_mut().zip(dy).for_each(|(sum, x)| *sum += x);
        }
        near("scatter_rows", &scatter_rows(&ids, &dy, vocab).unwrap(), &wanted);
    }
}
