//! Random projections of gradients.
//!
//! A weight gradient, units as rows, is `G = unitsᵀ · other`; its sketch is `G · A = unitsᵀ · (other · A)`, `A`
//! `[d_model, r]` of random signs over `√r`, so that inner products of sketches estimate those of gradients
//! (Johnson-Lindenstrauss) at `r / d_model` of the work. For q, k, v, gate and up this is the gradient of LoRA's `B` at
//! `B = 0` up to a constant: `∇B = (α/r) · ∇W · Aᵀ`. Deviation: o and down are projected on their `d_model` side
//! too, LoRA projects their units; so every row of a sketch belongs to one unit, and removed units can be told apart.
//!
//! Each input of a product has its own `A` (q, k and v share one, gate and up too), fixed by the seed.

use std::collections::BTreeMap;

use taper_base::rng::{Rng, stream};
use taper_kernels::{KernelError, Result, Tensor, from_units, unit_gradient};
use taper_model::{Model, Parameter, Place};

/// The projections of one model.
#[derive(Debug)]
pub(crate) struct Sketch {
    signs: Vec<Tensor>, // [4 * blocks] of [d_model, rank]
}

impl Sketch {
    /// Of `model`, and where it lies.
    pub(crate) fn of(model: &Model, seed: u64, rank: usize) -> Result<Self> {
        let spec = model.spec();
        let mut sketch = Self::new(seed, spec.blocks.len(), spec.d_model, rank)?;
        sketch.signs.iter_mut().try_for_each(|signs| model.beside(signs).map(|there| *signs = there))?;
        Ok(sketch)
    }

    fn new(seed: u64, blocks: usize, d_model: usize, rank: usize) -> Result<Self> {
        let scale = 1.0 / (rank as f32).sqrt();
        let sign = |index: usize| {
            let mut rng = stream(seed, "sketch", index as u64, 0);
            let words = (0..(d_model * rank).div_ceil(64)).map(|_| rng.next_u64());
            let signs =
                words.flat_map(|word| (0..64).map(move |bit| if word >> bit & 1 == 0 { scale } else { -scale }));
            let values: Vec<f32> = signs.take(d_model * rank).collect();
            candle_core::Tensor::from_vec(values, (d_model, rank), &candle_core::Device::Cpu).map(Tensor::from)
        };
        let signs = (0..4 * blocks).map(sign).collect::<candle_core::Result<_>>();
        Ok(Self { signs: signs.map_err(|cause| KernelError::Tensor { op: "sketch", cause })? })
    }

    fn index(place: Place) -> usize {
        let input = match place.parameter {
            Parameter::O => 1,
            Parameter::Gate | Parameter::Up => 2,
            Parameter::Down => 3,
            _ => 0,
        };
        4 * place.block.unwrap_or(0) + input
    }
}

/// `other · A` of one backward pass, kept while the next matrix has the same input. (Of the last attention's normed input the
/// queries' projection may see fewer rows.)
#[derive(Debug, Default)]
pub(crate) struct Projected {
    last: BTreeMap<[usize; 2], Tensor>, // by signs and rows, at most one entry
}

impl Projected {
    /// The sketch of `unitsᵀ · other`: `[units, rank]`.
    pub(crate) fn form(&mut self, sketch: &Sketch, place: Place, units: &Tensor, other: &Tensor) -> Result<Tensor> {
        let key = [Sketch::index(place), other.dims()[0]];
        if !self.last.contains_key(&key) {
            self.last.clear();
            self.last.insert(key, from_units(None, &[(other, &sketch.signs[key[0]])], None)?); // [tokens, rank]
        }
        unit_gradient(units, &self.last[&key])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor as Host};
    use taper_kernels::{Pending, moments};

    #[test]
    fn inner_products_of_sketches_estimate_those_of_gradients() {
        let (tokens, units, d) = (30, 40, 96);
        let matrix = |seed: u64, columns: usize| {
            let mut rng = stream(seed, "test", 0, 0);
            let values: Vec<f32> = (0..tokens * columns).map(|_| taper_base::rng::normal(&mut rng) as f32).collect();
            Host::from_vec(values, (tokens, columns), &Device::Cpu).unwrap()
        };
        let (delta, x, noise) = (matrix(0, units), matrix(1, d), matrix(2, units));
        let other_delta: Tensor = ((&delta * 0.7).unwrap() + (noise * 0.7).unwrap()).unwrap().into();
        let (delta, x) = (Tensor::from(delta), Tensor::from(x));
        let sketch = Sketch::new(3, 2, d, 48).unwrap();
        let place = Place::of(1, Parameter::Q);
        let sketched = |delta: &Tensor| Projected::default().form(&sketch, place, delta, &x).unwrap();
        let moments =
            |a: &Tensor, b: &Tensor| moments(a, b, &(0..units).collect::<Vec<_>>()).and_then(Pending::wait).unwrap();
        let dense = moments(&unit_gradient(&delta, &x).unwrap(), &unit_gradient(&other_delta, &x).unwrap());
        let estimate = moments(&sketched(&delta), &sketched(&other_delta));
        assert!((dense.pearson() - estimate.pearson()).abs() < 0.05, "{} {}", dense.pearson(), estimate.pearson());
        assert!((estimate.xy / dense.xy - 1.0).abs() < 0.1, "{} {}", estimate.xy, dense.xy);
    }

    #[test]
    fn the_next_block_has_other_signs() {
        let sketch = Sketch::new(0, 2, 16, 4).unwrap();
        let signs = |index: usize| sketch.signs[index].to_vec().unwrap();
        assert!(signs(0).iter().all(|sign| sign.abs() == 0.5));
        assert!(signs(0) != signs(1) && signs(0) != signs(4));
        let of = |block, parameter| Sketch::index(Place::of(block, parameter));
        assert_eq!((of(0, Parameter::Q), of(0, Parameter::V), of(1, Parameter::K)), (0, 0, 4));
        assert_eq!(
            (of(1, Parameter::O), of(1, Parameter::Gate), of(1, Parameter::Up), of(1, Parameter::Down)),
            (5, 6, 6, 7)
        );
    }
}
