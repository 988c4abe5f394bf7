//! Updates of parameters, element by element, over fixed pieces: the same numbers on any number of threads.

use rayon::prelude::*;

use crate::simd::wide;

/// Values handled as one task.
const PIECE: usize = 16 * 1024;

/// Numbers of one step of AdamW.
#[derive(Debug, Clone, Copy)]
pub struct AdamW {
    /// The gradient is multiplied with this first.
    pub scale: f32,
    /// How much of the first moment stays.
    pub beta1: f32,
    /// How much of the second moment stays.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// The weight is multiplied with this first: `1 − rate · decay`.
    pub shrink: f32,
    /// `rate / (1 − beta1^t)`.
    pub rate: f32,
    /// `sqrt(1 − beta2^t)`.
    pub root: f32,
}

/// Of `g`, `scale` times the gradient: `m ← β1 m + (1 − β1) g`, `v ← β2 v + (1 − β2) g²`, `w ← shrink · w − rate · m / (sqrt(v) / root + eps)`.
pub fn adamw(weight: &mut [f32], gradient: &[f32], [m, v]: [&mut [f32]; 2], step: AdamW) {
    let AdamW { scale, beta1, beta2, eps, shrink, rate, root } = step;
    let moments = m.par_chunks_mut(PIECE).zip(v.par_chunks_mut(PIECE));
    weight.par_chunks_mut(PIECE).zip(gradient.par_chunks(PIECE)).zip(moments).for_each(|((w, g), (m, v))| {
        wide!(|| {
            for (((w, g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
                let g = g * scale;
                *m += (g - *m) * (1.0 - beta1); // torch's lerp
                *v = *v * beta2 + (1.0 - beta2) * g * g;
                *w = *w * shrink - rate * (*m / (v.sqrt() / root + eps));
            }
        });
    });
}

/// Numbers of one step of Lion.
#[derive(Debug, Clone, Copy)]
pub struct Lion {
    /// The gradient is multiplied with this first.
    pub scale: f32,
    /// How much of the momentum is in the update.
    pub beta1: f32,
    /// How much of the momentum stays.
    pub beta2: f32,
    /// The weight is multiplied with this first: `1 − rate · decay`.
    pub shrink: f32,
    /// The learning rate.
    pub rate: f32,
}

/// Of `g`, `scale` times the gradient: `w ← shrink · w − rate · sign(β1 m + (1 − β1) g)`, `m ← β2 m + (1 − β2) g`.
pub fn lion(weight: &mut [f32], gradient: &[f32], m: &mut [f32], step: Lion) {
    let Lion { scale, beta1, beta2, shrink, rate } = step;
    let all = weight.par_chunks_mut(PIECE).zip(gradient.par_chunks(PIECE)).zip(m.par_chunks_mut(PIECE));
    all.for_each(|((w, g), m)| {
        wide!(|| {
            for ((w, g), m) in w.iter_mut().zip(g).zip(m) {
                let g = g * scale;
                let update = *m * beta1 + g * (1.0 - beta1);
                let sign = if update > 0.0 { 1.0 } else { 0.0 } - if update < 0.0 { 1.0 } else { 0.0 };
                *w = *w * shrink - rate * sign;
                *m = *m * beta2 + g * (1.0 - beta2);
            }
        });
    });
}

/// `x ← a x + b y`.
pub fn blend(x: &mut [f32], a: f32, y: &[f32], b: f32) {
    x.par_chunks_mut(PIECE).zip(y.par_chunks(PIECE)).for_each(|(x, y)| {
        wide!(|| x.iter_mut().zip(y).for_each(|(x, y)| *x = a * *x + b * y));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn match_hand_computed_steps() {
        let (mut w, mut m, mut v) = ([1.0_f32], [0.0_f32], [0.0_f32]);
        let step = AdamW { scale: 0.5, beta1: 0.5, beta2: 0.75, eps: 0.0, shrink: 0.9, rate: 0.2, root: 0.5 };
        adamw(&mut w, &[4.0], [&mut m, &mut v], step); // m 1, v 1
        assert_eq!((m, v), ([1.0], [1.0]));
        assert!((w[0] - (0.9 - 0.2 * 0.5)).abs() < 1e-6, "{w:?}");
        let (mut w, mut m) = ([1.0_f32, 1.0, 1.0], [1.0_f32, 0.0, -3.0]);
        lion(&mut w, &[-0.25, 0.0, 0.5], &mut m, Lion { scale: 2.0, beta1: 0.5, beta2: 0.75, shrink: 1.0, rate: 0.25 });
        assert_eq!((w, m), ([0.75, 1.0, 1.25], [0.625, 0.0, -2.0]));
        let mut x = [1.0, 2.0];
        blend(&mut x, 2.0, &[10.0, 20.0], 0.5);
        assert_eq!(x, [7.0, 14.0]);
    }
}
