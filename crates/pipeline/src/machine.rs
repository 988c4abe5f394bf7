//! What this machine has.

use std::io::Write;

use sysinfo::System;

use crate::PipelineError;

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

/// The processor's name, or its architecture where it has none.
pub(crate) fn processor() -> String {
    let mut system = System::new();
    system.refresh_cpu_list(sysinfo::CpuRefreshKind::nothing());
    let name = system.cpus().first().map(|cpu| cpu.brand().trim().to_owned()).filter(|name| !name.is_empty());
    name.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// `work` on `threads` threads; 0: as many as the environment says.
pub(crate) fn with_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> Result<T, PipelineError> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    Ok(pool.map_err(|cause| PipelineError::Threads { threads, cause })?.install(work))
}

/// Most memory that this process has had resident since [`reset_peak`], in bytes; `None` where the system does not say.
pub(crate) fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?; // not there: not Linux
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(1024 * line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?)
}

/// Lets [`peak_bytes`] begin anew, where the system allows it; else it counts from the start of the process.
pub(crate) fn reset_peak() {
    let file = std::fs::OpenOptions::new().write(true).open("/proc/self/clear_refs");
    drop(file.and_then(|mut file| file.write_all(b"5")));
}
