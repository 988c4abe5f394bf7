//! A model's folder on this machine: its own, one of the cache for a model on the Hub, or one that a GGUF file is unpacked to.

use std::path::{Path, PathBuf};

use taper_base::Fingerprint;
use taper_base::files::sweep;
use taper_export::gguf;
use taper_hub::{LocalModel, ModelSource};

use crate::error::io;
use crate::{Console, PipelineError};

/// The folder of `source`, fetched or unpacked if need be.
pub(crate) fn model(source: &ModelSource, console: &dyn Console) -> Result<LocalModel, PipelineError> {
    source.check()?;
    let Some(path) = source.folder().filter(|path| path.is_file()) else {
        return Ok(taper_hub::fetch_model(source, console)?);
    };
    Ok(LocalModel { dir: unpacked(&path, console)?, id: None, revision: None })
}

/// What the GGUF file `path` is unpacked to, in the user's cache by its content: the second time it is there.
fn unpacked(path: &Path, console: &dyn Console) -> Result<PathBuf, PipelineError> {
    let digest = Fingerprint::of_file(path).map_err(io(path))?;
    let cache = user_cache().join("gguf");
    let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let dir = cache.join(digest.short()).join(name);
    if dir.join("config.json").is_file() {
        return Ok(dir);
    }
    let parent = cache.join(digest.short());
    std::fs::create_dir_all(&parent).map_err(io(&parent))?;
    sweep(&parent).map_err(io(&parent))?;
    console.begin(&format!("{} to a checkpoint", path.display()), 1);
    let done = gguf::unpack(path, &dir);
    console.end();
    done?;
    Ok(dir)
}

/// `taper` in the user's cache: `XDG_CACHE_HOME`, else `~/.cache`.
pub(crate) fn user_cache() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let user = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    user.unwrap_or_else(std::env::temp_dir).join("taper")
}
