//! A model of images at another resolution: its positions are interpolated over the new grid of patches.
//!
//! Bicubic as PyTorch's `interpolate(mode="bicubic", align_corners=False)`, without antialiasing: along each axis
//! `x = (o + ½) · in / out − ½`, taps at `⌊x⌋ − 1 … ⌊x⌋ + 2` clamped to the edge, weights of Keys' kernel with `A = −¾`. Positions of
//! the tokens before the patches stay. It is what transformers does with `interpolate_pos_encoding`, and DINOv2 always; it takes the old
//! grid as square, here it is the one that the configuration says.

use candle_core::{Device, Tensor as Host};
use taper_arch::ImageSpec;
use taper_kernels::{KernelError, Tensor};

use crate::error::at;
use crate::{Model, ModelError, Result};

/// Of Keys' kernel, as PyTorch has it.
const A: f64 = -0.75;

impl Model {
    /// The same model for images of `size`, height and width in pixels; what is beyond whole patches is cut off.
    ///
    /// # Errors
    /// [`ModelError::Images`] if it reads no images, or `size` has no patch.
    pub fn at_resolution(&self, size: [usize; 2]) -> Result<Self> {
        let (Some(image), Some(images)) = (self.spec.image, &self.images) else {
            return Err(ModelError::Images { reason: "the model reads tokens, not images".to_owned() });
        };
        let new = ImageSpec { size: size.map(|side| side / image.patch * image.patch), ..image };
        if new.patches() == 0 {
            let reason = format!("{size:?} pixels have no patch of {}", image.patch);
            return Err(ModelError::Images { reason });
        }
        let (old, d) = (images.positions().to_vec().map_err(at("positions"))?, self.spec.d_model);
        let (before, patches) = old.split_at(image.prefix * d);
        let mut values = before.to_vec();
        values.extend(resized(patches, d, image.grid(), new.grid()));
        let tensor = Host::from_vec(values, (new.tokens(), d), &Device::Cpu);
        let tensor = tensor.map_err(|cause| at("positions")(KernelError::Tensor { op: "positions", cause }))?;
        let mut model = self.clone();
        model.images = Some(images.at(new, Tensor::from(tensor)));
        (model.spec.image, model.spec.max_tokens) = (Some(new), new.tokens());
        Ok(model)
    }
}

/// `values` `[rows, columns, d]` over another grid.
fn resized(values: &[f32], d: usize, [rows, columns]: [usize; 2], to: [usize; 2]) -> Vec<f32> {
    if [rows, columns] == to {
        return values.to_vec();
    }
    let (down, across) = (taps(rows, to[0]), taps(columns, to[1]));
    let mut out = Vec::with_capacity(to[0] * to[1] * d);
    for of_row in &down {
        for of_column in &across {
            let start = out.len();
            out.resize(start + d, 0.0);
            for (row, weight) in of_row {
                for (column, other) in of_column {
                    let from = &values[(row * columns + column) * d..][..d];
                    let weight = (weight * other) as f32;
                    out[start..].iter_mut().zip(from).for_each(|(out, x)| *out += weight * x);
                }
            }
        }
    }
    out
}

/// For each of `to` places the four of `from` it is made of, and their weights.
fn taps(from: usize, to: usize) -> Vec<[(usize, f64); 4]> {
    let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    let place = |index: usize| {
        let x = (index as f64 + 0.5) * from as f64 / to as f64 - 0.5;
        let (floor, t) = (x.floor(), x - x.floor());
        let at = |offset: f64| (floor + offset).clamp(0.0, from as f64 - 1.0) as usize;
        [(at(-1.0), far(t + 1.0)), (at(0.0), near(t)), (at(1.0), near(1.0 - t)), (at(2.0), far(2.0 - t))]
    };
    (0..to).map(place).collect()
}
