//! Into the rules and into the budget: the one routine behind [`SearchSpace::repair`], `fit`, `uniform` and `random`.
//!
//! First the rules (legal sizes, tied halves, least depth). Then the budget, by the mildest means that do: halves are
//! removed or put back only where sizes alone cannot get there, all sizes are scaled by one factor, single steps fill what
//! is left, and where steps are coarser than the window the exact search of [`crate::adjust`] decides.

use taper_base::rng::{Rng, RngExt, seq::SliceRandom};

use crate::adjust::{Reach, adjust};
use crate::slots::{Size, Slots};
use crate::{ArchError, Architecture, BudgetRange, ModelSpec, SearchSpace, SubBlock};

/// Which of several equally good changes is made.
#[derive(Debug, Clone)]
pub(crate) struct Taste {
    /// All slots, the first to be changed first.
    pub(crate) order: Vec<usize>,
    /// How much each slot resists a change; around 1.
    pub(crate) weights: Vec<f64>,
}

impl Taste {
    /// Evenly spread over the blocks: each next slot is far from those before.
    pub(crate) fn spread(slots: usize) -> Self {
        const GOLDEN: f64 = 0.618_033_988_749_894_9;
        let mut order: Vec<usize> = (0..slots).collect();
        order.sort_by(|a, b| (*a as f64 * GOLDEN).fract().total_cmp(&(*b as f64 * GOLDEN).fract()));
        Self { order, weights: vec![1.0; slots] }
    }

    /// By chance.
    pub(crate) fn random(slots: usize, rng: &mut impl Rng) -> Self {
        let mut order: Vec<usize> = (0..slots).collect();
        order.shuffle(rng);
        Self { order, weights: (0..slots).map(|_| rng.random_range(0.5..1.5)).collect() }
    }
}

impl SearchSpace {
    /// A legal architecture inside `range`, near `arch`; `arch` itself if it is one. Bits stay; a half that is put back
    /// has none of its own.
    ///
    /// What has to be chosen is drawn from `rng`: which halves come back or go where depth forces it, and which of the
    /// sizes fill the budget.
    ///
    /// # Errors
    /// [`ArchError::Infeasible`] if nothing inside `range` was found, which is proof that there is nothing in spaces of a few
    /// thousand different costs; [`ArchError::Mismatch`] if `arch` has not as many blocks as `spec`;
    /// [`ArchError::Dimension`] if this space is invalid.
    pub fn repair(
        &self,
        spec: &ModelSpec,
        range: BudgetRange,
        arch: &Architecture,
        rng: &mut impl Rng,
    ) -> Result<Architecture, ArchError> {
        let slots = Slots::new(self, spec, range.counted)?;
        if arch.blocks.len() != spec.blocks.len() {
            let reason = format!("architecture has {} blocks, the model {}", arch.blocks.len(), spec.blocks.len());
            return Err(ArchError::Mismatch { place: "blocks".to_owned(), reason });
        }
        let raw = slots.sizes(arch);
        let inside = (range.least..=range.most).contains(&slots.cost(&raw));
        if inside && self.contains(spec, arch).is_ok() {
            return Ok(arch.clone());
        }
        let taste = Taste::random(slots.slots.len(), rng);
        let wanted = raw.iter().map(|size| size.map(|size| size.map(|units| units as f64))).collect();
        Ok(slots.write(&settle(&slots, wanted, range, &taste)?, arch))
    }
}

/// `wanted` units of each slot, `None` removed, as legal sizes inside `range`.
pub(crate) fn settle(
    slots: &Slots,
    mut wanted: Vec<Option<[f64; 2]>>,
    range: BudgetRange,
    taste: &Taste,
) -> Result<Vec<Size>, ArchError> {
    let (smallest, largest) = (slots.cost(&slots.smallest()), slots.cost(&slots.largest()));
    let refuse = || range.infeasible(smallest, largest);
    let reachable = range.least <= largest && range.most >= smallest && slots.divides_into(range.least, range.most);
    if range.least > range.most || !reachable {
        return Err(refuse());
    }
    let mut depth = wanted.iter().map(|size| size.is_some()).collect();
    obey(slots, &mut depth, taste);
    reach(slots, &mut depth, range, taste);
    for ((slot, size), kept) in slots.slots.iter().zip(&mut wanted).zip(depth) {
        *size = kept.then(|| size.unwrap_or(slot.full().map(|full| full as f64)));
    }
    let mut sizes = scale(slots, &wanted, range);
    fill(slots, &mut sizes, range, taste);
    if (range.least..=range.most).contains(&slots.cost(&sizes)) {
        return Ok(sizes);
    }
    let found = [Reach::Near, Reach::All].into_iter().find_map(|reach| adjust(slots, &sizes, range, taste, reach));
    found.ok_or_else(refuse)
}

/// Depth alone as sizes, so that [`Slots`] can judge it.
fn as_sizes(slots: &Slots, depth: &[bool], size: fn(&crate::slots::Slot) -> [usize; 2]) -> Vec<Size> {
    slots.slots.iter().zip(depth).map(|(slot, kept)| kept.then(|| size(slot))).collect()
}

/// Puts back what may not go and what least depth wants, and makes tied halves alike.
fn obey(slots: &Slots, depth: &mut Vec<bool>, taste: &Taste) {
    for (index, slot) in slots.slots.iter().enumerate() {
        depth[index] |= !slot.droppable;
        if let Some(other) = slots.partner(index).filter(|other| *other > index) {
            let (first, second) = (depth[index], depth[other] || !slots.slots[other].droppable);
            let kept = if first == second { first } else { taste.weights[index] > 1.0 };
            (depth[index], depth[other]) = (kept, kept);
        }
    }
    let mut sizes = as_sizes(slots, depth, |slot| slot.full());
    for half in SubBlock::BOTH {
        for index in &taste.order {
            if slots.slots[*index].half == half && slots.kept(&sizes)[half as usize] < slots.least[half as usize] {
                slots.restore(&mut sizes, *index);
            }
        }
    }
    *depth = sizes.iter().map(Option::is_some).collect();
}

/// Removes halves until least sizes can get below `range`, then puts halves back until full sizes can get above.
fn reach(slots: &Slots, depth: &mut Vec<bool>, range: BudgetRange, taste: &Taste) {
    let mut sizes = as_sizes(slots, depth, |slot| slot.least());
    for index in &taste.order {
        if slots.cost(&sizes) > range.most {
            slots.try_drop(&mut sizes, *index);
        }
    }
    if slots.cost(&sizes) > range.most {
        sizes = slots.smallest();
    }
    let mut sizes: Vec<Size> = slots.slots.iter().zip(&sizes).map(|(slot, size)| size.map(|_| slot.full())).collect();
    for index in &taste.order {
        if slots.cost(&sizes) < range.least {
            slots.restore(&mut sizes, *index);
        }
    }
    *depth = sizes.iter().map(Option::is_some).collect();
}

/// `wanted` as legal sizes if that is inside `range`; otherwise times the largest common factor that stays under it.
fn scale(slots: &Slots, wanted: &[Option<[f64; 2]>], range: BudgetRange) -> Vec<Size> {
    const OCTAVES: f64 = 40.0;
    let at = |octave: f64| -> Vec<Size> {
        let pairs = slots.slots.iter().zip(wanted);
        pairs.map(|(slot, size)| size.map(|size| slot.scaled(size, octave.exp2()))).collect()
    };
    let plain = at(0.0);
    if (range.least..=range.most).contains(&slots.cost(&plain)) {
        return plain;
    }
    at(bisect(-OCTAVES, OCTAVES, |octave| slots.cost(&at(octave)) <= range.most))
}

/// The largest argument, up to rounding, for which `fits` holds; `low` if none does.
pub(crate) fn bisect(mut low: f64, mut high: f64, fits: impl Fn(f64) -> bool) -> f64 {
    const HALVINGS: usize = 50;
    if fits(high) {
        return high;
    }
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(low, high);
        *(if fits(middle) { &mut low } else { &mut high }) = middle;
    }
    low
}

/// Single steps up, in order and round by round, until `sizes` cost `range.least` or no step fits under `range.most`.
pub(crate) fn fill(slots: &Slots, sizes: &mut [Size], range: BudgetRange, taste: &Taste) {
    let mut total = slots.cost(sizes);
    let mut moved = true;
    while moved {
        moved = false;
        for &index in &taste.order {
            let (slot, Some(size)) = (&slots.slots[index], sizes[index]) else { continue };
            if total >= range.least {
                return;
            }
            let without = total - slot.cost(sizes[index]);
            let step = slot.steps_up(size).find(|step| without + slot.cost(Some(*step)) <= range.most);
            if let Some(step) = step {
                (sizes[index], total, moved) = (Some(step), without + slot.cost(Some(step)), true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Counted;
    use crate::spec::example;
    use taper_base::rng::stream;

    #[test]
    fn spread_visits_every_slot_once_and_jumps() {
        let order = Taste::spread(8).order;
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2, 3, 4, 5, 6, 7]);
        assert!(order.windows(2).all(|pair| pair[0].abs_diff(pair[1]) > 1), "{order:?}");
    }

    #[test]
    fn bisection_ends_at_the_edge_or_at_an_end() {
        assert!((bisect(0.0, 1.0, |x| x <= 0.3) - 0.3).abs() < 1e-12);
        assert_eq!((bisect(0.0, 1.0, |_| true), bisect(0.0, 1.0, |_| false)), (1.0, 0.0));
    }

    #[test]
    fn filling_stops_at_least_and_never_steps_over_most() {
        let slots = Slots::new(&SearchSpace::default(), &example(), Counted::NonEmbedding).unwrap();
        let taste = Taste::spread(slots.slots.len());
        let from: Vec<Size> = slots.slots.iter().map(|slot| Some(slot.least())).collect();
        let cost = slots.cost(&from);
        let filled = |least: u64, most: u64| {
            let mut sizes = from.clone();
            fill(&slots, &mut sizes, BudgetRange { counted: Counted::NonEmbedding, least, most }, &taste);
            slots.cost(&sizes) - cost
        };
        // a head more in both groups is 2 · 2·32·8 = 1024 weights, 32 channels more are 3·32·32 = 3072
        assert_eq!(
            [filled(cost, u64::MAX), filled(cost + 1024, cost + 1024), filled(cost + 9999, cost + 1023)],
            [0, 1024, 0]
        );
        assert_eq!(filled(cost + 3050, cost + 3071), 2048, "a third head would be one weight too many")
    }

    #[test]
    fn least_depth_and_what_may_not_go_come_back() {
        let spec = example();
        let space = SearchSpace { drop_mlp: false, ..SearchSpace::default() };
        let range = BudgetRange { counted: Counted::Total, least: 0, most: 1 << 40 };
        let repaired =
            space.repair(&spec, range, &"-/- -/- -/33".parse().unwrap(), &mut stream(0, "test", 0, 0)).unwrap();
        space.contains(&spec, &repaired).unwrap();
        assert_eq!(repaired.blocks.iter().filter(|block| block.attention.is_some()).count(), 2);
        assert_eq!(repaired.blocks[2].mlp.as_ref().unwrap().channels, 32); // nearest to 33
    }

    #[test]
    fn bits_stay_with_what_they_belong_to() {
        let (spec, space) = (example(), SearchSpace::default());
        let range = BudgetRange { counted: Counted::Total, least: 0, most: 1 << 40 };
        let arch: Architecture = "1x2@4/33@8 2x2/64 2x2/64 e@8".parse().unwrap();
        let repaired = space.repair(&spec, range, &arch, &mut stream(0, "test", 0, 0)).unwrap();
        assert_eq!(repaired.to_string(), "1x2@4/32@8 2x2/64 2x2/64 e@8");
    }

    #[test]
    fn what_cannot_be_reached_is_an_error_with_the_ends() {
        let (spec, space) = (example(), SearchSpace::default());
        let refusal = |least, most| {
            let range = BudgetRange { counted: Counted::NonEmbedding, least, most };
            space
                .repair(&spec, range, &Architecture::whole(&spec), &mut stream(0, "test", 0, 0))
                .unwrap_err()
                .to_string()
        };
        // least: two attentions of 2 heads (2·32·16 + 2·32·16 + 32), two MLPs of 32 channels (3·32·32 + 32), the norm
        let ends =
            format!("it reaches from {} to {}", 2 * (2048 + 32) + 2 * (3072 + 32) + 32, 3 * (3072 + 6144 + 64) + 32);
        for (least, most) in [(1, 100), (1 << 30, 1 << 31), (9, 8)] {
            assert!(refusal(least, most).ends_with(&ends), "{}", refusal(least, most));
        }
        assert!(refusal(10_401, 10_410).ends_with(&ends), "between two neighbouring costs");
        let blocks = "2x2/64".parse().unwrap();
        let range = BudgetRange { counted: Counted::Total, least: 0, most: 1 };
        assert!(space.repair(&spec, range, &blocks, &mut stream(0, "test", 0, 0)).is_err());
    }
}
