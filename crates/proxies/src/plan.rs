//! How candidates are looked at in the memory there is: decided before the first pass, and without any effect on a score.

use taper_arch::ModelSpec;
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
    /// Parts of the batch.
    pub parts: usize,
    /// Whether gradients wait for another pass: of the next piece of the batch, or over the next part of it.
    pub waits: bool,
}

impl Load {
    /// Of a batch of `[sequences, length]` tokens in so many parts.
    pub fn new(needs: Needs, [sequences, length]: [usize; 2], parts: usize) -> Self {
        let tokens = ((TOKENS / length.max(1)).max(1) * length).min(sequences * length);
        Self { needs, tokens, parts, waits: parts > 1 || tokens < sequences * length }
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
    /// Memory that the whole model's gradients take, in bytes, all parts together.
    pub base_bytes: u64,
}

impl Plan {
    /// For candidates of `spec` in `memory` bytes on `threads` threads.
    ///
    /// Activations are kept if those of one candidate fit, even if fewer candidates then run at once: those share the
    /// threads, while computing again costs a third.
    pub fn new(spec: &ModelSpec, load: Load, memory: u64, threads: usize) -> Self {
        let gradients = gradient_bytes(spec, load.needs);
        let base_bytes = if load.needs.trace.is_some() { gradients * load.parts as u64 } else { 0 };
        let pass = PassMemory::of(spec, load.tokens);
        let waiting = if load.waits { gradients } else { gradients / (2 * spec.blocks.len().max(1) as u64) };
        let needs = |recompute| match load.needs.trace.is_some() || load.needs.magnitudes {
            true => pass.backward(recompute) + waiting,
            false => pass.forward(),
        };
        let memory = memory.saturating_sub(base_bytes);
        let kept = needs(Recompute::Nothing);
        let recompute = if kept <= memory { Recompute::Nothing } else { Recompute::Insides };
        let bytes_each = needs(recompute);
        let fit = usize::try_from(memory / bytes_each.max(1)).unwrap_or(usize::MAX);
        Self { workers: fit.clamp(1, threads.max(1)), recompute, bytes_each, base_bytes }
    }
}

/// Of all matrices of sub-blocks, in the form that is compared.
fn gradient_bytes(spec: &ModelSpec, needs: Needs) -> u64 {
    let width = match (needs.magnitudes, needs.trace) {
        (false, None) => 0,
        (false, Some(Projection::Rank(rank))) => rank,
        _ => spec.d_model,
    };
    let traced = parameters(spec).into_iter().filter(|(place, _)| place.parameter.traced().is_some());
    let units: usize = traced.map(|(_, shape)| shape.iter().product::<usize>() / spec.d_model.max(1)).sum();
    4 * (units * width) as u64
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
        assert_eq!(most.base_bytes, 2 * gradient_bytes(&spec, needs));
        let two = plan(most.base_bytes + 2 * most.bytes_each);
        assert_eq!((two.workers, two.recompute), (2, Recompute::Nothing));
        let short = plan(most.base_bytes + most.bytes_each - 1);
        assert_eq!(short.recompute, Recompute::Insides);
        assert!(short.bytes_each < most.bytes_each);
        assert_eq!(plan(0).workers, 1); // tried all the same
        let loss = Load { needs: Needs { loss: true, ..Needs::default() }, ..load };
        let forward = Plan::new(&spec, loss, u64::MAX, 1);
        assert_eq!((forward.bytes_each, forward.base_bytes), (PassMemory::of(&spec, 64).forward(), 0));
    }
}
