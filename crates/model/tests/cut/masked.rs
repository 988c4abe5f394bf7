//! Cutting is masking, and files change nothing.

use taper_arch::{AttentionSpec, SelectedAttention, SelectedBlock};
use taper_base::rng::{RngExt, stream};
use taper_model::{ModelError, StoredType, save};

use crate::{LOGITS, Tiny, difference};

/// The largest differences of one test, absolute and relative.
#[derive(Default)]
struct Worst {
    plain: [f64; 2],
    masked: [f64; 2],
    reloaded: [f64; 2],
    cuts: usize,
    reloads: usize,
}

fn bounded(worst: &mut [f64; 2], found: [f64; 2], about: impl Fn() -> String) {
    assert!(found[1] <= LOGITS, "{}: {found:?}", about());
    *worst = [worst[0].max(found[0]), worst[1].max(found[1])];
}

impl Worst {
    /// Compares the models that keep `kept`; without files if no layout can hold it.
    fn compare(&mut self, tiny: &Tiny, kept: &[SelectedBlock], shard_bytes: Option<u64>) {
        let about = |what: &str| format!("{}, {what}, {kept:?}", tiny.name);
        let cut = tiny.model.cut(kept).unwrap();
        let logits = tiny.logits(&cut);
        let plain = tiny.reference.forward(&tiny.ids, tiny.length, &tiny.reference.mask(kept)).logits;
        bounded(&mut self.plain, difference(&logits, &plain), || about("cut and masked in f64"));
        let masked = tiny.logits(&tiny.masked(kept));
        bounded(&mut self.masked, difference(&logits, &masked), || about("cut and masked"));
        self.cuts += 1;
        if let Some(shard_bytes) = shard_bytes {
            let reloaded = tiny.logits(&tiny.reloaded(&cut, shard_bytes));
            bounded(&mut self.reloaded, difference(&reloaded, &logits), || about("reloaded and cut"));
            self.reloads += 1;
        }
    }

    fn print(&self, what: &str) {
        let ([p, pr], [m, mr], [r, rr]) = (self.plain, self.masked, self.reloaded);
        println!(
            "{what}: {} cuts: masked in f64 {p:.1e} ({pr:.1e} of the largest logit), masked {m:.1e} ({mr:.1e})",
            self.cuts
        );
        println!("{what}: {} reloaded: {r:.1e} ({rr:.1e})", self.reloads);
    }
}

/// Every choice of query heads, with the KV groups they need.
fn head_sets(spec: AttentionSpec) -> Vec<SelectedAttention> {
    let per_group = spec.heads_per_group();
    let set = |bits: usize| {
        let heads: Vec<usize> = (0..spec.n_heads).filter(|head| bits >> head & 1 == 1).collect();
        let groups = (0..spec.n_kv_heads).filter(|group| heads.iter().any(|head| head / per_group == *group)).collect();
        SelectedAttention { heads, groups }
    };
    (1..1 << spec.n_heads).map(set).collect()
}

/// Whether the kept groups keep equally many heads, as stock layouts demand.
fn is_equal(kept: &SelectedAttention, spec: AttentionSpec) -> bool {
    let count = |group: &usize| kept.heads.iter().filter(|head| **head / spec.heads_per_group() == *group).count();
    kept.groups.iter().all(|group| count(group) == count(&kept.groups[0]))
}

/// The `number`-th of some sets of channels: whole, one, every other, the last ones, and random ones out of order.
fn channel_set(d_ff: usize, number: usize) -> Vec<usize> {
    match number % 6 {
        0 => (0..d_ff).collect(),
        1 => vec![d_ff - 1],
        2 => (0..d_ff).step_by(2).collect(),
        3 => (d_ff - 5..d_ff).collect(),
        4 => (0..d_ff / 3).collect(),
        _ => {
            let mut rng = stream(7, "channels", number as u64, 0);
            let mut all: Vec<usize> = (0..d_ff).collect();
            (0..d_ff / 2).map(|_| all.swap_remove(rng.random_range(0..all.len()))).collect()
        }
    }
}

#[test]
fn every_choice_of_heads_in_every_block_is_the_masked_model() {
    let mut worst = Worst::default();
    for tiny in Tiny::all() {
        for (block, spec) in tiny.spec().blocks.iter().enumerate() {
            let (attention, d_ff) = (spec.attention.unwrap(), spec.mlp.unwrap().d_ff);
            for (number, heads) in head_sets(attention).into_iter().enumerate() {
                let mut kept = tiny.whole();
                let equal = is_equal(&heads, attention);
                kept[block].mlp = Some(channel_set(d_ff, number));
                let all_groups = SelectedAttention { groups: (0..attention.n_kv_heads).collect(), ..heads.clone() };
                kept[block].attention = Some(heads);
                worst.compare(&tiny, &kept, equal.then_some(if number % 2 == 0 { u64::MAX } else { 4096 }));
                kept[block].attention = Some(all_groups);
                worst.compare(&tiny, &kept, None);
            }
        }
    }
    worst.print("choices of heads");
}

#[test]
fn any_half_of_any_block_may_go() {
    let mut worst = Worst::default();
    for tiny in Tiny::all() {
        let blocks = tiny.spec().blocks.len();
        for halves in 1..1_usize << (2 * blocks) {
            let mut kept = tiny.whole(); // `halves` has a bit for each half that stays
            for (block, kept) in kept.iter_mut().enumerate() {
                kept.attention = kept.attention.take().filter(|_| halves >> (2 * block) & 1 == 1);
                kept.mlp = kept.mlp.take().filter(|_| halves >> (2 * block + 1) & 1 == 1);
            }
            worst.compare(&tiny, &kept, Some(u64::MAX));
        }
        let nothing = vec![SelectedBlock { attention: None, mlp: None }; blocks];
        worst.compare(&tiny, &nothing, None);
    }
    worst.print("removed halves");
}

#[test]
fn random_cuts_of_all_blocks_at_once_are_the_masked_model() {
    let mut worst = Worst::default();
    for tiny in Tiny::all() {
        for draw in 0..40 {
            let mut rng = stream(3, &tiny.name, draw, 0);
            let mut equal = true;
            let kept: Vec<SelectedBlock> = (tiny.spec().blocks.iter())
                .map(|block| {
                    let (attention, d_ff) = (block.attention.unwrap(), block.mlp.unwrap().d_ff);
                    let mut sets = head_sets(attention);
                    let heads = sets.swap_remove(rng.random_range(0..sets.len()));
                    let attention = rng.random_bool(0.8).then_some(heads).inspect(|heads| {
                        equal &= is_equal(heads, attention);
                    });
                    let channels = channel_set(d_ff, rng.random_range(0..600));
                    SelectedBlock { attention, mlp: rng.random_bool(0.8).then_some(channels) }
                })
                .collect();
            let empty = kept.iter().all(|block| block.attention.is_none() && block.mlp.is_none());
            worst.compare(&tiny, &kept, (equal && !empty).then_some(5000));
        }
    }
    worst.print("random cuts");
}

#[test]
fn a_cut_of_a_cut_is_a_cut() {
    for tiny in Tiny::all() {
        let (mut first, mut second, mut both) = (tiny.whole(), tiny.whole(), tiny.whole());
        for block in 0..first.len() {
            let d_ff = tiny.spec().blocks[block].mlp.unwrap().d_ff;
            first[block].mlp = Some(channel_set(d_ff, 5));
            second[block].mlp = Some(vec![3, 0, 7]);
            let at = |i: usize| first[block].mlp.as_ref().unwrap()[i];
            both[block].mlp = Some(vec![at(3), at(0), at(7)]);
        }
        let twice = tiny.model.cut(&first).unwrap().cut(&second).unwrap();
        assert_eq!(tiny.logits(&twice), tiny.logits(&tiny.model.cut(&both).unwrap()), "{}", tiny.name);
    }
}

#[test]
fn unequal_groups_are_not_saved() {
    let tiny = Tiny::all().into_iter().find(|tiny| tiny.name == "qwen2-gqa").unwrap();
    let mut kept = tiny.whole();
    kept[1].attention = Some(SelectedAttention { heads: vec![0, 1, 2], groups: vec![0, 1] });
    let folder = tempfile::tempdir().unwrap();
    let refusal = save(&tiny.model.cut(&kept).unwrap(), folder.path(), StoredType::F32, u64::MAX).unwrap_err();
    assert!(matches!(refusal, ModelError::Selection { .. }), "{refusal}");
    assert!(refusal.to_string().starts_with("block 1, attention: "), "{refusal}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_selection_that_does_not_fit_is_refused_by_place() {
    let tiny = &Tiny::all()[0];
    let refusal = |change: &dyn Fn(&mut Vec<SelectedBlock>)| {
        let mut kept = tiny.whole();
        change(&mut kept);
        tiny.model.cut(&kept).unwrap_err().to_string()
    };
    let heads = |heads: &[usize], groups: &[usize]| {
        let (heads, groups) = (heads.to_vec(), groups.to_vec());
        refusal(&|kept| kept[1].attention = Some(SelectedAttention { heads: heads.clone(), groups: groups.clone() }))
    };
    assert_eq!(refusal(&|kept| drop(kept.pop())), "blocks: 1 blocks are selected, the model has 2");
    assert_eq!(refusal(&|kept| kept[0].mlp = Some(vec![40])), "block 0, mlp: unit 40 is not there: the model has 40");
    assert_eq!(refusal(&|kept| kept[0].mlp = Some(vec![])), "block 0, mlp: no unit is selected");
    assert_eq!(heads(&[1, 1], &[0, 1]), "block 1, attention: unit 1 is selected twice");
    assert_eq!(heads(&[0], &[]), "block 1, attention: no unit is selected");
    assert_eq!(heads(&[0, 2], &[0]), "block 1, attention: a head is selected whose KV group is not");
    let without = tiny.model.cut(&[tiny.whole().remove(0), SelectedBlock { attention: None, mlp: None }]).unwrap();
    let again = without.cut(&tiny.whole()).unwrap_err().to_string();
    assert_eq!(again, "block 1, attention: is selected, but the model has none there");
}
