//! Rotary position embedding; see the CPU's [`Rope`](crate::Rope), whose tables these are.

use std::sync::Arc;

use super::launch::{Kernel, at_once, cover};
use super::{Array, CudaError, Machine, Result, Storage};
use crate::Turn;

/// Cosines and sines of positions `0..tokens` in device memory.
#[derive(Debug, Clone)]
pub struct Rope {
    tokens: usize,
    half: usize,
    cosines: Array, // [tokens, half]
    sines: Array,   // [tokens, half]
}

impl Rope {
    /// Tables for the angular `frequencies` (one a pair) at positions `0..tokens`, computed on the host.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn new(machine: &Arc<dyn Machine>, frequencies: &[f32], tokens: usize) -> Result<Self> {
        let angles = (0..tokens).flat_map(|t| frequencies.iter().map(move |f| t as f32 * f));
        let (cosines, sines): (Vec<f32>, Vec<f32>) = angles.map(|angle| (angle.cos(), angle.sin())).unzip();
        let half = frequencies.len();
        let table = |values: &[f32]| Array::of(machine, values, &[tokens, half], Storage::F32);
        Ok(Self { tokens, half, cosines: table(&cosines)?, sines: table(&sines)? })
    }

    /// Turns every head of `x` by its position, in place.
    ///
    /// # Shapes
    /// `x` `[sequences · tokens, heads · d_head]`, row `r` at position `r mod tokens`.
    ///
    /// # Errors
    /// If shapes or types do not fit, or the machine fails.
    pub fn turn(&self, x: &Array, turn: Turn) -> Result<()> {
        const OP: &str = "rope";
        let ((rows, width), d_head) = (x.as_rows(), 2 * self.half);
        if d_head == 0 || self.tokens == 0 || !width.is_multiple_of(d_head) || !rows.is_multiple_of(self.tokens) {
            let want = format!("a multiple of {} rows and of {d_head} columns", self.tokens);
            return Err(CudaError::Shape { op: OP, what: "x", got: x.shape().to_vec(), want });
        }
        let storage = x.storage(OP, "x")?;
        let parts = rows * (width / d_head) * self.half.div_ceil(at_once(storage));
        let kernel = Kernel::new(OP, "rope.cu", OP, storage).array(x).array(&self.cosines);
        let kernel = kernel.array(&self.sines).count(parts).size("heads", width / d_head).size("half", self.half);
        let turn = if turn == Turn::Forward { 1.0 } else { -1.0 };
        kernel.size("tokens", self.tokens).float(turn).grid(cover(parts)).run(x.machine())
    }
}
