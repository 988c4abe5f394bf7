//! The engine on a machine: whole models, on the emulated one, against the engine on the CPU, which the goldens hold to
//! PyTorch. So what is proven here is the way from the engine to the kernels and back, not the arithmetic alone. The same
//! once more on a GPU where there is one (`--features cuda`, `--ignored`).

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(clippy::print_stdout, reason = "the largest differences, for --nocapture")]

mod shared;

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device};
use emulation::Host;
use taper_arch::{ModelSpec, SelectedBlock, Selection};
use taper_kernels::cuda::{Machine, Storage};
use taper_model::{Batch, Checkpoint, Gradient, Gradients, Model, PassMemory, Place, Recompute, Sink, calibrate};

use shared::golden_folders;

/// Of losses and of each gradient's norm. f32: sums in other orders.
const F32: f64 = 1e-4;
/// Losses and gradients in bf16. Weights and every activation are rounded to 8 bits, some tens of times on the way through
/// three blocks, and what is left of q's and k's gradients are differences; sums of 32 terms average little of it (1.07e-1 of one
/// bias on an H200, whose products sum in another order).
const BF16: [f64; 2] = [1e-2, 1.5e-1];
/// What a pass holds at most, as a share of what was said: norms in one go, no buffers of threads and no stream at the end
/// while it goes back, so less than the CPU.
const SHARES: std::ops::RangeInclusive<f64> = 0.75..=1.02;

struct Tiny {
    name: String,
    model: Model,
    ids: Vec<u32>,
    length: usize,
}

impl Tiny {
    fn all() -> Vec<Self> {
        golden_folders().iter().map(|folder| Self::open(folder)).collect()
    }

    fn open(folder: &Path) -> Self {
        let golden = candle_core::safetensors::load(folder.join("golden.safetensors"), &Device::Cpu).unwrap();
        let ids = golden["input_ids"].to_dtype(DType::U32).unwrap().to_vec2::<u32>().unwrap();
        Self {
            name: folder.file_name().unwrap().to_string_lossy().into_owned(),
            model: Model::load(&Checkpoint::open(folder).unwrap()).unwrap(),
            length: ids[0].len(),
            ids: ids.concat(),
        }
    }

    fn batch(&self) -> Batch<'_> {
        Batch::new(&self.ids, self.length).unwrap()
    }
}

/// Units that are no prefix, units that are one, and a half that is gone.
fn part(spec: &ModelSpec) -> Vec<SelectedBlock> {
    let mut kept = Selection::whole(spec).blocks;
    for (index, block) in kept.iter_mut().enumerate() {
        let channels = block.mlp.as_mut().unwrap();
        if index == 0 {
            let attention = block.attention.as_mut().unwrap();
            let last = attention.groups.pop().unwrap();
            let (groups, heads) = (spec.blocks[0].attention.unwrap().n_kv_heads, attention.heads.len());
            attention.groups = vec![last];
            attention.heads = attention.heads.split_off(heads - heads / groups);
            channels.truncate(channels.len() / 2);
        } else {
            block.attention = None;
            channels.retain(|channel| channel % 3 != 1);
        }
    }
    kept
}

fn emulated() -> Arc<dyn Machine> {
    Host::quick()
}

fn gradients(model: &Model, batch: Batch<'_>, recompute: Recompute) -> (Vec<f32>, Gradients) {
    let mut sink = Gradients { tied_head: model.spec().tied_head, ..Gradients::default() };
    let losses = model.backward(batch, 0.125, recompute, &mut sink).unwrap();
    (losses, sink)
}

/// The largest differences of losses and of gradients.
fn compare(what: &str, [ours, cpu]: [&Model; 2], batch: Batch<'_>, most: [f64; 2]) {
    let mut worst = [0.0_f64; 2];
    let wanted = cpu.token_losses(batch).unwrap();
    worst[0] = testkit::relative_difference(&ours.token_losses(batch).unwrap(), &wanted);
    let (_, wanted_gradients) = gradients(cpu, batch, Recompute::Nothing);
    for recompute in [Recompute::Nothing, Recompute::Cheap, Recompute::Insides] {
        let (losses, found) = gradients(ours, batch, recompute);
        worst[0] = worst[0].max(testkit::relative_difference(&losses, &wanted));
        assert!(found.by_place.keys().eq(wanted_gradients.by_place.keys()), "{what}");
        for (place, wanted) in &wanted_gradients.by_place {
            let got = &found.by_place[place];
            assert!(got.machine().is_some() && got.dims() == wanted.dims(), "{what} {place:?}");
            let away = testkit::relative_difference(&got.to_vec().unwrap(), &wanted.to_vec().unwrap());
            assert!(away <= most[1], "{what} {place:?}, {recompute:?}: {away:e}");
            worst[1] = worst[1].max(away);
        }
    }
    assert!(worst[0] <= most[0], "{what}: losses {:e}", worst[0]);
    println!("{what:<40} losses {:.1e}, gradients {:.1e}", worst[0], worst[1]);
}

fn losses_and_every_gradient_are_those_of_the_cpu(machine: &Arc<dyn Machine>) {
    for (tiny, storage) in Tiny::all().iter().flat_map(|tiny| [(tiny, Storage::F32), (tiny, Storage::Bf16)]) {
        let there = tiny.model.to_machine(machine, storage).unwrap();
        let most = if storage == Storage::F32 { [F32; 2] } else { BF16 };
        compare(&format!("{} {storage}", tiny.name), [&there, &tiny.model], tiny.batch(), most);
        let kept = part(tiny.model.spec());
        let cut = [there.cut(&kept).unwrap(), tiny.model.cut(&kept).unwrap()];
        compare(&format!("{} {storage}, cut", tiny.name), cut.each_ref(), tiny.batch(), most);
    }
}

fn calibration_and_logits_are_those_of_the_cpu(machine: &Arc<dyn Machine>) {
    let tiny = &Tiny::all()[6];
    let there = tiny.model.to_machine(machine, Storage::F32).unwrap();
    let (found, wanted) = (calibrate(&there, tiny.batch()).unwrap(), calibrate(&tiny.model, tiny.batch()).unwrap());
    assert!((found.loss - wanted.loss).abs() < F32);
    for (found, wanted) in found.units.iter().flatten().zip(wanted.units.iter().flatten()) {
        assert!(testkit::relative_difference(found, wanted) < F32);
    }
    assert_eq!(found.order, wanted.order);
    let flat =
        |model: &Model| -> Vec<f32> { model.logits(tiny.batch()).unwrap().flatten_all().unwrap().to_vec1().unwrap() };
    assert!(testkit::relative_difference(&flat(&there), &flat(&tiny.model)) < F32);
}

#[test]
fn losses_and_every_gradient_emulated() {
    losses_and_every_gradient_are_those_of_the_cpu(&emulated());
}

#[test]
fn calibration_and_logits_emulated() {
    calibration_and_logits_are_those_of_the_cpu(&emulated());
}

#[cfg(feature = "cuda")]
mod on_a_gpu {
    use super::*;

    fn gpu() -> Arc<dyn Machine> {
        Arc::new(taper_kernels::cuda::Device::open(0).unwrap())
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn losses_and_every_gradient() {
        losses_and_every_gradient_are_those_of_the_cpu(&gpu());
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn calibration_and_logits() {
        calibration_and_logits_are_those_of_the_cpu(&gpu());
    }
}

/// Looks at nothing.
struct Nothing;

impl Sink for Nothing {
    fn take(&mut self, _: Place, _: Gradient<'_>) -> taper_kernels::Result<()> {
        Ok(())
    }
}

#[test]
fn a_pass_waits_once_and_holds_what_was_said() {
    let tiny = &Tiny::all()[1];
    let ids: Vec<u32> = tiny.ids.iter().copied().cycle().take(8 * tiny.ids.len()).collect();
    let batch = Batch::new(&ids, tiny.length).unwrap();
    for storage in [Storage::F32, Storage::Bf16] {
        let host = Host::quick();
        let machine: Arc<dyn Machine> = host.clone();
        let there = tiny.model.to_machine(&machine, storage).unwrap();
        let memory = PassMemory::on_machine(there.spec(), ids.len(), storage);
        let weights = host.counts().peak;
        let check = |what: &str, said: u64, waits: usize| {
            let counts = host.counts();
            assert_eq!(counts.waits, waits, "{what}");
            let share = (counts.peak - weights) as f64 / said as f64;
            println!("{storage} {what}: {share:.3} of {said}, {counts:?}");
            assert!(SHARES.contains(&share), "{storage} {what}: {} of {said}", counts.peak - weights);
        };
        host.reset();
        there.token_losses(batch).unwrap();
        check("forward", memory.forward(), 1);
        for recompute in [Recompute::Nothing, Recompute::Cheap, Recompute::Insides] {
            host.reset();
            there.backward(batch, 1.0, recompute, &mut Nothing).unwrap();
            check(&format!("{recompute:?}"), memory.backward(recompute), 1);
        }
    }
}

#[test]
fn what_cannot_be_is_an_error() {
    let tiny = &Tiny::all()[0];
    let there = tiny.model.to_machine(&emulated(), Storage::F32).unwrap();
    let refusal = there.to_machine(&emulated(), Storage::F32).unwrap_err();
    assert!(format!("{refusal:?}").contains("Places"), "{refusal:?}");
    let refusal = taper_model::Decoder::new(&there, &[8]).unwrap_err();
    assert!(format!("{refusal:?}").contains("Places"), "{refusal:?}");
    let small: Arc<dyn Machine> = Host::with_room(10_000);
    let refusal = tiny.model.to_machine(&small, Storage::F32).unwrap_err();
    let cause = std::error::Error::source(&refusal).unwrap().to_string();
    assert!(cause.starts_with("out of GPU memory: wanted ") && cause.contains("lower "), "{cause}");
}
