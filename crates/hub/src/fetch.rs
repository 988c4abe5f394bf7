//! From a name to a folder: what of a repository is needed, what of it is here, and fetching the rest.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use hf_hub::{RepoType, RepoTypeDataset, RepoTypeModel};
use serde_json::Value;
use taper_base::progress::Progress;

use crate::cache::{Cache, is_commit};
use crate::error::Location;
use crate::remote::{Entry, Remote};
use crate::source::{check_id, check_revision, is_plain_path};
use crate::transfer::Transfer;
use crate::{HubError, HubSettings, ModelSource};

const CONFIG: &str = "config.json";
const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";
const TOKENIZER: &str = "tokenizer.json";
const PREPROCESSOR: &str = "preprocessor_config.json";

/// Fetched where the repository has them, besides the weights.
const SMALL: [&str; 11] = [
    CONFIG,
    "generation_config.json",
    TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    PREPROCESSOR,
];

/// Endings of files that `torch.load` reads.
const PICKLES: [&str; 4] = [".bin", ".pt", ".pth", ".ckpt"];

/// A model folder on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalModel {
    /// The folder.
    pub dir: PathBuf,
    /// Its id on the Hub; `None` for a plain folder.
    pub id: Option<String>,
    /// The full commit; `None` for a plain folder.
    pub revision: Option<String>,
}

/// The folder of `source`, fetched from the Hub if it is not a folder already and not in the cache.
///
/// Settings come from the environment, as [`HubSettings::from_env`] says.
///
/// # Errors
/// As [`HubSettings::fetch_model`].
pub fn fetch_model(source: &ModelSource, progress: &dyn Progress) -> Result<LocalModel, HubError> {
    HubSettings::from_env().fetch_model(source, progress)
}

/// The file `file` of the dataset `id` on the Hub, fetched if it is not in the cache.
///
/// Settings come from the environment, as [`HubSettings::from_env`] says.
///
/// # Errors
/// As [`HubSettings::fetch_dataset_file`].
pub fn fetch_dataset_file(
    id: &str,
    revision: Option<&str>,
    file: &str,
    progress: &dyn Progress,
) -> Result<PathBuf, HubError> {
    HubSettings::from_env().fetch_dataset_file(id, revision, file, progress)
}

impl HubSettings {
    /// The folder of `source`: itself if it is one, else that of its commit in the cache, filled from the Hub.
    ///
    /// A full commit that is whole in the cache is used without asking the Hub. Progress is in bytes.
    ///
    /// # Errors
    /// [`HubError`] says what was asked for, what came of it and what to do.
    pub fn fetch_model(&self, source: &ModelSource, progress: &dyn Progress) -> Result<LocalModel, HubError> {
        source.check()?;
        if let Some(dir) = source.folder() {
            return Ok(LocalModel { dir, id: None, revision: None });
        }
        let at = location("model", &source.name, source.revision.as_deref());
        let cache = Cache::new(&self.cache, "models", &source.name);
        let local = |commit: String| LocalModel {
            dir: cache.snapshot(&commit),
            id: Some(source.name.clone()),
            revision: Some(commit),
        };
        if self.offline {
            let missing = |at| HubError::NotCached { at, cache: self.cache.clone() };
            let commit = cache.commit(&at.revision)?.ok_or_else(|| missing(at.boxed()))?;
            let lacking = lacking(&cache.snapshot(&commit), &at)?;
            return lacking.map_or(Ok(local(commit)), |file| Err(missing(at.file(&file))));
        }
        if is_commit(&at.revision) && is_whole(&cache, &at)? {
            return Ok(local(at.revision));
        }
        let remote = Remote::<RepoTypeModel>::new(self, at.clone(), &cache.staging())?;
        let commit = if is_commit(&at.revision) { at.revision.clone() } else { remote.resolve()? };
        let job = Job { at: &at, cache: &cache, remote: &remote, commit: &commit, progress };
        job.model()?;
        job.finish()?;
        cache.set_commit(&at.revision, &commit)?;
        Ok(local(commit))
    }

    /// The path of `file` (`data/train.parquet`) of the dataset `id`, fetched if it is not in the cache.
    ///
    /// # Errors
    /// [`HubError`] says what was asked for, what came of it and what to do.
    pub fn fetch_dataset_file(
        &self,
        id: &str,
        revision: Option<&str>,
        file: &str,
        progress: &dyn Progress,
    ) -> Result<PathBuf, HubError> {
        let wrong = |reason| HubError::Source { text: format!("{id}/{file}"), reason };
        check_id(id).map_err(wrong)?;
        revision.map_or(Ok(()), check_revision).map_err(wrong)?;
        if !is_plain_path(file) {
            return Err(wrong(format!("`{file}` is no path in a repository")));
        }
        let at = location("dataset", id, revision);
        let cache = Cache::new(&self.cache, "datasets", id);
        if self.offline || is_commit(&at.revision) {
            let path = cache.commit(&at.revision)?.map(|commit| cache.snapshot(&commit).join(file));
            match path.filter(|path| path.is_file()) {
                Some(path) => return Ok(path),
                None if self.offline => {
                    return Err(HubError::NotCached { at: at.file(file), cache: self.cache.clone() });
                }
                None => {}
            }
        }
        let remote = Remote::<RepoTypeDataset>::new(self, at.clone(), &cache.staging())?;
        let commit = if is_commit(&at.revision) { at.revision.clone() } else { remote.resolve()? };
        let entry = remote.find(&commit, file)?;
        let job = Job { at: &at, cache: &cache, remote: &remote, commit: &commit, progress };
        job.ensure(&[&entry])?;
        job.finish()?;
        cache.set_commit(&at.revision, &commit)?;
        Ok(cache.snapshot(&commit).join(file))
    }
}

fn location(kind: &'static str, id: &str, revision: Option<&str>) -> Location {
    Location { kind, id: id.to_owned(), revision: revision.unwrap_or("main").to_owned(), file: None }
}

/// The first file without which the snapshot is no model.
fn lacking(snapshot: &Path, at: &Location) -> Result<Option<String>, HubError> {
    let missing = |name: &str| !snapshot.join(name).is_file();
    if missing(CONFIG) {
        return Ok(Some(CONFIG.to_owned()));
    }
    if !missing(SINGLE) {
        return Ok(None);
    }
    if missing(INDEX) {
        return Ok(Some(SINGLE.to_owned()));
    }
    Ok(shards(&snapshot.join(INDEX), at)?.into_iter().find(|shard| missing(shard)))
}

/// Whether the commit that `at` names is in the cache with all that a run may need.
///
/// Weights come last, so their presence says that the rest was fetched as well, if taper did it. Other programs may leave
/// out the tokenizer.
fn is_whole(cache: &Cache, at: &Location) -> Result<bool, HubError> {
    let snapshot = cache.snapshot(&at.revision);
    let read = [TOKENIZER, PREPROCESSOR].iter().any(|name| snapshot.join(name).is_file());
    Ok((read || cache.lacks(&at.revision, TOKENIZER)) && lacking(&snapshot, at)?.is_none())
}

/// The files that an index names, each once, in order.
fn shards(index: &Path, at: &Location) -> Result<BTreeSet<String>, HubError> {
    let refuse = |reason: String| HubError::Index { at: at.file(INDEX), reason };
    let bytes = fs::read(index).map_err(HubError::io(index))?;
    let content: Value = serde_json::from_slice(&bytes).map_err(|cause| refuse(format!("not JSON: {cause}")))?;
    let map = content.get("weight_map").and_then(Value::as_object);
    let map = map.filter(|map| !map.is_empty()).ok_or_else(|| refuse("no object `weight_map` in it".to_owned()))?;
    let mut names = BTreeSet::new();
    for (tensor, file) in map {
        let name = file.as_str().filter(|name| is_plain_path(name) && !name.contains('/'));
        let name = name.filter(|name| name.ends_with(".safetensors"));
        names.insert(name.map(str::to_owned).ok_or_else(|| {
            refuse(format!("tensor `{tensor}` is said to be in {file}, wanted the plain name of a .safetensors file"))
        })?);
    }
    Ok(names)
}

/// One commit that is being fetched.
struct Job<'a, T: RepoType> {
    at: &'a Location,
    cache: &'a Cache,
    remote: &'a Remote<T>,
    commit: &'a str,
    progress: &'a dyn Progress,
}

impl<T: RepoType> Job<'_, T> {
    /// All that a model needs: first the small files, of which the index says what else.
    fn model(&self) -> Result<(), HubError> {
        let listed = self.remote.list(self.commit)?;
        let find = |name: &str| listed.iter().find(|entry| entry.path == name);
        if find(CONFIG).is_none() {
            let advice = "; a transformers checkpoint has it at the top";
            return Err(HubError::NoFile { at: self.at.file(CONFIG), advice });
        }
        let index = find(INDEX).filter(|_| find(SINGLE).is_none());
        if find(SINGLE).is_none() && index.is_none() {
            return Err(self.without_weights(&listed));
        }
        let small: Vec<&Entry> = SMALL.iter().filter_map(|name| find(name)).chain(index).collect();
        self.ensure(&small)?;
        for name in SMALL.iter().filter(|name| find(name).is_none()) {
            self.cache.set_lacks(self.commit, name)?;
        }
        let Some(_) = index else {
            return self.ensure(&find(SINGLE).into_iter().collect::<Vec<_>>());
        };
        let mut weights = Vec::new();
        for name in shards(&self.cache.snapshot(self.commit).join(INDEX), self.at)? {
            let shard = find(&name);
            let advice = "; the index names it, so the upload of the model was not finished";
            weights.push(shard.ok_or_else(|| HubError::NoFile { at: self.at.file(&name), advice })?);
        }
        self.ensure(&weights)
    }

    fn without_weights(&self, listed: &[Entry]) -> HubError {
        let names = |keep: &dyn Fn(&str) -> bool| {
            let names: Vec<&str> = listed.iter().map(|entry| entry.path.as_str()).filter(|name| keep(name)).collect();
            names.join(", ")
        };
        let files = names(&|name| PICKLES.iter().any(|end| name.ends_with(end)));
        if files.is_empty() || listed.iter().any(|entry| entry.path.ends_with(".safetensors")) {
            HubError::NoWeights { at: self.at.boxed(), found: names(&|_| true) }
        } else {
            HubError::Pickle { at: self.at.boxed(), files }
        }
    }

    /// Fetches those of `entries` that the cache lacks at this commit.
    fn ensure(&self, entries: &[&Entry]) -> Result<(), HubError> {
        if entries.iter().all(|entry| self.is_here(entry)) {
            return Ok(());
        }
        let _lock = self.cache.lock()?;
        let missing: Vec<_> = entries.iter().copied().filter(|entry| !self.is_here(entry)).collect();
        self.progress.begin("download", missing.iter().map(|entry| entry.size).sum());
        let Self { at, cache, remote, commit, progress } = *self;
        let fetch = |entry: &&Entry| Transfer { at, cache, remote, commit, progress, entry }.run();
        let fetched = missing.iter().try_for_each(fetch);
        self.progress.end();
        fetched
    }

    /// Removes what earlier runs gathered, now that all is in its place. After a failure it stays, for the next time.
    fn finish(&self) -> Result<(), HubError> {
        if !self.cache.staging().exists() {
            return Ok(());
        }
        let _lock = self.cache.lock()?;
        self.cache.clear()
    }

    fn is_here(&self, entry: &Entry) -> bool {
        let path = self.cache.snapshot(self.commit).join(&entry.path);
        fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() == entry.size)
    }
}
