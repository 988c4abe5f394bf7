//! How candidates are looked at in the memory there is: decided before the first pass, and without any effect on a score.

use taper_arch::ModelSpec;
use taper_kernels::cuda::Storage;
use taper_model::{PassMemory, Recompute, parameters};

use crate::parts::TOKENS;
use crate::{Needs, Projection};

/// What is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// What of each candidate.
    pub needs: Needs,
    /// Tokens of one pass.
    pub tokens: usize,
    /// Whether candidates keep other units than the first ones: those weights are copied.
    pub copies: bool,
    /// Parts of the batch.
    pub parts: usize,
    /// Whether gradients wait for another pass: of the next piece of the batch, or over the next part of it.
    pub waits: bool,
    /// The type of values on the machine that candidates are looked at on; none is the CPU.
    pub machine: Option<Storage>,
}

impl Load {
    /// The same on a machine whose values are of `storage`.
    #[must_use]
    pub fn on_machine(self, storage: Storage) -> Self {
        Self { machine: Some(storage), ..self }
    }

    /// Of a batch of `[sequences, length]` tokens in so many parts; candidates keep the first units.
    pub fn new(needs: Needs, [sequences, length]: [usize; 2], parts: usize) -> Self {
        let tokens = ((TOKENS / length.max(1)).max(1) * length).min(sequences * length);
        Self { needs, tokens, copies: false, parts, waits: parts > 1 || tokens < sequences * length, machine: None }
    }
}

/// How many candidates at once, and what a backward pass keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Candidates at once.
    pub workers: usize,
    /// What each keeps of its forward pass.
    pub recompute: Recompute,
    /// Memory that each takes at most, in bytes: a whole model's worth, as cut ones take less.
    pub bytes_each: u64,
    /// Memory that the whole model's gradients take, in bytes, all parts together, and what sketches are made with.
    pub base_bytes: u64,
}

impl Plan {
    /// For candidates of `spec` in `memory` bytes on `threads` threads. A machine takes one candidate after the other, and
    /// the memory is its own.
    ///
    /// Activations are kept if those of one candidate fit, even if fewer candidates then run at once: those share the
    /// threads, while computing again costs a third.
    pub fn new(spec: &ModelSpec, load: Load, memory: u64, threads: usize) -> Self {
        let bytes = Bytes::of(spec, load);
        let (base_bytes, gradients) = (bytes.base, bytes.candidate);
        let pass = match load.machine {
            None => PassMemory::of(spec, load.tokens),
            Some(storage) => PassMemory::on_machine(spec, load.tokens, storage),
        };
        let waiting = if load.waits { gradients } else { gradients / (2 * spec.blocks.len().max(1) as u64) };
        let needs = |recompute| match load.needs.trace.is_some() || load.needs.magnitudes {
            true => bytes.copies + bytes.projected + pass.backward(recompute) + waiting,
            false => bytes.copies + pass.forward(),
        };
        let memory = memory.saturating_sub(base_bytes);
        let kept = needs(Recompute::Nothing);
        let recompute = if kept <= memory { Recompute::Nothing } else { Recompute::Insides };
        let bytes_each = needs(recompute);
        let fit = usize::try_from(memory / bytes_each.max(1)).unwrap_or(usize::MAX);
        let most = if load.machine.is_some() { 1 } else { threads.max(1) };
        Self { workers: fit.clamp(1, most), recompute, bytes_each, base_bytes }
    }
}

/// What is kept beside activations.
struct Bytes {
    /// The whole model's gradients in the form that is compared, and the signs of sketches.
    base: u64,
    /// Gradients of a candidate: as many forms of them as were asked for.
    candidate: u64,
    /// Inputs projected to the rank of sketches: one at a time.
    projected: u64,
    /// Weights of a candidate that are no views.
    copies: u64,
}

impl Bytes {
    fn of(spec: &ModelSpec, load: Load) -> Self {
        let d = spec.d_model;
        let traced = parameters(spec).into_iter().filter(|(place, _)| place.parameter.traced().is_some());
        let weights: usize = traced.map(|(_, shape)| shape.iter().product::<usize>()).sum();
        let units = weights / d.max(1);
        let (dense, rank) = match load.needs.trace {
            Some(Projection::Dense) => (d, 0),
            Some(Projection::Rank(rank)) => (0, rank),
            None => (0, 0),
        };
        let formed = if load.needs.magnitudes { d + rank } else { dense + rank };
        let f32s = |values: usize| 4 * values as u64;
        Self {
            base: load.parts as u64 * f32s(units * (dense + rank)) + f32s(4 * spec.blocks.len() * d * rank),
            candidate: f32s(units * formed),
            projected: f32s(load.tokens * rank),
            copies: if load.copies { (weights * spec.dtype_bytes) as u64 } else { 0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use taper_arch::spec::example;

    #[test]
    fn batches_come_in_pieces_of_whole_sequences() {
        let load = |shape, parts| Load::new(Needs::default(), shape, parts);
        assert_eq!((load([2, 32], 1).tokens, load([2, 32], 1).waits), (64, false));
        assert!(load([2, 32], 2).waits);
        assert_eq!((load([9, 1000], 1).tokens, load([9, 1000], 1).waits), (4000, true));
        assert_eq!(load([2, 5000], 1).tokens, 5000);
    }

    #[test]
    fn memory_decides_what_is_kept_and_then_how_many_run() {
        let spec = example();
        let needs = Needs { trace: Some(Projection::Rank(4)), ..Needs::default() };
        let load = Load::new(needs, [2, 32], 2);
        let plan = |memory| Plan::new(&spec, load, memory, 4);
        let most = plan(u64::MAX);
        assert_eq!((most.workers, most.recompute), (4, Recompute::Nothing));
        let units: usize = spec.blocks.iter().map(|_| (2 * 4 + 2 * 2) * spec.d_head + 3 * 64).sum();
        assert_eq!(most.base_bytes, 4 * (2 * units * 4 + 4 * spec.blocks.len() * spec.d_model * 4) as u64);
        let bytes = |needs, copies| Bytes::of(&spec, Load { copies, ..Load::new(needs, [2, 32], 1) });
        let both = Needs { magnitudes: true, ..needs };
        assert_eq!(bytes(both, false).base, bytes(needs, false).base, "the base keeps no dense gradients");
        assert_eq!(bytes(both, false).candidate, (4 * units * (spec.d_model + 4)) as u64);
        assert_eq!(bytes(needs, true).copies, (units * spec.d_model * spec.dtype_bytes) as u64);
        let two = plan(most.base_bytes + 2 * most.bytes_each);
        assert_eq!((two.workers, two.recompute), (2, Recompute::Nothing));
        let short = plan(most.base_bytes + most.bytes_each - 1);
        assert_eq!(short.recompute, Recompute::Insides);
        assert!(short.bytes_each < most.bytes_each);
        assert_eq!(plan(0).workers, 1); // tried all the same
        let loss = Load { needs: Needs { loss: true, ..Needs::default() }, ..load };
        let forward = Plan::new(&spec, loss, u64::MAX, 1);
        assert_eq!((forward.bytes_each, forward.base_bytes), (PassMemory::of(&spec, 64).forward(), 0));
        let there = Plan::new(&spec, loss.on_machine(Storage::Bf16), u64::MAX, 4);
        let said = PassMemory::on_machine(&spec, 64, Storage::Bf16).forward();
        assert_eq!((there.workers, there.bytes_each, there.base_bytes), (1, said, 0));
        assert!(said < forward.bytes_each);
    }
}
