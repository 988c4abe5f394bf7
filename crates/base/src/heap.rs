//! What the system's allocator does with large blocks.

/// Keeps freed memory in the process instead of handing it back block by block: a pass frees and takes gigabytes in tensors,
/// and fresh pages cost it 5 to 10% of its time. Memory at its peak is the same. Only glibc has the switches; for others,
/// nothing. Call it first thing in `main`.
pub fn keep_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "glibc's switches are C functions")]
    // SAFETY: mallopt only sets numbers inside the allocator, and takes any.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
        libc::mallopt(libc::M_ARENA_MAX, 1); // blocks of threads' own arenas cannot be large
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn memory_is_had_as_before() {
        super::keep_freed();
        let blocks: Vec<Vec<u8>> = (0..4).map(|byte| vec![byte; 64 << 20]).collect();
        assert!(blocks.iter().enumerate().all(|(byte, block)| block.iter().all(|b| usize::from(*b) == byte)));
    }
}
