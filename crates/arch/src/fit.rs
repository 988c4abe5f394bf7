//! Architectures inside a budget from scratch: the same ratio everywhere, wanted ratios, or by chance.

use taper_base::rng::{Rng, RngExt, seq::SliceRandom};

use crate::adjust::{Reach, adjust};
use crate::repair::{Taste, bisect, fill, settle};
use crate::slots::{Size, Slots};
use crate::{ArchError, Architecture, BudgetRange, ModelSpec, SearchSpace, SubBlock};

impl SearchSpace {
    /// All blocks, each half at the same kept ratio: the largest that stays under `range`, and single steps, evenly spread
    /// over the blocks, where that ends below it.
    ///
    /// # Errors
    /// [`ArchError::Infeasible`] with what is reached with all blocks, if that misses `range` (spaces that prune depth
    /// alone have no other uniform architecture than the whole); [`ArchError::Dimension`] if this space is invalid.
    pub fn uniform(&self, spec: &ModelSpec, range: BudgetRange) -> Result<Architecture, ArchError> {
        let slots = Slots::new(self, spec, range.counted)?;
        let at = |ratio: f64| -> Vec<Size> { slots.slots.iter().map(|slot| Some(slot.at_most(ratio))).collect() };
        let refuse = || range.infeasible(slots.cost(&at(0.0)), slots.cost(&slots.largest()));
        let taste = Taste::spread(slots.slots.len());
        let mut sizes = at(bisect(0.0, 1.0, |ratio| slots.cost(&at(ratio)) <= range.most));
        fill(&slots, &mut sizes, range, &taste);
        if !(range.least..=range.most).contains(&slots.cost(&sizes)) {
            let mut reaches = [Reach::Near, Reach::Sizes].into_iter();
            sizes = reaches.find_map(|reach| adjust(&slots, &sizes, range, &taste, reach)).ok_or_else(refuse)?;
        }
        Ok(slots.write(&sizes, &Architecture::whole(spec)))
    }

    /// `wanted` kept ratios of each block's attention and MLP, all times one factor so that the result is inside `range`;
    /// `None` is removed. Ratios for halves that the model lacks are ignored; those above 1 count as 1 after scaling.
    ///
    /// Halves that may not go, or too many to go, are put back whole before scaling, evenly spread. With `tied_depth` a
    /// block goes if either of its halves is `None`.
    ///
    /// # Shapes
    /// `wanted` `[blocks][attention, mlp]`.
    ///
    /// # Errors
    /// As [`repair`](Self::repair); [`ArchError::Dimension`] for a ratio that is negative or not a number.
    pub fn fit(
        &self,
        spec: &ModelSpec,
        range: BudgetRange,
        wanted: &[[Option<f64>; 2]],
    ) -> Result<Architecture, ArchError> {
        let slots = Slots::new(self, spec, range.counted)?;
        if wanted.len() != spec.blocks.len() {
            let reason = format!("kept ratios for {} blocks, the model has {}", wanted.len(), spec.blocks.len());
            return Err(ArchError::Mismatch { place: "blocks".to_owned(), reason });
        }
        let mut units = Vec::with_capacity(slots.slots.len());
        for slot in &slots.slots {
            let ratio = wanted[slot.block][slot.half as usize];
            if let Some(got) = ratio.filter(|ratio| !(ratio.is_finite() && *ratio >= 0.0)) {
                return Err(ArchError::Dimension {
                    what: format!("kept ratio of block {}, {}", slot.block, slot.half),
                    got: got.to_string(),
                    want: "a number of 0 or more".to_owned(),
                });
            }
            units.push(ratio.map(|ratio| slot.units(ratio)));
        }
        let taste = Taste::spread(slots.slots.len());
        Ok(slots.write(&settle(&slots, units, range, &taste)?, &Architecture::whole(spec)))
    }

    /// A legal architecture inside `range` by chance.
    ///
    /// Broad rather than even: the numbers of removed attentions and MLPs are uniform over what depth allows, and sizes
    /// range from all alike to all different, before they are scaled into `range`.
    ///
    /// # Errors
    /// As [`repair`](Self::repair).
    pub fn random(&self, spec: &ModelSpec, range: BudgetRange, rng: &mut impl Rng) -> Result<Architecture, ArchError> {
        let slots = Slots::new(self, spec, range.counted)?;
        let taste = Taste::random(slots.slots.len(), rng);
        let mut kept = slots.largest();
        for half in SubBlock::BOTH {
            let mut present: Vec<usize> = (0..kept.len()).filter(|at| slots.slots[*at].half == half).collect();
            present.shuffle(rng);
            let removed = rng.random_range(0..=present.len() - slots.least[half as usize]);
            for at in present.into_iter().take(removed) {
                slots.try_drop(&mut kept, at);
            }
        }
        let variety: f64 = rng.random();
        let ratio = |rng: &mut _| 1.0 - variety * RngExt::random::<f64>(rng);
        let units = slots.slots.iter().zip(&kept).map(|(slot, size)| {
            let ratio = ratio(rng);
            size.map(|_| slot.units(ratio))
        });
        let units = units.collect();
        Ok(slots.write(&settle(&slots, units, range, &taste)?, &Architecture::whole(spec)))
    }
}
