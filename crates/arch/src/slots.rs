//! A search space laid out over one model: every sub-block a slot with its legal sizes and its exact cost.
//!
//! A change of one slot changes the sum by a difference of two prices; nothing is recounted. Weights are affine in the
//! sizes, and read off [`attention_cost`] and [`mlp_cost`], which stay the only formulas; times come from the spec's table.

use std::iter::once;

use crate::budget::Counted;
use crate::cost::{attention_cost, cost, mlp_cost};
use crate::price::{Price, gcd};
use crate::space::least_of;
use crate::{
    ArchError, Architecture, AttentionGenes, AttentionSpec, BlockGenes, BlockSpec, MlpGenes, MlpSpec, ModelSpec,
    SearchSpace, SubBlock, Workload,
};

/// What a slot keeps: `[query heads per group, groups]` or `[channels, 1]`; `None` is removed.
pub(crate) type Size = Option<[usize; 2]>;

/// Legal numbers along one axis: `least, least + step, …` and `full`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) least: usize,
    pub(crate) full: usize,
    pub(crate) step: usize,
}

impl Span {
    /// Multiples of `step` from `ratio · full`, and `full`.
    pub(crate) fn new(full: usize, ratio: f64, step: usize) -> Self {
        let step = step.max(1);
        Self { least: least_of(full, ratio).next_multiple_of(step).min(full), full, step }
    }

    /// No choice.
    pub(crate) fn fixed(full: usize) -> Self {
        Self { least: full, full, step: 1 }
    }

    /// Ascending.
    pub(crate) fn sizes(self) -> impl DoubleEndedIterator<Item = usize> {
        (self.least..self.full).step_by(self.step).chain(once(self.full))
    }

    pub(crate) fn count(self) -> usize {
        (self.full - self.least).div_ceil(self.step) + 1
    }

    pub(crate) fn holds(self, size: usize) -> bool {
        size == self.full || (self.least..self.full).contains(&size) && (size - self.least).is_multiple_of(self.step)
    }

    /// The next larger legal number.
    pub(crate) fn up(self, size: usize) -> Option<usize> {
        (size < self.full).then(|| (size + self.step).min(self.full))
    }

    /// The largest legal number up to `wanted`, or the least.
    pub(crate) fn below(self, wanted: f64) -> usize {
        let floor = (wanted + 1e-9) as usize; // a ratio times its own divisor may miss the whole number by rounding
        match floor {
            _ if floor >= self.full => self.full,
            _ if floor < self.least => self.least,
            _ => floor - (floor - self.least) % self.step,
        }
    }

    /// The legal number nearest to `wanted`, the smaller of two.
    pub(crate) fn nearest(self, wanted: f64) -> usize {
        let low = self.below(wanted);
        self.up(low).filter(|high| *high as f64 - wanted < wanted - low as f64).unwrap_or(low)
    }
}

/// One sub-block of the model.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    pub(crate) block: usize,
    pub(crate) half: SubBlock,
    pub(crate) droppable: bool,
    pub(crate) spans: [Span; 2],
    price: Price,
}

impl Slot {
    pub(crate) fn cost(&self, size: Size) -> u64 {
        size.map_or(0, |size| self.price.of(size))
    }

    pub(crate) fn least(&self) -> [usize; 2] {
        self.spans.map(|span| span.least)
    }

    pub(crate) fn full(&self) -> [usize; 2] {
        self.spans.map(|span| span.full)
    }

    pub(crate) fn nearest(&self, wanted: [f64; 2]) -> [usize; 2] {
        [0, 1].map(|axis| self.spans[axis].nearest(wanted[axis]))
    }

    /// Kept ratio of units.
    pub(crate) fn ratio(&self, [a, b]: [usize; 2]) -> f64 {
        let [full_a, full_b] = self.full();
        (a * b) as f64 / (full_a * full_b) as f64
    }

    /// Units along each axis that make up `ratio` of the whole, not yet whole numbers; where both axes are free they share it.
    pub(crate) fn units(&self, ratio: f64) -> [f64; 2] {
        let both = self.spans.iter().all(|span| span.count() > 1);
        let ratio = if both { ratio.sqrt() } else { ratio };
        self.full().map(|full| full as f64 * ratio)
    }

    /// `size` times `scale`; where both axes are free they share it.
    pub(crate) fn scaled(&self, [a, b]: [f64; 2], scale: f64) -> [usize; 2] {
        let both = self.spans.iter().all(|span| span.count() > 1);
        let scale = if both { scale.sqrt() } else { scale };
        self.nearest([a * scale, b * scale])
    }

    /// All legal sizes, ascending along each axis.
    pub(crate) fn all(&self) -> impl Iterator<Item = [usize; 2]> {
        let [a, b] = self.spans;
        b.sizes().flat_map(move |b| a.sizes().map(move |a| [a, b]))
    }

    /// The largest size that keeps at most `ratio` of the units, or the least; of equals the one with more groups.
    pub(crate) fn at_most(&self, ratio: f64) -> [usize; 2] {
        let [a, b] = self.spans;
        match (a.count(), b.count()) {
            (_, 1) => [a.below(ratio * a.full as f64), b.full],
            (1, _) => [a.full, b.below(ratio * b.full as f64)],
            _ => {
                let fitting = self.all().filter(|size| self.ratio(*size) <= ratio + 1e-9);
                fitting.max_by_key(|[a, b]| (a * b, *b)).unwrap_or_else(|| self.least())
            }
        }
    }

    /// One step up along each axis that has one.
    pub(crate) fn steps_up(&self, [a, b]: [usize; 2]) -> impl Iterator<Item = [usize; 2]> {
        let more = [self.spans[0].up(a).map(|a| [a, b]), self.spans[1].up(b).map(|b| [a, b])];
        more.into_iter().flatten()
    }
}

/// All sub-blocks of a model in order, attention before MLP.
#[derive(Debug, Clone)]
pub(crate) struct Slots {
    /// The cost outside of all sub-blocks.
    pub(crate) base: u64,
    pub(crate) slots: Vec<Slot>,
    /// Attentions and MLPs that must stay.
    pub(crate) least: [usize; 2],
    tied: bool,
}

impl Slots {
    pub(crate) fn new(space: &SearchSpace, spec: &ModelSpec, counted: Counted) -> Result<Self, ArchError> {
        space.validate()?;
        let bare = Architecture { blocks: vec![BlockGenes::default(); spec.blocks.len()], ..Architecture::whole(spec) };
        let base = counted.of(&cost(spec, &bare, Workload::default())?);
        let mut slots = Vec::with_capacity(2 * spec.blocks.len());
        let mut probe = ModelSpec { blocks: vec![BlockSpec { attention: None, mlp: None }], ..spec.clone() };
        let times = counted.times(spec)?;
        for (block, &BlockSpec { attention, mlp }) in spec.blocks.iter().enumerate() {
            if let Some(whole) = attention {
                let weights = |heads, groups| {
                    let cut = AttentionSpec { n_heads: heads * groups, n_kv_heads: groups, ..whole };
                    probe.blocks[0].attention = Some(cut);
                    let cost = attention_cost(&probe, 0);
                    cost.matrix + cost.vector
                };
                let price = match times {
                    Some(times) => Price::Time(times.attention(whole)?),
                    None => Price::weights(weights),
                };
                let spans = space.attention_spans(whole);
                let droppable = space.may_drop_attention(block);
                slots.push(Slot { block, half: SubBlock::Attention, droppable, spans, price });
            }
            if let Some(whole) = mlp {
                let weights = |channels, _| {
                    probe.blocks[0].mlp = Some(MlpSpec { d_ff: channels });
                    let cost = mlp_cost(&probe, 0);
                    cost.matrix + cost.vector
                };
                let price = match times {
                    Some(times) => Price::Time(times.mlp(whole)?),
                    None => Price::weights(weights),
                };
                let spans = [space.channel_span(whole.d_ff), Span::fixed(1)];
                slots.push(Slot { block, half: SubBlock::Mlp, droppable: space.drop_mlp, spans, price });
            }
        }
        let least = SubBlock::BOTH.map(|half| space.least_kept(spec, half));
        Ok(Self { base, slots, least, tied: space.tied_depth })
    }

    pub(crate) fn cost(&self, sizes: &[Size]) -> u64 {
        self.base + self.slots.iter().zip(sizes).map(|(slot, size)| slot.cost(*size)).sum::<u64>()
    }

    /// Whether any multiple of the costs' common divisor beside `base` lies in `least..=most`. If not, no sizes do.
    pub(crate) fn divides_into(&self, least: u64, most: u64) -> bool {
        let divisor = self.slots.iter().map(|slot| slot.price.divisor()).fold(0, gcd).max(1);
        let over = |bound: u64| bound.saturating_sub(self.base);
        most >= self.base && over(most) / divisor * divisor >= over(least)
    }

    /// The slot that lives and dies with slot `index`.
    pub(crate) fn partner(&self, index: usize) -> Option<usize> {
        let same = |other: &usize| self.slots.get(*other).is_some_and(|s| s.block == self.slots[index].block);
        if !self.tied {
            return None;
        }
        [index + 1, index.wrapping_sub(1)].into_iter().find(same)
    }

    /// Attentions and MLPs kept.
    pub(crate) fn kept(&self, sizes: &[Size]) -> [usize; 2] {
        let mut kept = [0; 2];
        for (slot, size) in self.slots.iter().zip(sizes) {
            kept[slot.half as usize] += usize::from(size.is_some());
        }
        kept
    }

    /// Slot `index` and its partner.
    pub(crate) fn with_partner(&self, index: usize) -> impl Iterator<Item = usize> {
        once(index).chain(self.partner(index))
    }

    /// Removes slot `index` and its partner if the rules of depth allow it.
    pub(crate) fn try_drop(&self, sizes: &mut [Size], index: usize) -> bool {
        let kept = self.kept(sizes);
        let free = |at: usize| {
            let (slot, half) = (&self.slots[at], self.slots[at].half as usize);
            sizes[at].is_some() && slot.droppable && kept[half] > self.least[half]
        };
        let allowed = self.with_partner(index).all(free);
        if allowed {
            self.with_partner(index).for_each(|at| sizes[at] = None);
        }
        allowed
    }

    /// Puts back slot `index` and its partner at full size where they are removed.
    pub(crate) fn restore(&self, sizes: &mut [Size], index: usize) {
        for at in self.with_partner(index) {
            sizes[at] = sizes[at].or(Some(self.slots[at].full()));
        }
    }

    /// As `arch` says, legal or not. The caller has compared the numbers of blocks.
    pub(crate) fn sizes(&self, arch: &Architecture) -> Vec<Size> {
        let size = |slot: &Slot| {
            let genes = &arch.blocks[slot.block];
            match slot.half {
                SubBlock::Attention => genes.attention.as_ref().map(|a| [a.heads_per_group, a.groups]),
                SubBlock::Mlp => genes.mlp.as_ref().map(|m| [m.channels, 1]),
            }
        };
        self.slots.iter().map(size).collect()
    }

    /// `sizes` as an architecture with `template`'s bits.
    pub(crate) fn write(&self, sizes: &[Size], template: &Architecture) -> Architecture {
        let mut arch = Architecture { blocks: vec![BlockGenes::default(); template.blocks.len()], ..template.clone() };
        for (slot, size) in self.slots.iter().zip(sizes) {
            let (block, old) = (&mut arch.blocks[slot.block], &template.blocks[slot.block]);
            match slot.half {
                SubBlock::Attention => {
                    let (kind, bits) = old.attention.as_ref().map(|a| (a.kind, a.bits)).unwrap_or_default();
                    let genes =
                        |[heads_per_group, groups]: [usize; 2]| AttentionGenes { kind, heads_per_group, groups, bits };
                    block.attention = size.map(genes);
                }
                SubBlock::Mlp => {
                    let bits = old.mlp.as_ref().and_then(|m| m.bits);
                    block.mlp = size.map(|[channels, _]| MlpGenes { channels, bits });
                }
            }
        }
        arch
    }

    /// Everything kept.
    pub(crate) fn largest(&self) -> Vec<Size> {
        self.slots.iter().map(|slot| Some(slot.full())).collect()
    }

    /// Everything at its least size, and the costliest halves removed as far as depth allows.
    pub(crate) fn smallest(&self) -> Vec<Size> {
        let mut sizes: Vec<Size> = self.slots.iter().map(|slot| Some(slot.least())).collect();
        let cost = |index: &usize| -> u64 { self.with_partner(*index).map(|at| self.slots[at].cost(sizes[at])).sum() };
        let mut order: Vec<usize> = (0..sizes.len()).collect();
        order.sort_by_key(|index| (std::cmp::Reverse(cost(index)), *index));
        for index in order {
            self.try_drop(&mut sizes, index);
        }
        sizes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::example;

    #[test]
    fn spans_step_snap_and_count() {
        let span = Span::new(172, 0.1, 32);
        assert_eq!(span.count(), span.sizes().count());
        assert_eq!(
            [0.0, 47.9, 48.0, 48.1, 165.0, 166.5, 1e30].map(|w| span.nearest(w)),
            [32, 32, 32, 64, 160, 172, 172]
        );
        assert_eq!([f64::NAN, -4.0, 95.9, 171.9, 172.0].map(|w| span.below(w)), [32, 32, 64, 160, 172]);
        assert_eq!([span.up(32), span.up(160), span.up(172)], [Some(64), Some(172), None]);
        assert!(span.sizes().all(|size| span.holds(size)) && ![0, 31, 33, 171, 192].iter().any(|s| span.holds(*s)));
        let narrow = Span::new(16, 0.1, 32);
        assert_eq!(narrow.sizes().collect::<Vec<_>>(), [16]);
    }

    #[test]
    fn slot_costs_equal_the_cost_formula_for_every_legal_size() {
        let space = SearchSpace { groups: Some(true), channels_multiple: 1, ..SearchSpace::default() };
        let biased = ModelSpec { qkv_bias: true, o_bias: true, mlp_bias: true, qk_norm: true, ..example() };
        for spec in [example(), biased] {
            for counted in [Counted::Total, Counted::NonEmbedding] {
                let slots = Slots::new(&space, &spec, counted).unwrap();
                for (index, slot) in slots.slots.iter().enumerate() {
                    for size in slot.all().map(Some).chain([None]) {
                        let mut sizes = slots.largest();
                        sizes[index] = size;
                        let arch = slots.write(&sizes, &Architecture::whole(&spec));
                        let exact = counted.of(&cost(&spec, &arch, Workload::default()).unwrap());
                        assert_eq!(slots.cost(&sizes), exact, "{arch}");
                        assert_eq!(slots.sizes(&arch), sizes);
                    }
                }
            }
        }
    }

    #[test]
    fn weights_come_in_multiples_of_the_common_divisor() {
        let slots = Slots::new(&SearchSpace::default(), &example(), Counted::NonEmbedding).unwrap();
        let base = slots.base; // all else is a multiple of d_model, 32
        assert_eq!([0, 31, 32].map(|over| slots.divides_into(base + 1, base + over)), [false, false, true]);
        assert!(slots.divides_into(0, base) && !slots.divides_into(0, base - 1));
    }

    #[test]
    fn a_ratio_over_two_axes_takes_the_largest_product_below_it() {
        let mut spec = example();
        spec.blocks[0].attention = Some(AttentionSpec { n_heads: 12, n_kv_heads: 4, window: None });
        let space = SearchSpace { groups: Some(true), ..SearchSpace::default() };
        let slots = Slots::new(&space, &spec, Counted::Total).unwrap();
        let slot = &slots.slots[0];
        assert_eq!([1.0, 0.7, 0.5, 0.01].map(|r| slot.at_most(r)), [[3, 4], [2, 4], [2, 3], [1, 1]]);
        assert_eq!(slot.scaled([3.0, 4.0], 0.5), [2, 3]); // 3·√.5 = 2.1, 4·√.5 = 2.8
    }
}
