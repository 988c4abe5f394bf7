//! Random numbers addressed by counter, not by history.
//!
//! Every use names its own stream, `(seed, domain, a, b)`, e.g. (seed, "child", generation, child). Streams are
//! independent, so scheduling and thread count never change a result. ChaCha8 (`rand_chacha`, portable by its own
//! promise) with the address as key.

use rand::SeedableRng;
pub use rand::{Rng, RngExt, seq};
use rand_chacha::ChaCha8Rng;

use crate::fingerprint::Fingerprint;

/// The generator of stream `(seed, domain, a, b)`.
pub fn stream(seed: u64, domain: &str, a: u64, b: u64) -> ChaCha8Rng {
    let mut address = Vec::with_capacity(domain.len() + 24);
    for word in [seed, a, b] {
        address.extend_from_slice(&word.to_le_bytes());
    }
    address.extend_from_slice(domain.as_bytes());
    ChaCha8Rng::from_seed(Fingerprint::of_bytes(&address).to_bytes())
}

/// A standard normal draw (Box-Muller, one of the pair).
pub fn normal(rng: &mut impl Rng) -> f64 {
    let u: f64 = 1.0 - rng.random::<f64>(); // (0, 1]: the logarithm stays finite
    let angle: f64 = rng.random::<f64>() * std::f64::consts::TAU;
    (-2.0 * u.ln()).sqrt() * angle.cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_depends_on_its_whole_address() {
        let draw = |seed, domain, a, b| stream(seed, domain, a, b).random::<u64>();
        let first = draw(1, "child", 2, 3);
        assert_eq!(first, draw(1, "child", 2, 3));
        for other in [draw(2, "child", 2, 3), draw(1, "split", 2, 3), draw(1, "child", 3, 3), draw(1, "child", 2, 2)] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn normal_has_mean_zero_and_variance_one() {
        let mut rng = stream(0, "normal", 0, 0);
        let draws: Vec<f64> = (0..20_000).map(|_| normal(&mut rng)).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / draws.len() as f64;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}"); // 4 standard errors
    }
}
