//! Importance and order of units, computed again from the plain forward pass.

use taper_arch::UnitOrder;
use taper_arch::select::BlockOrder;
use taper_model::{Batch, calibrate};

use crate::Tiny;

/// Relative; the engine's activations are f32.
const IMPORTANCE: f64 = 1e-5;

/// `Σ_i |W_ij| · ‖X_j‖₂` of every column j of `w`, `[d_model, columns]`.
fn columns(w: &[f64], x: &[Vec<f64>]) -> Vec<f64> {
    let width = x[0].len();
    let column = |j: usize| {
        let norm = x.iter().map(|x| x[j] * x[j]).sum::<f64>().sqrt();
        w.iter().skip(j).step_by(width).map(|w| w.abs() * norm).sum()
    };
    (0..width).map(column).collect()
}

fn best_first(units: Vec<usize>, importance: impl Fn(usize) -> f64) -> Vec<usize> {
    let mut units: Vec<(f64, usize)> = units.into_iter().map(|unit| (-importance(unit), unit)).collect();
    units.sort_by(|a, b| a.partial_cmp(b).unwrap());
    units.into_iter().map(|(_, unit)| unit).collect()
}

#[test]
fn importance_and_order_are_those_of_plain_loops() {
    let mut worst = 0.0_f64;
    for tiny in Tiny::all() {
        let found = calibrate(&tiny.model, tiny.batch()).unwrap();
        let masks = tiny.reference.whole();
        let seen = tiny.reference.forward(&tiny.ids, tiny.length, &masks);
        let loss = tiny.reference.loss(&tiny.ids, tiny.length, &masks);
        assert!((found.loss - loss).abs() <= IMPORTANCE * loss, "{}: loss {} {loss}", tiny.name, found.loss);
        let mut order = UnitOrder::stored(tiny.spec());
        for (block, [heads, channels]) in seen.units.iter().enumerate() {
            let weight = |name: &str| &tiny.reference.weights[&format!("model.layers.{block}.{name}.weight")];
            let (o, down) = (weight("self_attn.o_proj"), weight("mlp.down_proj"));
            let by_column = columns(o, heads);
            let heads: Vec<f64> = by_column.chunks(tiny.spec().d_head).map(|head| head.iter().sum()).collect();
            let channels = columns(down, channels);
            let of_half =
                [heads.iter().sum::<f64>() / o.len() as f64, channels.iter().sum::<f64>() / down.len() as f64];
            let units = &found.units[block];
            let pairs = [(&units[0][..], &heads[..]), (&units[1], &channels), (&found.importance[block], &of_half)];
            for (found, wanted) in pairs {
                worst = worst.max(testkit::relative_difference(found, wanted));
            }
            let BlockOrder { attention, mlp } = &mut order.blocks[block];
            let (attention, mlp) = (attention.as_mut().unwrap(), mlp.as_mut().unwrap());
            for group in &mut attention.heads {
                *group = best_first(group.clone(), |head| heads[head]);
            }
            let of_group = |group: usize| attention.heads[group].iter().map(|head| heads[*head]).sum();
            attention.groups = best_first(attention.groups.clone(), of_group);
            *mlp = best_first(mlp.clone(), |channel| channels[channel]);
        }
        assert_eq!(found.order, order, "{}", tiny.name);
    }
    println!("importance of units and halves: relative {worst:.1e}");
    assert!(worst <= IMPORTANCE);
}

#[test]
fn a_sorted_model_has_the_same_units_in_another_place() {
    for tiny in Tiny::all() {
        let before = calibrate(&tiny.model, tiny.batch()).unwrap();
        let permutation = before.order.permutation();
        let after = calibrate(&tiny.model.cut(&permutation).unwrap(), tiny.batch()).unwrap();
        for (block, permutation) in permutation.iter().enumerate() {
            let heads = &permutation.attention.as_ref().unwrap().heads;
            let moved = |half: usize, from: &[usize]| -> Vec<f64> {
                from.iter().map(|unit| before.units[block][half][*unit]).collect()
            };
            let wanted = [moved(0, heads), moved(1, permutation.mlp.as_ref().unwrap())];
            for (found, wanted) in after.units[block].iter().zip(&wanted) {
                assert!(testkit::relative_difference(found, wanted) <= IMPORTANCE, "{}", tiny.name);
            }
            // heads keep their group, so the best of each group comes first wherever it is
            let order = after.order.blocks[block].attention.as_ref().unwrap();
            let groups = tiny.spec().blocks[block].attention.unwrap().n_kv_heads;
            for (group, found) in order.heads.iter().enumerate() {
                let wanted: Vec<usize> = (0..found.len()).map(|rank| rank * groups + group).collect();
                assert_eq!(*found, wanted, "{}: block {block}, group {group}", tiny.name);
            }
        }
    }
}

#[test]
fn pieces_change_nothing_but_rounding() {
    let tiny = &Tiny::all()[0];
    let many: Vec<u32> = tiny.ids.repeat(200); // 9600 tokens, three passes
    let found = calibrate(&tiny.model, Batch::new(&many, tiny.length).unwrap()).unwrap();
    let once = calibrate(&tiny.model, tiny.batch()).unwrap();
    for (many, once) in found.units.iter().flatten().zip(once.units.iter().flatten()) {
        let scaled: Vec<f64> = once.iter().map(|x| x * 200.0_f64.sqrt()).collect();
        assert!(testkit::relative_difference(many, &scaled) <= IMPORTANCE);
    }
    assert!((found.loss - once.loss).abs() <= IMPORTANCE * once.loss);
}
