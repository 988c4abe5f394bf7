//! Gradients against slopes: central differences of the plain forward pass in f64.

use taper_arch::{SelectedAttention, SelectedBlock};
use taper_base::rng::{RngExt, stream};
use taper_model::{Gradients, Model, Recompute, parameters};

use crate::reference::Reference;
use crate::{Tiny, flat};

/// Relative to the slope, or to a hundredth of the parameter's largest gradient where the slope is smaller than that.
const RELATIVE: f64 = 1e-3;
/// Half the distance of two losses; their f64 rounding, 1e-16, and the third derivative both stay below 1e-9.
const STEP: f64 = 1e-5;
/// Entries looked at in each parameter, the one with the largest gradient among them.
const SAMPLE: u64 = 5;

/// The largest relative difference of any parameter of `model`, which `reference` computes too.
fn worst(tiny: &Tiny, model: &Model, mut reference: Reference, about: &str) -> f64 {
    let mut sink = Gradients { tied_head: model.spec().tied_head, ..Gradients::default() };
    let weight = 1.0 / (tiny.ids.len() - tiny.ids.len() / tiny.length) as f32;
    model.backward(tiny.batch(), weight, Recompute::Insides, &mut sink).unwrap();
    let masks = reference.whole();
    let mut worst = 0.0_f64;
    for (number, (place, shape)) in parameters(model.spec()).into_iter().enumerate() {
        let formed = sink.by_place[&place].to_host().unwrap();
        let found = flat(&if place.parameter.transposed() { formed.t().unwrap() } else { formed.clone() });
        assert_eq!(found.len(), shape.iter().product::<usize>(), "{about} {place:?}");
        let largest = (0..found.len()).max_by(|a, b| found[*a].abs().total_cmp(&found[*b].abs())).unwrap();
        let random = (1..SAMPLE).map(|k| stream(5, about, number as u64, k).random_range(0..found.len()));
        for entry in std::iter::once(largest).chain(random) {
            let name = place.name(model.spec());
            let value = reference.weights[&name][entry];
            let mut loss = |at: f64| {
                reference.weights.get_mut(&name).unwrap()[entry] = at;
                reference.loss(&tiny.ids, tiny.length, &masks)
            };
            let slope = (loss(value + STEP) - loss(value - STEP)) / (2.0 * STEP);
            reference.weights.get_mut(&name).unwrap()[entry] = value;
            let scale = slope.abs().max(1e-2 * f64::from(found[largest]).abs());
            let difference = (f64::from(found[entry]) - slope).abs() / scale;
            assert!(difference <= RELATIVE, "{about} {place:?}[{entry}]: {} and slope {slope}", found[entry]);
            worst = worst.max(difference);
        }
    }
    worst
}

#[test]
fn every_parameter_s_gradient_is_the_slope_of_the_loss() {
    for tiny in Tiny::all() {
        let whole = tiny.model.cut(&tiny.whole()).unwrap();
        let reference = Reference::of(&whole, tiny.spec(), &tiny.whole());
        println!("{}: relative {:.1e}", tiny.name, worst(&tiny, &whole, reference, &tiny.name));
    }
}

#[test]
fn so_is_that_of_a_cut_model_with_unequal_groups_and_a_half_gone() {
    for tiny in Tiny::all() {
        let (heads, groups) = match tiny.spec().blocks[0].attention.unwrap().n_kv_heads {
            3 => (vec![2, 0], vec![2, 0]),
            _ => (vec![3, 0, 1], vec![0, 1]), // one group keeps more than the other, in some models
        };
        let mut kept = tiny.whole();
        let last = kept.len() - 1;
        kept[0] = SelectedBlock { attention: Some(SelectedAttention { heads, groups }), mlp: None };
        kept[last].attention = None;
        kept[last].mlp = Some(vec![30, 2, 11]);
        let cut = tiny.model.cut(&kept).unwrap();
        let reference = Reference::of(&cut, tiny.spec(), &kept);
        println!("{} cut: relative {:.1e}", tiny.name, worst(&tiny, &cut, reference, &tiny.name));
    }
}
