//! Files that are not what they say: none may panic, or take memory that the file does not have.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use peak_alloc::PeakAlloc;
use rand::RngExt;
use taper_base::progress::Silent;
use taper_base::rng::stream;
use taper_export::gguf;
use taper_model::{Checkpoint, Model};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// One at a time: the memory that is measured is the process's.
static TURN: Mutex<()> = Mutex::new(());

/// Mutations of each file.
const EACH: u64 = 400;

fn demo() -> PathBuf {
    testkit::workspace_root().join("recipes/demo/model")
}

/// Numbers that lengths and offsets are made of when somebody means harm.
const BAD: [u64; 8] = [0, 1, u64::MAX, u64::MAX / 2, 1 << 32, (1 << 31) - 1, 1 << 62, 0xff00_0000];

/// `bytes` with a few of them changed, within the first `head` for the most part: a flip, a number, a cut, a piece doubled.
fn mutated(bytes: &[u8], head: usize, seed: u64) -> Vec<u8> {
    let mut rng = stream(seed, "hostile", 0, 0);
    let mut out = bytes.to_vec();
    for _ in 0..rng.random_range(1..4) {
        let at = rng.random_range(0..head.min(out.len()).max(1));
        match rng.random_range(0..5) {
            0 if at < out.len() => out[at] ^= 1 << rng.random_range(0..8),
            1 | 2 => {
                let number = BAD[rng.random_range(0..BAD.len())].to_le_bytes();
                let width = [1, 4, 8][rng.random_range(0..3)];
                out.iter_mut().skip(at).zip(&number[..width]).for_each(|(byte, bad)| *byte = *bad);
            }
            3 => out.truncate(at),
            _ => {
                let piece: Vec<u8> = out.iter().skip(at).take(rng.random_range(1..64)).copied().collect();
                out.splice(at..at, piece);
            }
        }
    }
    out
}

fn write(path: &Path, bytes: &[u8]) {
    taper_base::files::write(path, bytes).unwrap();
}

/// Runs `read`, and holds the memory that it took beside what was there against `most`.
fn within<T>(most: usize, what: &str, read: impl FnOnce() -> T) -> T {
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    let done = read();
    let taken = MEMORY.peak_usage().saturating_sub(before);
    assert!(taken <= most, "{what}: {taken} bytes, allowed {most}");
    done
}

#[test]
fn gguf_files_that_lie() {
    let _turn = TURN.lock();
    let place = tempfile::tempdir().unwrap();
    let whole = place.path().join("whole.gguf");
    gguf::write(&Checkpoint::open(&demo()).unwrap(), "f16".parse().unwrap(), &whole, &Silent).unwrap();
    let bytes = fs::read(&whole).unwrap();
    let (path, to) = (place.path().join("hostile.gguf"), place.path().join("out"));
    let data: usize = Checkpoint::open(&demo()).unwrap().bytes() as usize;
    let head = bytes.len().saturating_sub(data).max(4096);
    let (mut refused, mut read) = (0, 0);
    for seed in 0..EACH {
        write(&path, &mutated(&bytes, head, seed));
        match within(4 * bytes.len(), &format!("seed {seed}"), || gguf::unpack(&path, &to)) {
            Ok(()) => read += 1,
            Err(error) => {
                refused += 1;
                assert!(!error.to_string().is_empty() && !to.exists(), "{seed}: {error}");
            }
        }
        let _ = fs::remove_dir_all(&to);
    }
    assert!(refused > EACH / 4, "{refused} refused, {read} read");
}

#[test]
fn checkpoints_that_lie() {
    let _turn = TURN.lock();
    let place = tempfile::tempdir().unwrap();
    let (mut refused, mut read) = (0, 0);
    for file in ["config.json", "model.safetensors"] {
        for entry in fs::read_dir(demo()).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, place.path().join(path.file_name().unwrap())).unwrap();
        }
        let bytes = fs::read(demo().join(file)).unwrap();
        let weights = fs::metadata(demo().join("model.safetensors")).unwrap().len() as usize;
        for seed in 0..EACH {
            write(&place.path().join(file), &mutated(&bytes, 8 << 10, seed));
            let load = || Checkpoint::open(place.path()).and_then(|checkpoint| Model::load(&checkpoint).map(drop));
            match within(8 * weights, &format!("{file}, seed {seed}"), load) {
                Ok(()) => read += 1,
                Err(error) => {
                    refused += 1;
                    assert!(error.to_string().contains(&*place.path().to_string_lossy()), "{file} {seed}: {error}");
                }
            }
        }
    }
    assert!(refused > EACH / 2, "{refused} refused, {read} read");
}
