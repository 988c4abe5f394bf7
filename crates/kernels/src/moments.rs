//! First and second moments of two series, in one sweep and in f64: what correlations are made of.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::host::{self, Host};
use crate::simd::wide;
use crate::{KernelError, Result};

/// Sums that run side by side; fixed, so that their order is.
const LANES: usize = 8;

/// Values swept as one piece; fixed, so that the sum's order is.
const PIECE: usize = 16 * 1024;

/// A spread below this share of the squares is rounding: the series does not vary.
const ROUNDING: f64 = 1e-12;

/// `n, Σx, Σx², Σy, Σy², Σxy`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Moments {
    /// Pairs.
    pub n: f64,
    /// `Σx`.
    pub x: f64,
    /// `Σx²`.
    pub xx: f64,
    /// `Σy`.
    pub y: f64,
    /// `Σy²`.
    pub yy: f64,
    /// `Σxy`.
    pub xy: f64,
}

impl Moments {
    /// Of pairs `(x, y)`; what one series has more than the other is not looked at.
    pub fn of(x: &[f32], y: &[f32]) -> Self {
        let pieces = x.par_chunks(PIECE).zip(y.par_chunks(PIECE)).map(|(x, y)| Self::piece(x, y));
        pieces.collect::<Vec<_>>().into_iter().fold(Self::default(), Self::plus)
    }

    /// Of the entries of `x` and those of the `rows` of `y`, row by row: a kept part against the whole.
    ///
    /// # Shapes
    /// `x` `[rows.len(), d]`, `y` `[any, d]`.
    ///
    /// # Errors
    /// If shapes, layout or device do not fit.
    pub fn of_rows(x: &Tensor, y: &Tensor, rows: &[usize]) -> Result<Self> {
        const OP: &str = "moments";
        let ((kept, d), (all, wide)) = (host::rows(OP, "x", x)?, host::rows(OP, "y", y)?);
        if kept != rows.len() || d != wide {
            return Err(host::shape(OP, "x", x, format!("[{}, {wide}]", rows.len())));
        }
        if let Some(row) = rows.iter().find(|row| **row >= all) {
            let want = format!("rows below {all}");
            return Err(KernelError::Shape { op: OP, what: "rows", got: vec![*row], want });
        }
        let (x, y) = (Host::of(OP, x)?, Host::of(OP, y)?);
        let step = (PIECE / d.max(1)).max(1); // rows a piece
        let pieces = rows.par_chunks(step).zip(x.par_chunks(step * d.max(1))).map(|(rows, x)| {
            let pairs = rows.iter().zip(x.chunks(d.max(1)));
            pairs.map(|(row, x)| Self::piece(x, &y[row * d..(row + 1) * d])).fold(Self::default(), Self::plus)
        });
        Ok(pieces.collect::<Vec<_>>().into_iter().fold(Self::default(), Self::plus))
    }

    /// Of a pair of short series, on one thread.
    fn piece(x: &[f32], y: &[f32]) -> Self {
        let n = x.len().min(y.len());
        let mut lanes = [[0.0_f64; LANES]; 5];
        wide!(|| {
            let mut add = |lane: usize, x: f32, y: f32| {
                let (x, y) = (f64::from(x), f64::from(y));
                let products = [x, x * x, y, y * y, x * y];
                lanes.iter_mut().zip(products).for_each(|(lanes, product)| lanes[lane] += product);
            };
            let (wholes, rest) = (x[..n].as_chunks::<LANES>().0, n / LANES * LANES);
            for (x, y) in wholes.iter().zip(y[..n].as_chunks::<LANES>().0) {
                (0..LANES).for_each(|lane| add(lane, x[lane], y[lane]));
            }
            (rest..n).for_each(|i| add(i - rest, x[i], y[i]));
        });
        let [x, xx, y, yy, xy] = lanes.map(|lanes| lanes.iter().sum());
        Self { n: n as f64, x, xx, y, yy, xy }
    }

    /// As if `x` had zeros beside the pairs of `whole` that are not among these: what was removed counts as 0.
    #[must_use]
    pub fn zeros_beside(self, whole: Self) -> Self {
        Self { n: whole.n, y: whole.y, yy: whole.yy, ..self }
    }

    /// Of both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            n: self.n + other.n,
            x: self.x + other.x,
            xx: self.xx + other.xx,
            y: self.y + other.y,
            yy: self.yy + other.yy,
            xy: self.xy + other.xy,
        }
    }

    /// Pearson's correlation; 0 where a series does not vary, NaN where one holds a value that is not finite.
    pub fn pearson(&self) -> f64 {
        let spread = |square: f64, sum: f64| {
            let spread = square - sum * sum / self.n;
            if spread <= ROUNDING * square { 0.0 } else { spread }
        };
        ratio(self.xy - self.x * self.y / self.n, spread(self.xx, self.x) * spread(self.yy, self.y))
    }

    /// Cosine of the angle between the series; 0 where one is zero, NaN where one holds a value that is not finite.
    pub fn cosine(&self) -> f64 {
        ratio(self.xy, self.xx * self.yy)
    }
}

fn ratio(product: f64, squares: f64) -> f64 {
    match squares {
        0.0 => 0.0 * product, // NaN stays NaN
        _ if squares.is_finite() => (product / squares.sqrt()).clamp(-1.0, 1.0),
        _ => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn match_hand_computed_values() {
        let m = Moments::of(&[1.0, 2.0, 3.0], &[2.0, 4.0, 7.0]);
        assert_eq!(m, Moments { n: 3.0, x: 6.0, xx: 14.0, y: 13.0, yy: 69.0, xy: 31.0 });
        assert!((m.pearson() - 5.0 / (2.0 * (38.0_f64 / 3.0)).sqrt()).abs() < 1e-12);
        assert!((m.cosine() - 31.0 / (14.0 * 69.0_f64).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn rows_are_matched_and_removed_ones_count_as_zero() {
        let t = |values: &[f32], rows| Tensor::from_slice(values, (rows, 2), &candle_core::Device::Cpu).unwrap();
        let (x, y) = (t(&[1.0, 2.0], 1), t(&[5.0, 6.0, 7.0, 8.0], 2));
        let m = Moments::of_rows(&x, &y, &[1]).unwrap();
        assert_eq!(m, Moments { n: 2.0, x: 3.0, xx: 5.0, y: 15.0, yy: 113.0, xy: 23.0 });
        let whole = Moments::of_rows(&y, &y, &[0, 1]).unwrap();
        let zeroed = Moments::of(&[0.0, 0.0, 1.0, 2.0], &[5.0, 6.0, 7.0, 8.0]);
        assert_eq!(m.zeros_beside(whole), zeroed);
        assert!(Moments::of_rows(&x, &y, &[2]).is_err() && Moments::of_rows(&x, &y, &[0, 1]).is_err());
    }

    #[test]
    fn halves_add_up_and_constants_do_not_correlate() {
        let x: Vec<f32> = (0..50_000).map(|i| (i as f32).sin()).collect();
        let y: Vec<f32> = x.iter().map(|x| 3.0 - 2.0 * x).collect();
        assert!((Moments::of(&x, &y).pearson() + 1.0).abs() < 1e-9);
        let halves = Moments::of(&x[..PIECE], &y[..PIECE]).plus(Moments::of(&x[PIECE..], &y[PIECE..]));
        assert!((halves.xy - Moments::of(&x, &y).xy).abs() < 1e-9);
        assert_eq!(Moments::of(&x, &vec![1.0; 50_000]).pearson(), 0.0);
        let tenths = vec![0.1; 50_000]; // no exact sum
        assert_eq!(Moments::of(&x, &tenths).pearson(), 0.0);
        assert_eq!(Moments::default().cosine(), 0.0);
    }

    #[test]
    fn what_is_not_finite_has_no_correlation() {
        for bad in [f32::NAN, f32::INFINITY] {
            for m in [Moments::of(&[1.0, 2.0], &[bad, 1.0]), Moments::of(&[0.0, 0.0], &[bad, 1.0])] {
                assert!(m.pearson().is_nan() && m.cosine().is_nan(), "{m:?}");
            }
        }
    }
}
