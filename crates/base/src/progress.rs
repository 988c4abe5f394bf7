//! Where long work reports to. The command line draws it; libraries and tests stay silent.

/// A sink for the progress of one piece of long work. Shared between worker threads.
pub trait Progress: Sync {
    /// Work of `total` steps begins.
    fn begin(&self, what: &str, total: u64);
    /// `steps` more are done; `note` is worth showing beside the bar (the best trial so far, say), empty if nothing is.
    fn advance(&self, steps: u64, note: &str);
    /// The work begun last is over.
    fn end(&self);
}

/// Reports nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64, _: &str) {}
    fn end(&self) {}
}
