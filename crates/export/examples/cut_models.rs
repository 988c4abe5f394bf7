//! Writes models cut in every way that exports know, for `scripts/check_exports.py`: `cut_models MODEL-FOLDER OUT`.
//!
//! Every cut keeps the first units: what is asked here is whether engines compute the same model, not whether it is good.

#![expect(clippy::unwrap_used, reason = "a tool for checks, which ends where something is wrong")]

use std::path::{Path, PathBuf};

use taper_arch::{Architecture, BlockGenes, UnitOrder};
use taper_model::{Checkpoint, Model, save};

/// A way to cut: its name, and what it does to a block by its number.
type Cut = (&'static str, fn(usize, &mut BlockGenes));

const CUTS: [Cut; 9] = [
    ("whole", |_, _| ()),
    ("uniform", |_, block| {
        channels(block, 32);
        heads(block, 1);
    }),
    ("mlp", |index, block| channels(block, 16 * (index % 4))),
    ("kv", |index, block| groups(block, index % 2)),
    ("heads", |index, block| heads(block, index % 2)),
    ("attention-removed", |index, block| remove(block, index == 2, false)),
    ("mlp-removed", |index, block| remove(block, false, index == 2)),
    ("block-removed", |index, block| remove(block, index == 2, index == 2)),
    ("first-attention-removed", |index, block| remove(block, index == 0, false)),
];

fn channels(block: &mut BlockGenes, fewer: usize) {
    block.mlp.iter_mut().for_each(|mlp| mlp.channels -= fewer);
}

fn heads(block: &mut BlockGenes, fewer: usize) {
    let one = |attention: &&mut taper_arch::AttentionGenes| attention.heads_per_group > fewer;
    block.attention.iter_mut().filter(one).for_each(|attention| attention.heads_per_group -= fewer);
}

fn groups(block: &mut BlockGenes, fewer: usize) {
    let one = |attention: &&mut taper_arch::AttentionGenes| attention.groups > fewer;
    block.attention.iter_mut().filter(one).for_each(|attention| attention.groups -= fewer);
}

fn remove(block: &mut BlockGenes, attention: bool, mlp: bool) {
    if attention {
        block.attention = None;
    }
    if mlp {
        block.mlp = None;
    }
}

fn main() {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(folder), Some(out)) = (arguments.next(), arguments.next()) else {
        panic!("wanted: cut_models MODEL-FOLDER OUT");
    };
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let model = Model::load(&checkpoint).unwrap();
    for (name, cut) in CUTS {
        write(&checkpoint, &model, cut, &out.join(name));
    }
}

fn write(checkpoint: &Checkpoint, model: &Model, cut: fn(usize, &mut BlockGenes), to: &Path) {
    let mut architecture = Architecture::whole(model.spec());
    architecture.blocks.iter_mut().enumerate().for_each(|(index, block)| cut(index, block));
    let kept = UnitOrder::stored(model.spec()).select(&architecture).unwrap();
    let student = model.cut(&kept.blocks).unwrap();
    std::fs::create_dir_all(to).unwrap();
    save(&student, to, checkpoint.stored_type(), u64::MAX).unwrap();
    let mut spec = student.spec().clone();
    spec.blocks.retain(|block| block.attention.is_some() || block.mlp.is_some());
    taper_export::transformers::write(to, &spec, checkpoint.dir(), checkpoint.config()).unwrap();
}
