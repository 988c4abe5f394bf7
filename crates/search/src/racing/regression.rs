//! What a score over all tokens will be, from the architecture and a score over some: Gaussian-process regression.
//!
//! `y ~ N(ȳ, σ²(K + I))` for the `n` examples, with
//! `k(z, z') = a·(⟨f, f'⟩/p + 3·x·x') + l·exp(−|f − f'|² / 2p)`, `f` the `p` features of the architecture that vary and `x` the
//! score over some tokens, each with mean 0 and variance 1. `a` and `l` are those of a small grid under which each example is
//! best predicted from the others (leave one out, `e_i = [C y]_i / C_ii`, variance `σ²/C_ii`, `C = (K + I)⁻¹`; `σ²` is the
//! mean of `e_i² C_ii`). A prediction has the variance `σ²(1 + k(z, z) − kᵀ C k) + v̄`, where `v̄` is the mean variance
//! of the targets themselves, some of which are predictions.
//!
//! Source: Rasmussen & Williams, "Gaussian Processes for Machine Learning", 2006, 2.2, 5.4.2.

/// Weight of `x` in the linear part, against all features together.
const WEIGHT: f64 = 3.0;
/// `a` and `l`, in units of the noise.
const GRID: [[f64; 2]; 4] = [[1.0, 0.3], [1.0, 3.0], [10.0, 0.3], [10.0, 3.0]];

/// What is known of a candidate.
#[derive(Debug, Clone)]
pub(super) struct Example<'a> {
    pub(super) features: &'a [f64],
    /// Score over some tokens.
    pub(super) x: f64,
    /// Score over all tokens.
    pub(super) y: f64,
    /// Of `y`, above 0 if it is itself a prediction.
    pub(super) variance: f64,
}

/// A full score to expect.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Expected {
    /// Its mean.
    pub score: f64,
    /// Its variance.
    pub variance: f64,
}

/// A regression through examples.
#[derive(Debug, Clone)]
pub(super) struct Regression {
    /// Mean and factor of each feature, then of `x`, that make variances 1; factor 0 if it does not vary.
    columns: Vec<[f64; 2]>,
    /// Examples' features and `x` so scaled.
    points: Vec<Vec<f64>>,
    kernel: Kernel,
    inverse: Square,
    /// `C y`.
    weights: Vec<f64>,
    mean: f64,
    /// `σ²`, in the unit of the score.
    noise: f64,
    /// `v̄`.
    variance: f64,
    /// How far each example lies above what the others predict, in standard deviations.
    pub(super) shortfalls: Vec<f64>,
}

impl Regression {
    /// None through fewer than 3 examples or where scores do not vary.
    pub(super) fn through(examples: &[Example<'_>]) -> Option<Self> {
        let n = examples.len();
        let width = examples.first().filter(|_| n >= 3)?.features.len();
        let columns: Vec<[f64; 2]> = (0..=width).map(|c| scaling(examples.iter().map(|e| e.column(c)))).collect();
        let points: Vec<Vec<f64>> = examples.iter().map(|example| scaled(example, &columns)).collect();
        let varying = columns[..width].iter().filter(|column| column[1] > 0.0).count().max(1) as f64;
        let [mean, factor] = scaling(examples.iter().map(|example| example.y));
        let targets: Vec<f64> = examples.iter().map(|example| (example.y - mean) * factor).collect();
        let fit = |[linear, near]: [f64; 2]| Fit::new(Kernel { linear, near, varying }, &points, &targets);
        let fits = if factor > 0.0 { GRID.iter().filter_map(|weights| fit(*weights)).collect() } else { Vec::new() };
        let fit = fits.into_iter().max_by(|a, b| a.likelihood.total_cmp(&b.likelihood))?;
        let noise = fit.noise / (factor * factor);
        let variance = examples.iter().map(|example| example.variance).sum::<f64>() / n as f64;
        let shortfall = |i: usize| {
            let certainty = fit.inverse.at(i, i);
            fit.weights[i] / certainty / factor / (noise / certainty + variance).sqrt()
        };
        let shortfalls = (0..n).map(shortfall).collect();
        let weights = fit.weights.iter().map(|weight| weight / factor).collect();
        Some(Self {
            columns,
            kernel: fit.kernel,
            inverse: fit.inverse,
            points,
            weights,
            mean,
            noise,
            variance,
            shortfalls,
        })
    }

    /// Of a candidate with `features` that scores `x` over some tokens.
    pub(super) fn expect(&self, features: &[f64], x: f64) -> Expected {
        let point = scaled(&Example { features, x, y: 0.0, variance: 0.0 }, &self.columns);
        let near: Vec<f64> = self.points.iter().map(|other| self.kernel.of(&point, other)).collect();
        let known: f64 = near.iter().enumerate().map(|(i, k)| k * dot(self.inverse.row(i), &near)).sum();
        let spread = (1.0 + self.kernel.of(&point, &point) - known).max(0.0);
        Expected { score: self.mean + dot(&near, &self.weights), variance: self.noise * spread + self.variance }
    }
}

impl Example<'_> {
    fn column(&self, column: usize) -> f64 {
        self.features.get(column).copied().unwrap_or(self.x)
    }
}

/// Mean of the values and the factor that makes their variance 1, or 0.
fn scaling(values: impl Iterator<Item = f64> + Clone) -> [f64; 2] {
    let n = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / n;
    let square = values.map(|value| (value - mean).powi(2)).sum::<f64>() / n;
    let least = 1e-12 * mean.abs().max(f64::MIN_POSITIVE); // rounding of a constant
    [mean, if square.sqrt() > least { 1.0 / square.sqrt() } else { 0.0 }]
}

fn scaled(example: &Example<'_>, columns: &[[f64; 2]]) -> Vec<f64> {
    columns.iter().enumerate().map(|(c, [mean, factor])| (example.column(c) - mean) * factor).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `k`, of scaled points whose last column is `x`.
#[derive(Debug, Clone, Copy)]
struct Kernel {
    linear: f64,
    near: f64,
    varying: f64,
}

impl Kernel {
    fn of(&self, a: &[f64], b: &[f64]) -> f64 {
        let last = a.len() - 1;
        let (f, g) = (&a[..last], &b[..last]);
        let apart: f64 = f.iter().zip(g).map(|(f, g)| (f - g) * (f - g)).sum();
        let linear = dot(f, g) / self.varying + WEIGHT * a[last] * b[last];
        self.linear * linear + self.near * (-apart / (2.0 * self.varying)).exp()
    }
}

/// One kernel's fit to targets with mean 0 and variance 1.
struct Fit {
    kernel: Kernel,
    inverse: Square,
    weights: Vec<f64>,
    noise: f64,
    /// Logarithm of the likelihood of each target given the others, but for a constant.
    likelihood: f64,
}

impl Fit {
    fn new(kernel: Kernel, points: &[Vec<f64>], targets: &[f64]) -> Option<Self> {
        let n = points.len();
        let entry = |i: usize, j: usize| kernel.of(&points[i], &points[j]) + f64::from(u8::from(i == j));
        let inverse = Square::inverse(n, entry)?;
        let weights: Vec<f64> = (0..n).map(|i| dot(inverse.row(i), targets)).collect();
        let noise = (0..n).map(|i| weights[i] * weights[i] / inverse.at(i, i)).sum::<f64>() / n as f64;
        let certainty: f64 = (0..n).map(|i| inverse.at(i, i).ln()).sum();
        let likelihood = 0.5 * certainty - 0.5 * n as f64 * noise.ln();
        (noise.is_finite() && !likelihood.is_nan()).then_some(Self { kernel, inverse, weights, noise, likelihood })
    }
}

/// A square matrix, row by row.
#[derive(Debug, Clone)]
struct Square {
    n: usize,
    values: Vec<f64>,
}

impl Square {
    fn at(&self, i: usize, j: usize) -> f64 {
        self.values[i * self.n + j]
    }

    fn row(&self, i: usize) -> &[f64] {
        &self.values[i * self.n..(i + 1) * self.n]
    }

    /// Inverse of the symmetric positive definite matrix of `entry(i, j)`, `j <= i`, by Cholesky's `L Lᵀ`; none if a pivot
    /// is not positive.
    fn inverse(n: usize, entry: impl Fn(usize, usize) -> f64) -> Option<Self> {
        let mut lower = Self { n, values: vec![0.0; n * n] };
        for i in 0..n {
            for j in 0..=i {
                let rest = entry(i, j) - dot(&lower.row(i)[..j], &lower.row(j)[..j]);
                let value = if i == j { rest.sqrt() } else { rest / lower.at(j, j) };
                if i == j && !(rest > 0.0 && rest.is_finite()) {
                    return None;
                }
                lower.values[i * n + j] = value;
            }
        }
        // columns of L⁻¹ as rows: column j begins at j
        let mut columns = Self { n, values: vec![0.0; n * n] };
        for j in 0..n {
            columns.values[j * n + j] = 1.0 / lower.at(j, j);
            for i in j + 1..n {
                let rest = dot(&lower.row(i)[j..i], &columns.row(j)[j..i]);
                columns.values[j * n + i] = -rest / lower.at(i, i);
            }
        }
        let mut inverse = Self { n, values: vec![0.0; n * n] };
        for i in 0..n {
            for j in 0..=i {
                let value = dot(&columns.row(i)[i..], &columns.row(j)[i..]);
                inverse.values[i * n + j] = value;
                inverse.values[j * n + i] = value;
            }
        }
        Some(inverse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use taper_base::rng::{normal, stream};

    fn examples(points: &[([f64; 1], f64, f64)]) -> Vec<Example<'_>> {
        points.iter().map(|(f, x, y)| Example { features: f, x: *x, y: *y, variance: 0.0 }).collect()
    }

    #[test]
    fn the_inverse_is_that_worked_out_by_hand() {
        let matrix = [[4.0, 2.0, 0.0], [2.0, 5.0, 2.0], [0.0, 2.0, 2.0]]; // determinant 16
        let inverse = Square::inverse(3, |i, j| matrix[i][j]).unwrap();
        let want = [6.0, -4.0, 4.0, -4.0, 8.0, -8.0, 4.0, -8.0, 16.0].map(|v| v / 16.0);
        assert!(inverse.values.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-12), "{inverse:?}");
        assert!(Square::inverse(2, |_, _| 1.0).is_none(), "singular");
    }

    #[test]
    fn shortfalls_are_those_of_regressions_without_the_example() {
        let mut rng = stream(0, "test", 0, 0);
        let points: Vec<Vec<f64>> = (0..6).map(|_| vec![normal(&mut rng), normal(&mut rng)]).collect();
        let targets: Vec<f64> = (0..6).map(|_| normal(&mut rng)).collect();
        let kernel = Kernel { linear: 1.0, near: 3.0, varying: 1.0 };
        let fit = Fit::new(kernel, &points, &targets).unwrap();
        let mut errors = Vec::new(); // with their variances, in units of the noise
        for out in 0..6 {
            let (mut others, mut rest) = (points.clone(), targets.clone());
            let (point, target) = (others.remove(out), rest.remove(out));
            let without = Fit::new(kernel, &others, &rest).unwrap();
            let near: Vec<f64> = others.iter().map(|other| kernel.of(&point, other)).collect();
            let error = target - dot(&near, &without.weights);
            assert!((fit.weights[out] / fit.inverse.at(out, out) - error).abs() < 1e-10, "{out}");
            let known: f64 = (0..5).map(|i| near[i] * dot(without.inverse.row(i), &near)).sum();
            let spread = 1.0 + kernel.of(&point, &point) - known;
            assert!((1.0 / fit.inverse.at(out, out) - spread).abs() < 1e-10, "{out}");
            errors.push((error, spread));
        }
        let noise = errors.iter().map(|(error, spread)| error * error / spread).sum::<f64>() / 6.0;
        assert!((fit.noise - noise).abs() < 1e-10);
        let density = |(error, spread): &(f64, f64)| -0.5 * (error * error / (noise * spread) + (noise * spread).ln());
        let likelihood = errors.iter().map(density).sum::<f64>() + 3.0; // n / 2 is the constant left out
        assert!((fit.likelihood - likelihood).abs() < 1e-9, "{} {likelihood}", fit.likelihood);
    }

    #[test]
    fn the_kernel_is_that_worked_out_by_hand() {
        let kernel = Kernel { linear: 2.0, near: 3.0, varying: 4.0 };
        let got = kernel.of(&[1.0, 2.0, 0.5], &[3.0, -1.0, 2.0]); // |f - f'|² is 13, ⟨f, f'⟩ is 1
        assert!((got - (2.0 * (1.0 / 4.0 + 3.0 * 0.5 * 2.0) + 3.0 * (-13.0_f64 / 8.0).exp())).abs() < 1e-12, "{got}");
    }

    #[test]
    fn a_line_is_found_whatever_its_units_and_variances_of_targets_add_up() {
        let points: Vec<_> = (0..40).map(|i| ([1.0], f64::from(i), 2.0e6 * f64::from(i) - 7e6)).collect();
        let mut all = examples(&points);
        let expected = Regression::through(&all).unwrap().expect(&[1.0], 20.5);
        assert!((expected.score - 34e6).abs() < 0.01e6, "{expected:?}");
        all.iter_mut().for_each(|example| example.variance = 9e12);
        let unsure = Regression::through(&all).unwrap().expect(&[1.0], 20.5);
        assert_eq!(unsure.score, expected.score);
        assert!((unsure.variance - expected.variance - 9e12).abs() < 1.0, "{unsure:?} {expected:?}");
    }

    #[test]
    fn features_tell_what_a_noisy_score_does_not() {
        let mut rng = stream(1, "test", 0, 0);
        let points: Vec<_> = (0..60)
            .map(|_| {
                let f = normal(&mut rng);
                ([f], normal(&mut rng), 5.0 * f + 0.1 * normal(&mut rng))
            })
            .collect();
        let regression = Regression::through(&examples(&points)).unwrap();
        for (f, x) in [(-1.0, 1.0), (0.5, -2.0), (1.0, 0.0)] {
            let expected = regression.expect(&[f], x);
            assert!((expected.score - 5.0 * f).abs() < 0.3, "{f}: {expected:?}");
            assert!(expected.variance.sqrt() < 0.6, "{expected:?}");
        }
        let far = regression.expect(&[40.0], 0.0).variance;
        assert!(far > 4.0 * regression.expect(&[0.0], 0.0).variance, "far from all examples it is unsure: {far}");
    }

    #[test]
    fn where_nothing_can_be_predicted_there_is_no_regression() {
        assert!(Regression::through(&[]).is_none());
        assert!(Regression::through(&examples(&[([1.0], 1.0, 1.0), ([2.0], 2.0, 2.0)])).is_none());
        assert!(Regression::through(&examples(&[([1.0], 1.0, 0.1), ([2.0], 2.0, 0.1), ([3.0], 3.0, 0.1)])).is_none());
    }
}
