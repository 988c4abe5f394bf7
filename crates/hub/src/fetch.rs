//! Models and files from the Hub, through its client library, into huggingface_hub's cache.
//!
//! A name is resolved to a commit first and all files are taken of that one. Only what taper reads is downloaded. What is
//! cached under a full commit id needs no network; a file gets its name in the cache only when it is whole.

use std::path::{Path, PathBuf};

use hf_hub::{HFClient, HFClientSync, HFError};
use serde_json::Value;
use taper_base::progress::Progress;

use crate::error::io;
use crate::{HubError, HubSettings, ModelSource};

const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";
const MAIN: &str = "main";

/// Small files that are taken if they are there.
const SMALL: [&str; 8] = [
    "added_tokens.json",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
];

/// A model's folder on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalModel {
    /// The folder.
    pub dir: PathBuf,
    /// The Hub id it was fetched by; `None` for a folder of the user's.
    pub id: Option<String>,
    /// The commit it was fetched at.
    pub revision: Option<String>,
}

/// The model that `source` names: a folder as it is, a Hub id from the cache or the Hub, as the environment says.
///
/// # Errors
/// [`HubError`], with the repository, revision and file.
pub fn fetch_model(source: &ModelSource, progress: &dyn Progress) -> Result<LocalModel, HubError> {
    fetch_model_with(&HubSettings::from_env(), source, progress)
}

/// [`fetch_model`] with explicit settings.
///
/// # Errors
/// As [`fetch_model`].
pub fn fetch_model_with(
    settings: &HubSettings, source: &ModelSource, progress: &dyn Progress,
) -> Result<LocalModel, HubError> {
    if let Some(dir) = source.folder() {
        return Ok(LocalModel { dir, id: None, revision: None });
    }
    let repository = Repository::new(settings, "models", source.id()?, source.revision.as_deref());
    if let Some((dir, commit)) = repository.cached_model()? {
        return Ok(repository.local(dir, commit));
    }
    if settings.offline {
        return Err(repository.offline("a whole model"));
    }
    let client = repository.client()?;
    let model = client.model(repository.owner, repository.name);
    let info = model.info().revision(repository.revision.clone()).send();
    let info = info.map_err(|cause| repository.refused("", cause))?;
    let commit = info.sha.unwrap_or_else(|| repository.revision.clone());
    let files: Vec<String> = info.siblings.unwrap_or_default().into_iter().map(|file| file.rfilename).collect();
    let get = |file: &str| {
        let path = model.download_file().filename(file).revision(commit.clone()).send();
        path.map_err(|cause| repository.refused(file, cause))
    };
    repository.download(&commit, &files, &get, progress)
}

/// One file of a dataset, from the cache or the Hub.
///
/// # Errors
/// As [`fetch_model`].
pub fn fetch_dataset_file(id: &str, revision: Option<&str>, file: &str) -> Result<PathBuf, HubError> {
    fetch_dataset_file_with(&HubSettings::from_env(), id, revision, file)
}

/// [`fetch_dataset_file`] with explicit settings.
///
/// # Errors
/// As [`fetch_model`].
pub fn fetch_dataset_file_with(
    settings: &HubSettings, id: &str, revision: Option<&str>, file: &str,
) -> Result<PathBuf, HubError> {
    let source = ModelSource { name: id.to_owned(), revision: revision.map(ToOwned::to_owned) };
    let repository = Repository::new(settings, "datasets", source.id()?, revision);
    if file.split('/').any(|part| part.is_empty() || part == "..") || file.contains('\\') {
        let reason = format!("`{file}` is no path inside a repository");
        return Err(HubError::Index { path: PathBuf::from(id), reason });
    }
    let cached = repository.commit()?.map(|commit| repository.snapshot(&commit).join(file)).filter(|path| path.is_file());
    if let Some(path) = cached.filter(|_| settings.offline || repository.pinned()) {
        return Ok(path);
    }
    if settings.offline {
        return Err(repository.offline(file));
    }
    let dataset = repository.client()?.dataset(repository.owner, repository.name);
    let path = dataset.download_file().filename(file).revision(repository.revision.clone()).send();
    path.map_err(|cause| repository.refused(file, cause))
}

/// A repository at a revision, and its place in the cache.
struct Repository<'a> {
    settings: &'a HubSettings,
    kind: &'static str,
    owner: &'a str,
    name: &'a str,
    revision: String,
}

impl<'a> Repository<'a> {
    fn new(settings: &'a HubSettings, kind: &'static str, id: (&'a str, &'a str), revision: Option<&str>) -> Self {
        Self { settings, kind, owner: id.0, name: id.1, revision: revision.unwrap_or(MAIN).to_owned() }
    }

    fn id(&self) -> String {
        if self.owner.is_empty() { self.name.to_owned() } else { format!("{}/{}", self.owner, self.name) }
    }

    /// Whether the revision is a commit: what is cached under it cannot change.
    fn pinned(&self) -> bool {
        self.revision.len() == 40 && self.revision.bytes().all(|byte| byte.is_ascii_hexdigit())
    }

    fn folder(&self) -> PathBuf {
        self.settings.cache.join(format!("{}--{}", self.kind, self.id().replace('/', "--")))
    }

    fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder().join("snapshots").join(commit)
    }

    /// The commit that the cache knows the revision by.
    fn commit(&self) -> Result<Option<String>, HubError> {
        if self.pinned() {
            return Ok(Some(self.revision.clone()));
        }
        let path = self.folder().join("refs").join(&self.revision);
        if self.revision.split('/').any(|part| part.is_empty() || part == "..") || !path.is_file() {
            return Ok(None);
        }
        let commit = std::fs::read_to_string(&path).map_err(io(&path))?.trim().to_owned();
        Ok(commit.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(commit))
    }

    /// The snapshot, if it is whole and need not be looked up on the Hub.
    fn cached_model(&self) -> Result<Option<(PathBuf, String)>, HubError> {
        let Some(commit) = self.commit()?.filter(|_| self.settings.offline || self.pinned()) else { return Ok(None) };
        let dir = self.snapshot(&commit);
        let has = |file: &str| dir.join(file).is_file();
        if !has("config.json") || !has("tokenizer.json") {
            return Ok(None);
        }
        let whole = if has(INDEX) { shards(&dir.join(INDEX))?.iter().all(|shard| has(shard)) } else { has(SINGLE) };
        Ok(whole.then_some((dir, commit)))
    }

    fn local(&self, dir: PathBuf, commit: String) -> LocalModel {
        LocalModel { dir, id: Some(self.id()), revision: Some(commit) }
    }

    fn client(&self) -> Result<HFClientSync, HubError> {
        let mut builder = HFClient::builder().cache_dir(&self.settings.cache);
        if let Some(endpoint) = &self.settings.endpoint {
            builder = builder.endpoint(endpoint);
        }
        if let Some(token) = &self.settings.token {
            builder = builder.token(token);
        }
        builder.build_sync().map_err(|cause| self.refused("", cause))
    }

    /// All files that taper reads, of `commit`, which lists `files`.
    fn download(
        &self, commit: &str, files: &[String], get: &dyn Fn(&str) -> Result<PathBuf, HubError>, progress: &dyn Progress,
    ) -> Result<LocalModel, HubError> {
        let has = |name: &str| files.iter().any(|file| file == name);
        let lacks = |file| HubError::Lacks { id: self.id(), revision: commit.to_owned(), file };
        let pickles: Vec<&str> = files.iter().map(String::as_str).filter(|file| is_pickle(file)).collect();
        if !has(SINGLE) && !has(INDEX) {
            if pickles.is_empty() {
                return Err(lacks(SINGLE));
            }
            return Err(HubError::OnlyPickle {
                id: self.id(),
                revision: commit.to_owned(),
                files: pickles.join(", "),
            });
        }
        if !has("config.json") {
            return Err(lacks("config.json"));
        }
        let mut wanted: Vec<String> = SMALL.iter().filter(|file| has(file)).map(|file| (*file).to_owned()).collect();
        if has(INDEX) {
            let index = get(INDEX)?;
            wanted.extend(shards(&index)?);
        } else {
            wanted.push(SINGLE.to_owned());
        }
        progress.begin("download", wanted.len() as u64);
        let mut dir = self.snapshot(commit);
        for file in &wanted {
            let path = get(file)?;
            progress.advance(1, file);
            if file == "config.json"
                && let Some(parent) = path.parent()
            {
                dir = parent.to_owned();
            }
        }
        progress.end();
        Ok(self.local(dir, commit.to_owned()))
    }

    fn offline(&self, file: &str) -> HubError {
        let cache = self.settings.cache.clone();
        HubError::Offline { id: self.id(), revision: self.revision.clone(), file: file.to_owned(), cache }
    }

    fn refused(&self, file: &str, cause: HFError) -> HubError {
        let hint = match &cause {
            HFError::AuthRequired { .. } if self.settings.token.is_none() => {
                "there is no such repository, or it wants a login: set HF_TOKEN".to_owned()
            }
            HFError::AuthRequired { .. } => "the Hub does not accept the token in HF_TOKEN".to_owned(),
            HFError::Forbidden { .. } => {
                "no access: accept the model's licence on its page, with the account that HF_TOKEN belongs to".to_owned()
            }
            HFError::RepoNotFound { .. } => "no such repository; check the spelling, or HF_TOKEN if it is private".to_owned(),
            HFError::RevisionNotFound { .. } => "no such revision".to_owned(),
            HFError::EntryNotFound { .. } => "no such file".to_owned(),
            HFError::RateLimited { .. } => "too many requests: wait, or set HF_TOKEN".to_owned(),
            _ => "could not be fetched; a file is kept only when it is whole, so try again".to_owned(),
        };
        let file = if file.is_empty() { String::new() } else { format!(", {file}") };
        HubError::Hub { id: self.id(), revision: self.revision.clone(), file, hint, cause: Box::new(cause) }
    }
}

fn is_pickle(file: &str) -> bool {
    [".bin", ".pt", ".pth", ".ckpt", ".pkl"].iter().any(|end| file.ends_with(end))
}

/// The shards that an index names, sorted; each a file beside it.
fn shards(index: &Path) -> Result<Vec<String>, HubError> {
    let refuse = |reason: String| HubError::Index { path: index.to_owned(), reason };
    let bytes = std::fs::read(index).map_err(io(index))?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|cause| refuse(format!("not JSON: {cause}")))?;
    let map = value.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| refuse("no object `weight_map` in it".to_owned()))?;
    let mut names = Vec::new();
    for (tensor, file) in map {
        let plain = |name: &&str| Path::new(name).file_name().is_some_and(|file| file == *name) && !name.contains('\\');
        let name = file.as_str().filter(plain).filter(|name| name.ends_with(".safetensors"));
        let name = name.ok_or_else(|| refuse(format!("`{tensor}` is said to be in {file}, wanted a .safetensors file")))?;
        names.push(name.to_owned());
    }
    names.sort_unstable();
    names.dedup();
    Ok(names)
}
