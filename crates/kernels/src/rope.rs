//! Rotary position embedding, in the half-split layout of Hugging Face checkpoints. Source: arXiv:2104.09864.
//!
//! For head `h`, position `t` and `i < d_head/2`: `(x_i, x_{i+d_head/2})` is turned by the angle `t · f_i`. The
//! backward is the turn by the opposite angle.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::Result;
use crate::host;
use crate::simd::wide;

/// Which way to turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The forward pass.
    Forward,
    /// The backward pass.
    Back,
}

/// Cosines and sines of some positions in a row.
#[derive(Debug, Clone)]
pub struct Rope {
    tokens: usize,
    half: usize,
    cos: Vec<f32>, // [tokens, half]
    sin: Vec<f32>, // [tokens, half]
}

impl Rope {
    /// Tables for the angular `frequencies` (one a pair) at positions `0..tokens`, in f32 as transformers computes them.
    pub fn new(frequencies: &[f32], tokens: usize) -> Self {
        Self::at(frequencies, 0..tokens)
    }

    /// As [`Self::new`], but row `r` is at the position of that number, `r mod positions.len()`.
    pub fn at(frequencies: &[f32], positions: impl ExactSizeIterator<Item = usize>) -> Self {
        let tokens = positions.len();
        let angles = positions.flat_map(|t| frequencies.iter().map(move |f| t as f32 * f));
        let (cos, sin) = angles.map(|angle| (angle.cos(), angle.sin())).unzip();
        Self { tokens, half: frequencies.len(), cos, sin }
    }

    /// Turns every head of `x` by its position, in place: whoever shares the tensor sees it.
    ///
    /// # Shapes
    /// `x` `[sequences · tokens, heads · d_head]`, row `r` at position `r mod tokens`.
    ///
    /// # Errors
    /// If shapes, layout or device do not fit.
    pub fn turn(&self, x: &Tensor, turn: Turn) -> Result<()> {
        const OP: &str = "rope";
        let (rows, width) = host::rows(OP, "x", x)?;
        let (d_head, tokens) = (2 * self.half, self.tokens);
        if d_head == 0 || tokens == 0 || !width.is_multiple_of(d_head) || !rows.is_multiple_of(tokens) {
            let want = format!("a multiple of {tokens} rows and of {d_head} columns");
            return Err(host::shape(OP, "x", x, want));
        }
        let sign = if turn == Turn::Forward { 1.0 } else { -1.0 };
        host::update(OP, x, |values| {
            values.par_chunks_mut(width.max(1)).enumerate().for_each(|(row, heads)| {
                let at = row % tokens * self.half;
                let (cos, sin) = (&self.cos[at..at + self.half], &self.sin[at..at + self.half]);
                wide!(|| {
                    for head in heads.chunks_mut(d_head) {
                        let (low, high) = head.split_at_mut(self.half);
                        for ((x, y), (cos, sin)) in low.iter_mut().zip(high).zip(cos.iter().zip(sin)) {
                            let sin = sign * sin;
                            (*x, *y) = (*x * cos - *y * sin, *y * cos + *x * sin);
                        }
                    }
                });
            });
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn turns_by_position_and_back() {
        let rope = Rope::new(&[std::f32::consts::FRAC_PI_2], 2);
        let x = Tensor::from_slice(&[1.0_f32, 2.0, 3.0, 4.0], (2, 2), &Device::Cpu).unwrap();
        rope.turn(&x, Turn::Forward).unwrap();
        let got = x.to_vec2::<f32>().unwrap();
        assert_eq!(got[0], [1.0, 2.0]);
        assert!((got[1][0] + 4.0).abs() < 1e-6 && (got[1][1] - 3.0).abs() < 1e-6); // (3, 4) a quarter turn on
        rope.turn(&x, Turn::Back).unwrap();
        let back = x.to_vec2::<f32>().unwrap();
        assert!((back[1][0] - 3.0).abs() < 1e-6 && (back[1][1] - 4.0).abs() < 1e-6);
    }

    #[test]
    fn rows_must_be_whole_sequences() {
        let x = Tensor::zeros((3, 2), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(Rope::new(&[1.0], 2).turn(&x, Turn::Forward).is_err());
    }
}
