//! Rotary position embedding, in the half-split layout of Hugging Face checkpoints. Source: arXiv:2104.09864.
//!
//! For head `h`, position `t` and `i < d_head/2`: `(x_i, x_{i+d_head/2})` is turned by the angle `t · f_i`. The
//! backward is the turn by the opposite angle.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::Result;
use crate::host::{self, Host};

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

    /// As [`Self::new`], but row `r` is at position `positions.start + r mod positions.len()`.
    pub fn at(frequencies: &[f32], positions: std::ops::Range<usize>) -> Self {
        let tokens = positions.len();
        let angles = positions.flat_map(|t| frequencies.iter().map(move |f| t as f32 * f));
        let (cos, sin) = angles.map(|angle| (angle.cos(), angle.sin())).unzip();
        Self { tokens, half: frequencies.len(), cos, sin }
    }

    /// Turns every head of `x` by its position.
    ///
    /// # Shapes
    /// `x` `[sequences · tokens, heads · d_head]`, row `r` at position `r mod tokens`; the result is as `x`.
    ///
    /// # Errors
    /// If shapes, layout or device do not fit.
    pub fn apply(&self, x: &Tensor, turn: Turn) -> Result<Tensor> {
        const OP: &str = "rope";
        let (rows, width) = host::rows(OP, "x", x)?;
        let (d_head, tokens) = (2 * self.half, self.tokens);
        if d_head == 0 || tokens == 0 || !width.is_multiple_of(d_head) || !rows.is_multiple_of(tokens) {
            let want = format!("a multiple of {tokens} rows and of {d_head} columns");
            return Err(host::shape(OP, "x", x, want));
        }
        let input = Host::of(OP, x)?;
        let mut out = vec![0.0; input.len()];
        out.par_chunks_mut(width).zip(input.par_chunks(width)).enumerate().for_each(|(row, (out, input))| {
            let at = row % tokens * self.half;
            let (cos, sin) = (&self.cos[at..at + self.half], &self.sin[at..at + self.half]);
            for (out, input) in out.chunks_mut(d_head).zip(input.chunks(d_head)) {
                let ((low, high), (x, y)) = (out.split_at_mut(self.half), input.split_at(self.half));
                for i in 0..self.half {
                    let sin = if turn == Turn::Forward { sin[i] } else { -sin[i] };
                    low[i] = x[i] * cos[i] - y[i] * sin;
                    high[i] = y[i] * cos[i] + x[i] * sin;
                }
            }
        });
        host::tensor(OP, out, x.dims())
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
        let turned = rope.apply(&x, Turn::Forward).unwrap();
        let got = turned.to_vec2::<f32>().unwrap();
        assert_eq!(got[0], [1.0, 2.0]);
        assert!((got[1][0] + 4.0).abs() < 1e-6 && (got[1][1] - 3.0).abs() < 1e-6); // (3, 4) a quarter turn on
        let back = rope.apply(&turned, Turn::Back).unwrap().to_vec2::<f32>().unwrap();
        assert!((back[1][0] - 3.0).abs() < 1e-6 && (back[1][1] - 4.0).abs() < 1e-6);
    }

    #[test]
    fn rows_must_be_whole_sequences() {
        let x = Tensor::zeros((3, 2), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(Rope::new(&[1.0], 2).apply(&x, Turn::Forward).is_err());
    }
}
