//! Load: the checkpoint is found or fetched, its headers are checked, its files hashed.
//!
//! Hashing reads every byte, so its result is kept under the files' names, sizes and times: an unchanged model is not
//! read again.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use taper_base::{Bytes, Fingerprint, Parameters};
use taper_hub::LocalModel;
use taper_model::{Checkpoint, parameter_count};

use super::{read_json, write_json};
use crate::device::Gpu;
use crate::error::io;
use crate::run_dir::RunDir;
use crate::{Console, PipelineError, Recipe, Stage};

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    dir: PathBuf,
    /// Name, size and time of change of each file.
    files: Vec<(String, u64, u128)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Loaded {
    seen: Seen,
    fingerprint: Fingerprint,
}

pub(crate) fn load(
    recipe: &Recipe,
    run: &RunDir,
    console: &dyn Console,
    gpu: Option<&Gpu>,
) -> Result<(LocalModel, Checkpoint, Fingerprint), PipelineError> {
    console.started(Stage::Load, &recipe.model.to_string());
    let local = crate::local::model(&recipe.model, console)?;
    let checkpoint = Checkpoint::open(&local.dir)?;
    let path = run.root().join("load.json");
    let seen = look(&local.dir)?;
    let earlier = read_json::<Loaded>(&path).ok().filter(|loaded| loaded.seen == seen); // a cache: unreadable is absent
    let known = earlier.is_some();
    let fingerprint = match earlier {
        Some(loaded) => loaded.fingerprint,
        None => {
            let fingerprint = fingerprint(&checkpoint)?;
            write_json(&path, &Loaded { seen, fingerprint: fingerprint.clone() })?;
            fingerprint
        }
    };
    let spec = checkpoint.spec();
    let count = parameter_count(spec);
    let summary = format!(
        "{}, {} blocks, {} parameters, {} on disk, {}; on the {}",
        spec.family.name(),
        spec.blocks.len(),
        Parameters(count),
        Bytes(checkpoint.bytes()),
        fingerprint.short(),
        gpu.map_or("CPU", |gpu| &gpu.name),
    );
    console.finished(Stage::Load, &summary, known);
    Ok((local, checkpoint, fingerprint))
}

/// Of weights, configuration, tokenizer, and the other files that tokens or results depend on.
pub(crate) fn fingerprint(checkpoint: &Checkpoint) -> Result<Fingerprint, PipelineError> {
    let mut all = checkpoint.fingerprint()?.to_string();
    for name in taper_export::transformers::COPIED {
        let path = checkpoint.dir().join(name);
        if path.is_file() {
            let _ = write!(all, " {name} {}", Fingerprint::of_file(&path).map_err(io(&path))?); // into text: cannot fail
        }
    }
    Ok(Fingerprint::of_bytes(all.as_bytes()))
}

fn look(dir: &Path) -> Result<Seen, PipelineError> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io(dir))? {
        let path = entry.map_err(io(dir))?.path();
        let metadata = match std::fs::metadata(&path) {
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => continue, // a link in the Hub's cache to nothing
            other => other.map_err(io(&path))?,
        };
        if metadata.is_file() {
            let time = metadata.modified().map_err(io(&path))?.duration_since(UNIX_EPOCH).map_or(0, |t| t.as_nanos());
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            files.push((name, metadata.len(), time));
        }
    }
    files.sort();
    Ok(Seen { dir: dir.to_owned(), files })
}
