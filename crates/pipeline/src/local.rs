//! A model's folder on this machine: its own, one of the cache for a model on the Hub, one that a GGUF file is unpacked to, or one of a
//! classifier whose positions are those of the images that it is given.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use taper_base::Fingerprint;
use taper_base::files::{PendingDir, sweep};
use taper_export::{gguf, transformers};
use taper_hub::{LocalModel, ModelSource};
use taper_model::{Checkpoint, Model, save};

use crate::data::processor;
use crate::error::io;
use crate::recipe::MaterialisePart;
use crate::stages::load::fingerprint;
use crate::stages::read_json;
use crate::{Console, PipelineError};

/// The folder of `source`, fetched or unpacked if need be.
pub(crate) fn model(source: &ModelSource, console: &dyn Console) -> Result<LocalModel, PipelineError> {
    source.check()?;
    let Some(path) = source.folder().filter(|path| path.is_file()) else {
        let local = taper_hub::fetch_model(source, console)?;
        let dir = resized(&local.dir, console)?.unwrap_or(local.dir);
        return Ok(LocalModel { dir, ..local });
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

/// Where the classifier of images in `dir` lies with the positions of the images that its processor makes, if the checkpoint has those of
/// others: DINOv2's are of 518 pixels, its images of 224. In the user's cache by all that it is made of: the second time it is there.
fn resized(dir: &Path, console: &dyn Console) -> Result<Option<PathBuf>, PipelineError> {
    // what is wrong with a file is said by whoever needs it
    let Ok(config) = read_json::<Value>(&dir.join("config.json")) else { return Ok(None) };
    let Some(size) = processor(dir, &config).ok().and_then(|processor| processor.size()) else { return Ok(None) };
    let Ok(checkpoint) = Checkpoint::open(dir) else { return Ok(None) };
    let spec = checkpoint.spec();
    let others = spec.image.filter(|image| image.size != size && size.iter().all(|side| side % image.patch == 0));
    let Some(image) = others else { return Ok(None) };
    let cache = user_cache().join("images").join(fingerprint(&checkpoint)?.short());
    let name = dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let target = cache.join(name);
    if target.join("config.json").is_file() {
        return Ok(Some(target));
    }
    std::fs::create_dir_all(&cache).map_err(io(&cache))?;
    sweep(&cache).map_err(io(&cache))?;
    let [from, to] = [image.size, size].map(|[height, width]| format!("{height} x {width}"));
    console.begin(&format!("positions of {from} pixels to {to}"), 1);
    let model = Model::load(&checkpoint)?.at_resolution(size)?;
    let pending = PendingDir::new(&target).map_err(io(&target))?;
    save(&model, pending.path(), checkpoint.stored_type(), MaterialisePart::default().shard_size.0)?;
    let mut config = checkpoint.config().clone();
    config["image_size"] = if size[0] == size[1] { json!(size[0]) } else { json!(size) };
    transformers::write(pending.path(), model.spec(), dir, &config)?;
    pending.commit().map_err(io(&target))?;
    console.end();
    Ok(Some(target))
}

/// `taper` in the user's cache: `XDG_CACHE_HOME`, else `~/.cache`.
pub(crate) fn user_cache() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let user = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    user.unwrap_or_else(std::env::temp_dir).join("taper")
}
