//! First and second moments of two series, in one sweep and in f64: what correlations are made of.

use rayon::prelude::*;

/// Values swept as one piece; fixed, so that the sum's order is.
const PIECE: usize = 16 * 1024;

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
        let pieces = x.par_chunks(PIECE).zip(y.par_chunks(PIECE)).map(|(x, y)| {
            let mut lanes = [Self::default(); 4];
            for (index, (x, y)) in x.iter().zip(y).enumerate() {
                let (x, y) = (f64::from(*x), f64::from(*y));
                let lane = &mut lanes[index % 4];
                lane.x += x;
                lane.xx += x * x;
                lane.y += y;
                lane.yy += y * y;
                lane.xy += x * y;
            }
            let sum = lanes.into_iter().fold(Self::default(), Self::plus);
            Self { n: x.len().min(y.len()) as f64, ..sum }
        });
        pieces.collect::<Vec<_>>().into_iter().fold(Self::default(), Self::plus)
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

    /// Pearson's correlation; 0 where a series does not vary.
    pub fn pearson(&self) -> f64 {
        let spread = |square: f64, sum: f64| (square - sum * sum / self.n).max(0.0);
        ratio(self.xy - self.x * self.y / self.n, spread(self.xx, self.x) * spread(self.yy, self.y))
    }

    /// Cosine of the angle between the series; 0 where one is zero.
    pub fn cosine(&self) -> f64 {
        ratio(self.xy, self.xx * self.yy)
    }
}

fn ratio(product: f64, squares: f64) -> f64 {
    if squares > 0.0 { (product / squares.sqrt()).clamp(-1.0, 1.0) } else { 0.0 }
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
    fn halves_add_up_and_constants_do_not_correlate() {
        let x: Vec<f32> = (0..50_000).map(|i| (i as f32).sin()).collect();
        let y: Vec<f32> = x.iter().map(|x| 3.0 - 2.0 * x).collect();
        assert!((Moments::of(&x, &y).pearson() + 1.0).abs() < 1e-9);
        let halves = Moments::of(&x[..PIECE], &y[..PIECE]).plus(Moments::of(&x[PIECE..], &y[PIECE..]));
        assert!((halves.xy - Moments::of(&x, &y).xy).abs() < 1e-9);
        assert_eq!(Moments::of(&x, &vec![1.0; 50_000]).pearson(), 0.0);
        assert_eq!(Moments::default().cosine(), 0.0);
    }
}
