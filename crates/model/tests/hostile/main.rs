//! Damaged and hostile checkpoint folders: each is refused by name or loads to a finite model; none panics, none makes
//! the reader take memory far beyond the size of the files.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(clippy::print_stdout, reason = "what was measured, for --nocapture")]

mod configuration;
mod files;
mod weights;

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use taper_model::{Batch, Checkpoint, Model, ModelError, StoredType, save};

/// Heap that reading may take beside a multiple of the files' size: a configuration may claim 4096 blocks in a few bytes,
/// which are listed before the first missing tensor is noticed.
const MEMORY: usize = 8 << 20;
/// Heap for each byte of the files: JSON as a tree takes about ten, weights as f32 three.
const MEMORY_PER_BYTE: usize = 20;
/// Generous, for busy machines; most take a millisecond.
const TIME: Duration = Duration::from_secs(10);

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Counts live bytes.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[expect(unsafe_code, reason = "an allocator")]
// SAFETY: all requests go to the system's allocator as they are.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(live, Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

/// Files of a checkpoint by name.
#[derive(Clone)]
pub(crate) struct Folder(pub(crate) BTreeMap<String, Vec<u8>>);

/// What must come of a folder.
pub(crate) enum Want<'a> {
    /// A refusal that has these texts in it, and the folder's path.
    Refusal(&'a [&'a str]),
    /// That, or a model with finite weights.
    RefusalOrModel(&'a [&'a str]),
}

impl Folder {
    /// `model.safetensors`, f32, with biases everywhere.
    pub(crate) fn single() -> Self {
        Self::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/llama-bias"))
    }

    /// The same in several files with an index.
    pub(crate) fn sharded() -> Self {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/llama-bias");
        let folder = tempfile::tempdir().unwrap();
        let model = Model::load(&Checkpoint::open(&golden).unwrap()).unwrap();
        save(&model, folder.path(), StoredType::F32, 24_000).unwrap();
        let mut all = Self::read(folder.path());
        all.0.insert("config.json".to_owned(), std::fs::read(golden.join("config.json")).unwrap());
        all
    }

    fn read(folder: &Path) -> Self {
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let file = |name: String| (name.clone(), std::fs::read(folder.join(name)).unwrap());
        Self(names.filter(|name| name != "golden.safetensors").map(file).collect())
    }

    pub(crate) fn with(&self, name: &str, content: impl Into<Vec<u8>>) -> Self {
        let mut folder = self.clone();
        folder.0.insert(name.to_owned(), content.into());
        folder
    }

    pub(crate) fn without(&self, name: &str) -> Self {
        let mut folder = self.clone();
        folder.0.remove(name).unwrap();
        folder
    }

    pub(crate) fn shards(&self) -> Vec<String> {
        let shards: Vec<_> = self.0.keys().filter(|name| name.starts_with("model-")).cloned().collect();
        assert!(shards.len() >= 3);
        shards
    }

    #[expect(clippy::disallowed_methods, reason = "scratch files, a thousand of them: no sync")]
    pub(crate) fn write(&self, folder: &Path) {
        for (name, content) in &self.0 {
            std::fs::write(folder.join(name), content).unwrap();
        }
    }
}

/// Runs cases one at a time and counts what came of them.
pub(crate) struct Trials {
    loaded: usize,
    refused: usize,
    memory: usize, // most beyond MEMORY_PER_BYTE
    slowest: Duration,
    _alone: MutexGuard<'static, ()>,
}

impl Trials {
    pub(crate) fn start() -> Self {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        Self { loaded: 0, refused: 0, memory: 0, slowest: Duration::ZERO, _alone: alone }
    }

    pub(crate) fn run(&mut self, about: &str, folder: &Folder, want: Want<'_>) {
        let place = tempfile::tempdir().unwrap();
        folder.write(place.path());
        let size = folder.0.values().map(Vec::len).sum();
        self.run_in(about, place.path(), size, want);
    }

    pub(crate) fn run_in(&mut self, about: &str, place: &Path, size: usize, want: Want<'_>) {
        let (before, start) = (LIVE.load(Relaxed), Instant::now());
        PEAK.store(before, Relaxed);
        let read = || Checkpoint::open(place).and_then(|checkpoint| Model::load(&checkpoint));
        let Ok(outcome) = catch_unwind(read) else { panic!("{about}: panics") };
        let (took, memory) = (start.elapsed(), PEAK.load(Relaxed).saturating_sub(before));
        let beyond = memory.saturating_sub(MEMORY_PER_BYTE * size);
        assert!(beyond <= MEMORY, "{about}: takes {memory} bytes for files of {size}");
        assert!(took <= TIME, "{about}: takes {took:?}");
        (self.memory, self.slowest) = (self.memory.max(beyond), self.slowest.max(took));
        match (outcome, want) {
            (Ok(model), Want::RefusalOrModel(_)) => {
                check_model(about, &model);
                self.loaded += 1;
            }
            (Ok(_), Want::Refusal(_)) => panic!("{about}: loads"),
            (Err(error), Want::Refusal(texts) | Want::RefusalOrModel(texts)) => {
                let message = chain(&error);
                for text in [&*place.to_string_lossy()].iter().chain(texts) {
                    assert!(message.contains(text), "{about}: `{text}` is not in `{message}`");
                }
                self.refused += 1;
            }
        }
    }

    pub(crate) fn finish(self, what: &str, at_least: usize) {
        let Self { loaded, refused, memory, slowest, .. } = self;
        println!(
            "{what}: {refused} refused, {loaded} loaded; slowest {slowest:.1?}, memory {memory} beyond the files'"
        );
        assert!(refused + loaded >= at_least, "{what}: only {} cases", refused + loaded);
    }
}

fn check_model(about: &str, model: &Model) {
    for (place, tensor) in model.tensors() {
        let values: Vec<f32> = tensor.to_vec().unwrap();
        assert!(values.iter().all(|value| value.is_finite()), "{about}: {place:?}");
    }
    let ids = [1, 5, 2, 9];
    let logits = catch_unwind(AssertUnwindSafe(|| model.logits(Batch::new(&ids, 4).unwrap())));
    assert!(logits.is_ok_and(|logits| logits.is_ok()), "{about}: loads, but does not run");
}

fn chain(error: &ModelError) -> String {
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        message.push_str(&format!(": {error}"));
        cause = error.source();
    }
    message
}

#[test]
fn undisturbed_folders_load() {
    let mut trials = Trials::start();
    for folder in [Folder::single(), Folder::sharded()] {
        trials.run("undisturbed", &folder, Want::RefusalOrModel(&["never"]));
    }
    assert_eq!(trials.loaded, 2);
}
