//! The other way: files of this machine become one commit of a repository on the Hub.
//!
//! Large files go by the Hub's chunked storage first, piece by piece, the client's own retries included, and the commit that names
//! them comes last: until then readers see what was there before, and a publishing that breaks leaves nothing half. Files that
//! the repository has already, by size and digest, are not sent; chunks that the storage has already are not either.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hf_hub::RepoTypeModel;
use hf_hub::repository::{AddSource, CommitOperation};
use serde::Serialize;
use taper_base::progress::Progress;
use taper_base::{Bytes, Fingerprint};

use crate::error::Location;
use crate::remote::{Entry, Remote};
use crate::source::check_id;
use crate::{HubError, HubSettings, ModelSource, git};

/// What to publish, to where.
#[derive(Debug, Clone)]
pub struct Publication {
    /// `owner/name`.
    pub repo: String,
    /// Whether nobody else may see it. A repository that is there and public is refused then.
    pub private: bool,
    /// The commit's message.
    pub message: String,
    /// By path in the repository.
    pub files: BTreeMap<String, Content>,
    /// Whether a file that the repository has and `files` does not is removed: what an earlier publishing left.
    pub stale: fn(&str) -> bool,
}

/// A file's content.
#[derive(Debug, Clone)]
pub enum Content {
    /// Of a file on this machine.
    File(PathBuf),
    /// Itself.
    Text(String),
}

impl Content {
    /// Its size.
    ///
    /// # Errors
    /// If the file cannot be looked at.
    pub fn bytes(&self) -> Result<Bytes, HubError> {
        match self {
            Self::File(path) => std::fs::metadata(path).map(|found| Bytes(found.len())).map_err(HubError::io(path)),
            Self::Text(text) => Ok(Bytes(text.len() as u64)),
        }
    }

    /// The file, with its size, if it is one.
    fn file(&self) -> Option<Result<(PathBuf, u64), HubError>> {
        match self {
            Self::File(path) => Some(self.bytes().map(|bytes| (path.clone(), bytes.0))),
            Self::Text(_) => None,
        }
    }

    /// Whether it is what the repository has.
    fn is(&self, listed: &Entry) -> Result<bool, HubError> {
        if self.bytes()?.0 != listed.size {
            return Ok(false);
        }
        if !listed.large {
            return Ok(self.blob()? == listed.oid);
        }
        let digest = match self {
            Self::File(path) => Fingerprint::of_file(path).map_err(HubError::io(path))?,
            Self::Text(text) => Fingerprint::of_bytes(text.as_bytes()),
        };
        Ok(git::blob(git::pointer(digest.as_str(), listed.size).as_bytes()) == listed.oid)
    }

    fn blob(&self) -> Result<String, HubError> {
        match self {
            Self::File(path) => git::blob_of_file(path).map_err(HubError::io(path)),
            Self::Text(text) => Ok(git::blob(text.as_bytes())),
        }
    }

    fn source(&self) -> AddSource {
        match self {
            Self::File(path) => AddSource::file(path),
            Self::Text(text) => AddSource::bytes(text.clone()),
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Published {
    /// The repository's page.
    pub url: String,
    /// The commit; `None` if the repository had all of it.
    pub commit: Option<String>,
    /// Files sent.
    pub sent: Vec<String>,
    /// Files that were there already.
    pub unchanged: Vec<String>,
    /// Files of an earlier publishing that were removed.
    pub removed: Vec<String>,
}

impl HubSettings {
    /// Publishes: creates the repository if it is not there, sends what it lacks, and makes one commit of it. Progress is in
    /// bytes. After a failure the same call goes on.
    ///
    /// # Errors
    /// [`HubError`] says what was asked for, what came of it and what to do.
    pub fn publish(&self, wanted: &Publication, progress: &dyn Progress) -> Result<Published, HubError> {
        let refuse = |reason: String| HubError::Source { text: wanted.repo.clone(), reason };
        check_id(&wanted.repo).map_err(refuse)?;
        if !wanted.repo.contains('/') {
            return Err(refuse("wanted `owner/name`".to_owned()));
        }
        let at = Location { kind: "model", id: wanted.repo.clone(), revision: "main".to_owned(), file: None };
        if self.offline {
            return Err(HubError::Offline { at: at.boxed() });
        }
        let Some(token) = &self.token else {
            return Err(HubError::NoToken { at: at.boxed() });
        };
        wanted.files.values().try_for_each(|content| content.bytes().map(drop))?; // before anything is asked
        let staging = tempfile::tempdir().map_err(HubError::io(&std::env::temp_dir()))?;
        let remote = Remote::<RepoTypeModel>::new(self, at.clone(), staging.path())?;
        let url = remote.create(wanted.private)?;
        if wanted.private && remote.is_public()? {
            return Err(HubError::Public { at: at.boxed() });
        }
        let head = remote.resolve()?;
        let listed: BTreeMap<String, Entry> =
            remote.list_all(&head)?.into_iter().map(|one| (one.path.clone(), one)).collect();
        let (mut sent, mut unchanged) = (Vec::new(), Vec::new());
        for (path, content) in &wanted.files {
            let there = listed.get(path).map(|listed| content.is(listed)).transpose()?.unwrap_or(false);
            if there { unchanged.push(path.clone()) } else { sent.push(path.clone()) }
        }
        let gone = |path: &&String| !wanted.files.contains_key(*path) && (wanted.stale)(path);
        let removed: Vec<String> = listed.keys().filter(gone).cloned().collect();
        if sent.is_empty() && removed.is_empty() {
            return Ok(Published { url, commit: None, sent, unchanged, removed });
        }
        let add =
            |path: &String| CommitOperation::Add { path_in_repo: path.clone(), source: wanted.files[path].source() };
        let delete = |path: &String| CommitOperation::Delete { path_in_repo: path.clone() };
        let operations: Vec<CommitOperation> = sent.iter().map(add).chain(removed.iter().map(delete)).collect();
        let total =
            sent.iter().map(|path| wanted.files[path].bytes()).try_fold(0, |sum, one| one.map(|one| sum + one.0))?;
        progress.begin(&format!("{} files to {}", sent.len(), wanted.repo), total);
        let told = Cell::new(0);
        let tell = |done: u64| {
            progress.advance(done.min(total).saturating_sub(told.get()), "");
            told.set(told.get().max(done.min(total)));
        };
        let files: Result<Vec<_>, HubError> = sent.iter().filter_map(|path| wanted.files[path].file()).collect();
        let committed = remote
            .send_ahead(&files?, token, &tell)
            .and_then(|()| remote.commit_files(operations, (&wanted.message, &head), &tell));
        progress.end();
        Ok(Published { url, commit: Some(committed?), sent, unchanged, removed })
    }
}

/// Publishes with the settings of the environment, as [`HubSettings::from_env`] says.
///
/// # Errors
/// As [`HubSettings::publish`].
pub fn publish(wanted: &Publication, progress: &dyn Progress) -> Result<Published, HubError> {
    HubSettings::from_env().publish(wanted, progress)
}

/// What the card of a model on the Hub says of its licence, if it says anything.
///
/// # Errors
/// As [`HubSettings::publish`].
pub fn licence(source: &ModelSource) -> Result<Option<String>, HubError> {
    let settings = HubSettings::from_env();
    let revision = source.revision.clone().unwrap_or_else(|| "main".to_owned());
    let at = Location { kind: "model", id: source.name.clone(), revision, file: None };
    if settings.offline {
        return Ok(None);
    }
    let staging = tempfile::tempdir().map_err(HubError::io(&std::env::temp_dir()))?;
    Remote::<RepoTypeModel>::new(&settings, at, staging.path())?.licence()
}

/// Folders in folders that are looked into: a link may lead back.
const DEEPEST: usize = 4;

/// All files of the folder `dir` and of folders in it, by their path in it. Links are followed; hidden files are left out.
///
/// # Errors
/// If a folder cannot be read.
pub fn files_of(dir: &Path) -> Result<BTreeMap<String, Content>, HubError> {
    let mut files = BTreeMap::new();
    let mut open = vec![(String::new(), dir.to_owned(), 0)];
    while let Some((prefix, dir, depth)) = open.pop() {
        for entry in std::fs::read_dir(&dir).map_err(HubError::io(&dir))? {
            let path = entry.map_err(HubError::io(&dir))?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if name.starts_with('.') {
                continue;
            }
            let inside = format!("{prefix}{name}");
            if path.is_dir() {
                if depth < DEEPEST {
                    open.push((inside + "/", path, depth + 1));
                }
            } else {
                files.insert(inside, Content::File(path));
            }
        }
    }
    Ok(files)
}
