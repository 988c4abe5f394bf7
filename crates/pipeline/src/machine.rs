//! What this machine has.

use sysinfo::System;

/// Share of the free memory that candidates may fill together.
const SHARE: u64 = 2;

/// Memory that can be had without swapping, in bytes.
pub(crate) fn available_bytes() -> u64 {
    let mut system = System::new();
    system.refresh_memory();
    system
        .cgroup_limits()
        .map_or_else(|| system.available_memory(), |limits| limits.free_memory.min(system.available_memory()))
}

/// Memory in all, in bytes.
pub(crate) fn total_bytes() -> u64 {
    let mut system = System::new();
    system.refresh_memory();
    system.total_memory()
}

/// Memory that candidates may fill together, in bytes: half of what is free.
pub(crate) fn memory_to_use() -> u64 {
    available_bytes() / SHARE
}

/// Passes to run at once: one a thread, fewer if half of the free memory does not hold them, at least one.
pub(crate) fn workers(bytes_each: u64) -> usize {
    let fit = memory_to_use() / bytes_each.max(1);
    rayon::current_num_threads().min(usize::try_from(fit).unwrap_or(usize::MAX)).max(1)
}
