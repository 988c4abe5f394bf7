//! Sorted once, every architecture is a prefix: the same model as cutting the original, and without a copy.

use std::collections::BTreeMap;

use candle_core::{Storage, Tensor};
use taper_arch::select::{BlockOrder, prefixes};
use taper_arch::{Architecture, UnitOrder};
use taper_base::rng::{Rng, RngExt, stream};
use taper_model::{Model, Parameter, Place, calibrate};

use crate::{LOGITS, Tiny, difference};

fn shuffle(units: &mut [usize], rng: &mut impl Rng) {
    (1..units.len()).for_each(|last| units.swap(last, rng.random_range(0..=last)));
}

/// Calibration's order, and a random one, which is further from the stored one.
fn orders(tiny: &Tiny) -> [UnitOrder; 2] {
    let mut rng = stream(11, &tiny.name, 0, 0);
    let mut random = UnitOrder::stored(tiny.spec());
    for BlockOrder { attention, mlp } in &mut random.blocks {
        let attention = attention.as_mut().unwrap();
        shuffle(&mut attention.groups, &mut rng);
        attention.heads.iter_mut().for_each(|heads| shuffle(heads, &mut rng));
        shuffle(mlp.as_mut().unwrap(), &mut rng);
    }
    [calibrate(&tiny.model, tiny.batch()).unwrap().order, random]
}

/// Every heads-per-group × groups for all blocks alike, then random ones.
fn architectures(tiny: &Tiny) -> Vec<Architecture> {
    let (spec, mut all) = (tiny.spec().blocks[0], Vec::new());
    let (attention, d_ff) = (spec.attention.unwrap(), spec.mlp.unwrap().d_ff);
    for heads in 1..=attention.heads_per_group() {
        for groups in 1..=attention.n_kv_heads {
            let channels = (heads * 7 + groups * 3) % d_ff + 1;
            all.push(vec![format!("{heads}x{groups}/{channels}"); tiny.spec().blocks.len()]);
        }
    }
    for draw in 0..20 {
        let mut rng = stream(13, &tiny.name, draw, 0);
        let block = |_| {
            let (heads, groups) = (1..=attention.heads_per_group(), 1..=attention.n_kv_heads);
            let (heads, groups) = (rng.random_range(heads), rng.random_range(groups));
            let attention = if rng.random_bool(0.2) { "-".to_owned() } else { format!("{heads}x{groups}") };
            let channels = rng.random_range(1..=d_ff).to_string();
            format!("{attention}/{}", if rng.random_bool(0.2) { "-" } else { &channels })
        };
        all.push((0..tiny.spec().blocks.len()).map(block).collect());
    }
    all.into_iter().map(|blocks| blocks.join(" ").parse().unwrap()).collect()
}

#[test]
fn a_sorted_model_is_the_model_and_its_prefixes_are_cuts_of_the_original() {
    let mut worst = [0.0_f64; 3]; // sorted, prefix, saved prefix: absolute
    let mut compare = |which: usize, found: &[f32], wanted: &[f32], about: String| {
        let [absolute, relative] = difference(found, wanted);
        assert!(relative <= LOGITS, "{about}: {absolute}");
        worst[which] = worst[which].max(absolute);
    };
    for tiny in Tiny::all() {
        for order in orders(&tiny) {
            let sorted = tiny.model.cut(&order.permutation()).unwrap();
            let whole = tiny.logits(&tiny.model);
            compare(0, &tiny.logits(&sorted), &whole, format!("{} sorted", tiny.name));
            compare(2, &tiny.logits(&tiny.reloaded(&sorted, u64::MAX)), &whole, format!("{} saved", tiny.name));
            for arch in architectures(&tiny) {
                let about = |what: &str| format!("{} {arch} {what}", tiny.name);
                let direct = tiny.model.cut(&order.select(&arch).unwrap().blocks).unwrap();
                let prefix = sorted.cut(&prefixes(tiny.spec(), &arch).unwrap().blocks).unwrap();
                assert_eq!(prefix.spec(), direct.spec(), "{}", about("spec"));
                assert_eq!(prefix.spec(), &arch.apply(tiny.spec()).unwrap(), "{}", about("spec"));
                let wanted = tiny.logits(&direct);
                compare(1, &tiny.logits(&prefix), &wanted, about("prefix"));
                if !prefix.without_empty_blocks().spec().blocks.is_empty() {
                    compare(2, &tiny.logits(&tiny.reloaded(&prefix, 3000)), &wanted, about("saved prefix"));
                }
            }
        }
    }
    let [sorted, prefix, saved] = worst;
    println!("sorted {sorted:.1e}, prefix {prefix:.1e}, saved prefix {saved:.1e}");
}

fn memory(tensor: &Tensor) -> *const Storage {
    let (storage, _) = tensor.storage_and_layout();
    std::ptr::from_ref(&*storage)
}

fn memories(model: &Model) -> BTreeMap<Place, *const Storage> {
    model.tensors().into_iter().map(|(place, tensor)| (place, memory(tensor.host("memory").unwrap()))).collect()
}

#[test]
fn prefixes_are_views_of_the_sorted_model() {
    use Parameter as P;
    for tiny in Tiny::all() {
        let sorted = tiny.model.cut(&orders(&tiny)[1].permutation()).unwrap();
        let attention = tiny.spec().blocks[0].attention.unwrap();
        for groups in 1..=attention.n_kv_heads {
            let arch: Architecture = vec![format!("1x{groups}/9"); tiny.spec().blocks.len()].join(" ").parse().unwrap();
            let prefix = sorted.cut(&prefixes(tiny.spec(), &arch).unwrap().blocks).unwrap();
            let whole = memories(&sorted);
            for (place, memory) in memories(&prefix) {
                assert_eq!(whole[&place], memory, "{} {arch} {place:?} is a copy", tiny.name);
            }
        }
        // heads are in order of rank, so two of each group are a prefix only while all groups stay
        if attention.heads_per_group() > 1 {
            let arch: Architecture = vec!["2x1/9"; tiny.spec().blocks.len()].join(" ").parse().unwrap();
            let prefix = sorted.cut(&prefixes(tiny.spec(), &arch).unwrap().blocks).unwrap();
            let whole = memories(&sorted);
            for (place, memory) in memories(&prefix) {
                let copied = matches!(place.parameter, P::Q | P::O | P::QBias);
                assert_eq!(whole[&place] != memory, copied, "{} {arch} {place:?}", tiny.name);
            }
        }
    }
}

#[test]
fn a_cut_that_is_no_prefix_is_a_copy() {
    let tiny = &Tiny::all()[0];
    let mut kept = tiny.whole();
    kept[0].mlp = Some(vec![1, 0]);
    let (whole, cut) = (memories(&tiny.model), memories(&tiny.model.cut(&kept).unwrap()));
    let down = Place::of(0, Parameter::Down);
    assert_ne!(whole[&down], cut[&down]);
}
