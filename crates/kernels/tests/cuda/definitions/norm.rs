/// `x` in rows of `d`.
fn rows(x: &[f64], d: usize) -> impl Iterator<Item = &[f64]> {
    x.chunks(d)
}

fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}

fn rms_scale(x: &[f64], eps: f64) -> f64 {
    1.0 / (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + eps).sqrt()
}

/// The normalised row of LayerNorm, and its scale.
fn standard(x: &[f64], eps: f64) -> (Vec<f64>, f64) {
    let middle = mean(x);
    let scale = 1.0 / (x.iter().map(|x| (x - middle).powi(2)).sum::<f64>() / x.len() as f64 + eps).sqrt();
    (x.iter().map(|x| (x - middle) * scale).collect(), scale)
}

pub fn rms(x: &[f64], w: &[f64], eps: f64) -> Vec<f64> {
    let row = |x: &[f64]| x.iter().zip(w).map(|(a, w)| a * w * rms_scale(x, eps)).collect::<Vec<_>>();
    rows(x, w.len()).flat_map(row).collect()
}

pub fn layer(x: &[f64], w: &[f64], b: &[f64], eps: f64) -> Vec<f64> {
    let row = |x: &[f64]| standard(x, eps).0.iter().zip(w).zip(b).map(|((z, w), b)| z * w + b).collect::<Vec<_>>();
    rows(x, w.len()).flat_map(row).collect()
}

/// Gradients of x and w: `dz_j / dx_i = s (δ_ij − x_i x_j s² / d)`.
pub fn rms_backward(x: &[f64], w: &[f64], eps: f64, dy: &[f64]) -> (Vec<f64>, Vec<f64>) {
    backward(x, w, dy, |x| {
        let (s, d) = (rms_scale(x, eps), x.len() as f64);
        let z = x.iter().map(|x| x * s).collect();
        let x = x.to_vec();
        (z, Box::new(move |j, i| s * (f64::from(u8::from(i == j)) - x[i] * x[j] * s * s / d)))
    })
}

/// Gradients of x and w: `dz_j / dx_i = s (δ_ij − 1/d − z_i z_j / d)`.
pub fn layer_backward(x: &[f64], w: &[f64], eps: f64, dy: &[f64]) -> (Vec<f64>, Vec<f64>) {
    backward(x, w, dy, |x| {
        let ((z, s), d) = (standard(x, eps), x.len() as f64);
        let copy = z.clone();
        (z, Box::new(move |j, i| s * (f64::from(u8::from(i == j)) - 1.0 / d - copy[i] * copy[j] / d)))
    })
}

type Slope = Box<dyn Fn(usize, usize) -> f64>;

fn backward(x: &[f64], w: &[f64], dy: &[f64], norm: impl Fn(&[f64]) -> (Vec<f64>, Slope)) -> (Vec<f64>, Vec<f64>) {
    let d = w.len();
    let (mut dx, mut dw) = (Vec::new(), vec![0.0; d]);
    for (x, dy) in rows(x, d).zip(rows(dy, d)) {
        let (z, slope) = norm(x);
        dx.extend((0..d).map(|i| (0..d).map(|j| dy[j] * w[j] * slope(j, i)).sum::<f64>()));
        (0..d).for_each(|i| dw[i] += dy[i] * z[i]);
    }
    (dx, dw)
}
