//! Gradient noise: `g ← g + N(0, σ²)`, `σ² = eta / (1 + t)^gamma` in step `t` from 0.
//!
//! Source: arXiv:1511.06807. The paper does not say whether noise comes before or after clipping; here after.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use taper_base::rng::{normal, stream};

/// Values that share one stream of random numbers.
const PIECE: usize = 16 * 1024;

/// Noise that falls with the steps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Noise {
    /// Variance at the first step; the paper tries 0.01, 0.3 and 1.
    pub eta: f64,
    /// How fast it falls; the paper's is 0.55.
    pub gamma: f64,
}

impl Noise {
    /// Adds the noise of step `step` to the gradient of parameter `index`.
    pub fn add(&self, gradient: &mut [f32], step: u64, (seed, index): (u64, u64)) {
        if self.eta == 0.0 {
            return;
        }
        let deviation = (self.eta / (1.0 + step as f64).powf(self.gamma)).sqrt();
        gradient.par_chunks_mut(PIECE).enumerate().for_each(|(piece, values)| {
            let mut rng = stream(seed, &format!("gradient-noise {index} {piece}"), step, 0);
            values.iter_mut().for_each(|g| *g += (deviation * normal(&mut rng)) as f32);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variance_falls_as_the_formula_says() {
        let noise = Noise { eta: 0.3, gamma: 0.55 };
        for step in [0, 10, 1000] {
            let mut g = vec![1.0_f32; 400_000];
            noise.add(&mut g, step, (3, 7));
            let mean = g.iter().map(|x| f64::from(*x)).sum::<f64>() / g.len() as f64;
            let variance = g.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / g.len() as f64;
            let want = 0.3 / (1.0 + step as f64).powf(0.55);
            assert!((variance / want - 1.0).abs() < 0.01, "{variance} {want}"); // 4 standard errors
            assert!((mean - 1.0).abs() < 4.0 * (want / 4e5).sqrt());
        }
    }

    #[test]
    fn it_depends_on_its_address_alone_and_none_is_none() {
        let drawn = |step, address| {
            let mut g = vec![0.0_f32; 20];
            Noise { eta: 1.0, gamma: 0.55 }.add(&mut g, step, address);
            g
        };
        assert_eq!(drawn(1, (2, 3)), drawn(1, (2, 3)));
        for other in [drawn(2, (2, 3)), drawn(1, (3, 3)), drawn(1, (2, 4))] {
            assert_ne!(drawn(1, (2, 3)), other);
        }
        let mut g = vec![0.1_f32, -0.0];
        Noise { eta: 0.0, gamma: 0.55 }.add(&mut g, 0, (0, 0));
        assert_eq!(g.map_bits(), [0.1_f32.to_bits(), (-0.0_f32).to_bits()]);
    }

    trait Bits {
        fn map_bits(&self) -> Vec<u32>;
    }

    impl Bits for Vec<f32> {
        fn map_bits(&self) -> Vec<u32> {
            self.iter().map(|x| x.to_bits()).collect()
        }
    }
}
