//! What several tests of this crate need.

use std::path::PathBuf;

/// The models of `golden/`, sorted.
pub(crate) fn golden_folders() -> Vec<PathBuf> {
    let all = std::fs::read_dir(testkit::golden()).expect("golden/ lies in taper-model");
    let mut all: Vec<_> =
        all.map(|entry| entry.expect("golden/ can be listed").path()).filter(|path| path.is_dir()).collect();
    all.sort();
    assert_eq!(all.len(), 7);
    all
}
