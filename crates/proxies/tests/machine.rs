//! Scores of candidates on a machine: on the emulated one, against those of the CPU; once more on a GPU where there is one
//! (`--features cuda`, `--ignored`).

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::sync::Arc;

use emulation::Host;
use taper_arch::{SelectedBlock, Selection};
use taper_kernels::cuda::{Machine, Storage};
use taper_model::{Batch, Checkpoint, Model};
use taper_proxies::methods::gradient_trace::GradientTrace;
use taper_proxies::{Base, Needs, Observation, Parts, Pass, Projection, Proxy, Settings};

/// Of Φ, a mean of correlations: f32 sums in other orders.
const F32: f64 = 1e-4;
/// As above; activations are rounded to 8 bits.
const BF16: f64 = 2e-2;

const MODELS: [&str; 3] = ["llama-gqa-rope3", "qwen3-gqa", "llama-bias"];

fn tiny(name: &str) -> (Model, Vec<u32>, usize) {
    let folder = testkit::golden().join(name);
    let golden = candle_core::safetensors::load(folder.join("golden.safetensors"), &candle_core::Device::Cpu).unwrap();
    let ids = golden["input_ids"].to_dtype(candle_core::DType::U32).unwrap().to_vec2::<u32>().unwrap();
    (Model::load(&Checkpoint::open(&folder).unwrap()).unwrap(), ids.concat(), ids[0].len())
}

/// The first half of all channels; the last block lost its attention.
fn half(model: &Model) -> Vec<SelectedBlock> {
    let mut kept = Selection::whole(model.spec()).blocks;
    kept.iter_mut().filter_map(|block| block.mlp.as_mut()).for_each(|channels| channels.truncate(channels.len() / 2));
    kept.last_mut().unwrap().attention = None;
    kept
}

fn settings(needs: Needs) -> Settings {
    Settings { needs, seed: 3, memory: u64::MAX }
}

fn seen(model: &Model, (ids, length): (&[u32], usize), needs: Needs) -> Observation {
    Base::new(model, Batch::new(ids, length).unwrap(), settings(needs)).unwrap().observe(&half(model)).unwrap()
}

fn the_trace_and_the_loss_are_those_of_the_cpu(machine: impl Fn() -> Arc<dyn Machine>) {
    for (name, projection) in MODELS
        .into_iter()
        .flat_map(|name| [Projection::Dense, Projection::Rank(8)].map(|projection| (name, projection)))
    {
        let (model, ids, length) = tiny(name);
        let proxy = GradientTrace { sketch_rank: projection, ..GradientTrace::default() };
        let batch = (&ids[..], length);
        let wanted = seen(&model, batch, proxy.needs());
        for (storage, most) in [(Storage::F32, F32), (Storage::Bf16, BF16)] {
            let found = seen(&model.to_machine(&machine(), storage).unwrap(), batch, proxy.needs());
            let (score, cpu) = (proxy.score(&found).unwrap(), proxy.score(&wanted).unwrap());
            assert!((score - cpu).abs() <= most * cpu.abs(), "{name} {storage} {projection:?}: {score}, wanted {cpu}");
            let (loss, cpu) = (found.loss.unwrap(), wanted.loss.unwrap());
            assert!((loss - cpu).abs() <= most * cpu, "{name} {storage}: {loss}, wanted {cpu}");
        }
    }
}

fn magnitudes_are_those_of_the_cpu(machine: impl Fn() -> Arc<dyn Machine>) {
    let (model, ids, length) = tiny(MODELS[0]);
    let needs = Needs { magnitudes: true, ..Needs::default() };
    let found = seen(&model.to_machine(&machine(), Storage::F32).unwrap(), (&ids, length), needs);
    let wanted = seen(&model, (&ids, length), needs);
    assert!(wanted.kept().count() > 0);
    for (found, wanted) in found.kept().zip(wanted.kept()) {
        let near = |a: Option<f64>, b: Option<f64>| (a.unwrap() - b.unwrap()).abs() <= F32 * b.unwrap();
        assert!(near(found.gradient_square, wanted.gradient_square) && near(found.saliency, wanted.saliency));
    }
}

#[test]
fn the_trace_and_the_loss_emulated() {
    the_trace_and_the_loss_are_those_of_the_cpu(|| Host::quick());
}

#[test]
fn magnitudes_emulated() {
    magnitudes_are_those_of_the_cpu(|| Host::quick());
}

#[cfg(feature = "cuda")]
mod on_a_gpu {
    use super::*;

    fn gpu() -> Arc<dyn Machine> {
        Arc::new(taper_kernels::cuda::Device::open(0).unwrap())
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn the_trace_and_the_loss() {
        the_trace_and_the_loss_are_those_of_the_cpu(gpu);
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn magnitudes() {
        magnitudes_are_those_of_the_cpu(gpu);
    }
}

/// Parts are summed up on the machine, and what is waited for is a part's losses and numbers alone.
#[test]
fn parts_add_up_and_the_pass_does_not_wait() {
    let (model, ids, length) = tiny(MODELS[0]);
    let proxy = GradientTrace { sketch_rank: Projection::Rank(8), ..GradientTrace::default() };
    let host = Host::quick();
    let machine: Arc<dyn Machine> = host.clone();
    let there = model.to_machine(&machine, Storage::F32).unwrap();
    let parts = |model| {
        let parts = Parts::new(Batch::new(&ids, length).unwrap(), &[1, ids.len() / length]).unwrap();
        Base::in_parts(model, parts, settings(proxy.needs())).unwrap()
    };
    let (ours, cpu) = (parts(&there), parts(&model));
    let (kept, id) = (half(&model), taper_base::Fingerprint::of_bytes(b"half"));
    let mut passes = [Pass::new(&ours, &kept, id.clone()).unwrap(), Pass::new(&cpu, &kept, id).unwrap()];
    let matrices: usize = kept.iter().map(|block| 4 * usize::from(block.attention.is_some()) + 3).sum();
    for part in 0..2 {
        host.reset();
        let [found, wanted] = passes.each_mut().map(|pass| proxy.score(&pass.up_to(part).unwrap()).unwrap());
        assert!((found - wanted).abs() <= F32 * wanted.abs(), "part {part}: {found}, wanted {wanted}");
        assert_eq!(host.counts().waits, 1 + matrices); // all but the first find the machine idle
    }
}
