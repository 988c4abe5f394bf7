//! Where single steps are coarser than the budget's window: which sizes add up into it, nearest to those wanted.
//!
//! Dynamic programming over the slots. A state is what the slots so far cost and how many halves they removed; of equal
//! states the one nearest to what was wanted stays (weighted sum of differences in kept ratio). Exact while states fit
//! [`Reach::most_states`]; beyond, costs share bins. All costs are exact in any case, so what is found is inside.

use crate::repair::Taste;
use crate::slots::{Size, Slot, Slots};
use crate::{BudgetRange, SubBlock};

/// How far from the wanted sizes is looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Two steps along each axis; depth stays.
    Near,
    /// All sizes, or so many of them evenly spread; depth stays.
    Sizes,
    /// As `Sizes`, and every legal depth.
    All,
}

impl Reach {
    /// States kept after each slot.
    fn most_states(self) -> usize {
        if self == Self::Near { 1 << 11 } else { 1 << 14 }
    }

    /// Sizes tried of each slot, beside those near.
    const MOST_SIZES: usize = 24;
    /// Steps along an axis that still are near.
    const STEPS: usize = 2;
}

/// A choice for a slot or for two tied ones.
struct Choice {
    sizes: [Size; 2],
    cost: u64,
    distance: f64,
    removed: [usize; 2],
}

#[derive(Clone, Copy)]
struct State {
    cost: u64,
    removed: [usize; 2],
    distance: f64,
    parent: usize,
    choice: usize,
}

/// Legal sizes inside `range`, nearest to `wanted`, whose depth is legal; `None` if none were found.
pub(crate) fn adjust(
    slots: &Slots,
    wanted: &[Size],
    range: BudgetRange,
    taste: &Taste,
    reach: Reach,
) -> Option<Vec<Size>> {
    let lead = |index: &usize| slots.partner(*index).is_none_or(|other| other > *index);
    let units: Vec<Vec<usize>> =
        (0..wanted.len()).filter(lead).map(|index| slots.with_partner(index).collect()).collect();
    let choices: Vec<Vec<Choice>> = units.iter().map(|unit| choices(slots, unit, wanted, taste, reach)).collect();
    let spare = SubBlock::BOTH
        .map(|half| slots.slots.iter().filter(|slot| slot.half == half).count() - slots.least[half as usize]);
    let (least_rest, most_rest) = (rest(&choices, u64::min), rest(&choices, u64::max));

    let start = State { cost: slots.base, removed: [0; 2], distance: 0.0, parent: 0, choice: 0 };
    let mut layers = vec![vec![start]];
    for (at, choices) in choices.iter().enumerate() {
        let mut next = Vec::new();
        for (parent, state) in layers[at].iter().enumerate() {
            let states = choices.iter().enumerate().map(|(choice, c)| State {
                cost: state.cost + c.cost,
                removed: [0, 1].map(|half| state.removed[half] + c.removed[half]),
                distance: state.distance + c.distance,
                parent,
                choice,
            });
            next.extend(states.filter(|s| {
                (0..2).all(|half| s.removed[half] <= spare[half])
                    && s.cost + least_rest[at + 1] <= range.most
                    && s.cost + most_rest[at + 1] >= range.least
            }));
        }
        layers.push(thin(next, reach.most_states()));
    }
    let last = layers.last()?;
    let nearest = (0..last.len()).min_by(|a, b| last[*a].distance.total_cmp(&last[*b].distance))?;
    Some(trace(&layers, nearest, &units, &choices))
}

/// What all choices from unit `i` on cost at `pick`: entry `i` of `units + 1`.
fn rest(choices: &[Vec<Choice>], pick: fn(u64, u64) -> u64) -> Vec<u64> {
    let mut sums = vec![0; choices.len() + 1];
    for (at, choices) in choices.iter().enumerate().rev() {
        sums[at] = sums[at + 1] + choices.iter().map(|c| c.cost).reduce(pick).unwrap_or(0);
    }
    sums
}

/// Of equal states the nearest; if there are more than `most`, of each of `most` bins of cost the nearest.
fn thin(mut states: Vec<State>, most: usize) -> Vec<State> {
    let order =
        |a: &State, b: &State| (a.cost, a.removed).cmp(&(b.cost, b.removed)).then(a.distance.total_cmp(&b.distance));
    states.sort_by(order);
    states.dedup_by_key(|state| (state.cost, state.removed));
    let (Some(first), Some(last)) = (states.first().copied(), states.last().copied()) else { return states };
    if states.len() > most {
        let width = (last.cost - first.cost) / most as u64 + 1;
        let bin = |state: &State| (state.cost - first.cost) / width;
        states.sort_by(|a, b| bin(a).cmp(&bin(b)).then(a.distance.total_cmp(&b.distance)));
        states.dedup_by_key(|state| bin(state));
    }
    states
}

/// The sizes that led to state `at` of the last layer.
fn trace(layers: &[Vec<State>], mut at: usize, units: &[Vec<usize>], choices: &[Vec<Choice>]) -> Vec<Size> {
    let mut sizes = vec![None; units.iter().map(Vec::len).sum()];
    for step in (0..units.len()).rev() {
        let state = layers[step + 1][at];
        for (index, size) in units[step].iter().zip(choices[step][state.choice].sizes) {
            sizes[*index] = size;
        }
        at = state.parent;
    }
    sizes
}

/// All that `unit` may become.
fn choices(slots: &Slots, unit: &[usize], wanted: &[Size], taste: &Taste, reach: Reach) -> Vec<Choice> {
    let own = |index: &usize| options(&slots.slots[*index], wanted[*index], reach);
    let options: Vec<Vec<Size>> = unit.iter().map(own).collect();
    let second = options.get(1).map_or(&[None][..], Vec::as_slice);
    let pairs = options[0].iter().flat_map(|a| second.iter().map(move |b| [*a, *b]));
    let alike = pairs.filter(|[a, b]| unit.len() == 1 || a.is_some() == b.is_some());
    let choice = |sizes: [Size; 2]| {
        let mut choice = Choice { sizes, cost: 0, distance: 0.0, removed: [0; 2] };
        for (index, size) in unit.iter().zip(sizes) {
            let slot = &slots.slots[*index];
            choice.cost += slot.cost(size);
            choice.removed[slot.half as usize] += usize::from(size.is_none());
            choice.distance += taste.weights[*index] * distance(slot, size, wanted[*index]);
        }
        choice
    };
    alike.map(choice).collect()
}

/// Difference in kept ratio; another depth counts as much as a whole half, whatever its size.
fn distance(slot: &Slot, size: Size, wanted: Size) -> f64 {
    match (size, wanted) {
        (Some(size), Some(wanted)) => (slot.ratio(size) - slot.ratio(wanted)).abs(),
        (Some(size), None) => 1.0 + (1.0 - slot.ratio(size)), // put back: the larger the likelier as it was
        (None, Some(_)) => 1.0,
        (None, None) => 0.0,
    }
}

/// The sizes of one slot to try.
fn options(slot: &Slot, wanted: Size, reach: Reach) -> Vec<Size> {
    let near = |[a, b]: [usize; 2], [x, y]: [usize; 2]| {
        let [first, second] = slot.spans;
        a.abs_diff(x) <= Reach::STEPS * first.step && b.abs_diff(y) <= Reach::STEPS * second.step
    };
    let close = |size: [usize; 2]| wanted.is_some_and(|wanted| near(size, wanted));
    if reach == Reach::Near {
        let sizes = slot.all().filter(|size| close(*size)).map(Some);
        return if wanted.is_some() { sizes.collect() } else { vec![None] };
    }
    let every = slot.all().count().div_ceil(Reach::MOST_SIZES);
    let spread = slot.all().enumerate().filter(|(at, size)| at % every == 0 || *size == slot.full() || close(*size));
    let sizes = spread.map(|(_, size)| Some(size));
    match reach {
        Reach::All => sizes.chain(slot.droppable.then_some(None)).collect(),
        _ if wanted.is_none() => vec![None],
        _ => sizes.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Counted;
    use crate::spec::example;
    use crate::{Architecture, SearchSpace};

    /// Every legal cost of the example, by counting all of it.
    fn costs(slots: &Slots) -> std::collections::BTreeSet<u64> {
        let mut all = vec![Vec::new()];
        for slot in &slots.slots {
            let sizes: Vec<Size> = slot.all().map(Some).chain([None]).collect();
            all = all.iter().flat_map(|head: &Vec<Size>| sizes.iter().map(|s| [&head[..], &[*s]].concat())).collect();
        }
        let deep = |sizes: &Vec<Size>| (0..2).all(|half| slots.kept(sizes)[half] >= slots.least[half]);
        all.into_iter().filter(deep).map(|sizes| slots.cost(&sizes)).collect()
    }

    #[test]
    fn finds_every_cost_that_exists_and_none_that_does_not() {
        let space = SearchSpace { groups: Some(true), channels_multiple: 16, ..SearchSpace::default() };
        let slots = Slots::new(&space, &example(), Counted::Total).unwrap();
        let costs = costs(&slots);
        let taste = Taste::spread(slots.slots.len());
        let at = |exact| {
            let range = BudgetRange { counted: Counted::Total, least: exact, most: exact };
            adjust(&slots, &slots.largest(), range, &taste, Reach::All)
        };
        for cost in &costs {
            let sizes = at(*cost).unwrap();
            assert_eq!(slots.cost(&sizes), *cost);
            space.contains(&example(), &slots.write(&sizes, &Architecture::whole(&example()))).unwrap();
        }
        assert!(costs.iter().all(|cost| costs.contains(&(cost + 1)) || at(cost + 1).is_none()));
        assert!(costs.len() > 50, "{}", costs.len());
    }

    #[test]
    fn the_nearest_is_taken_and_near_keeps_depth() {
        let space = SearchSpace { channels_multiple: 1, ..SearchSpace::default() };
        let slots = Slots::new(&space, &example(), Counted::Total).unwrap();
        let mut wanted = slots.largest();
        wanted[1] = None;
        let target = slots.cost(&wanted) - 96; // one channel less
        let range = BudgetRange { counted: Counted::Total, least: target, most: target };
        let taste = Taste { weights: vec![1.0, 1.0, 1.0, 1.0, 1.0, 0.5], ..Taste::spread(6) };
        for reach in [Reach::Near, Reach::Sizes, Reach::All] {
            let found = adjust(&slots, &wanted, range, &taste, reach).unwrap();
            assert_eq!((found[1], found[5]), (None, Some([63, 1])), "{reach:?}"); // the slot that resists least
        }
    }

    #[test]
    fn bins_bound_the_states_and_keep_the_nearest() {
        let state = |cost, distance| State { cost, removed: [0; 2], distance, parent: 0, choice: 0 };
        let states = (0..100).map(|cost| state(cost, (cost % 10) as f64)).chain([state(5, 0.5)]).collect();
        let thinned = thin(states, 10);
        assert!(thinned.len() <= 10, "{}", thinned.len());
        assert!(thinned.iter().all(|s| s.distance == 0.0));
    }
}
