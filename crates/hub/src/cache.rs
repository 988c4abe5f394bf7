//! The cache of huggingface_hub: contents in `blobs/` by their etag, a folder of links for each commit in `snapshots/`,
//! the commits of branches in `refs/`, and in `.no_exist/` what a commit is known to lack.
//!
//! Nothing enters it unchecked: contents are gathered in a staging folder inside, and only one of the size and digest that
//! the Hub names is moved to `blobs/`. A broken download therefore never has the name of a whole one.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use taper_base::files;

use crate::HubError;

/// One repository's part of the cache.
#[derive(Debug)]
pub(crate) struct Cache {
    root: PathBuf,
    /// `models--owner--name`.
    name: String,
}

impl Cache {
    /// The part of `root` for the repository `id`; `plural` is `models` or `datasets`.
    pub(crate) fn new(root: &Path, plural: &str, id: &str) -> Self {
        Self { root: root.to_owned(), name: format!("{plural}--{}", id.replace('/', "--")) }
    }

    fn repository(&self) -> PathBuf {
        self.root.join(&self.name)
    }

    /// The folder of the files at `commit`.
    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.repository().join("snapshots").join(commit)
    }

    /// The commit that `revision` had when it was last fetched.
    pub(crate) fn commit(&self, revision: &str) -> Result<Option<String>, HubError> {
        if is_commit(revision) {
            return Ok(Some(revision.to_owned()));
        }
        let path = self.repository().join("refs").join(revision);
        match fs::read_to_string(&path) {
            Ok(commit) => Ok(Some(commit.trim().to_owned()).filter(|commit| is_commit(commit))),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(HubError::io(&path)(cause)),
        }
    }

    /// Remembers the commit of a branch or tag.
    pub(crate) fn set_commit(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if is_commit(revision) || self.commit(revision)?.as_deref() == Some(commit) {
            return Ok(());
        }
        write(&self.repository().join("refs").join(revision), commit.as_bytes())
    }

    /// Whether `commit` is known to lack `file`.
    pub(crate) fn lacks(&self, commit: &str, file: &str) -> bool {
        self.repository().join(".no_exist").join(commit).join(file).is_file()
    }

    /// Remembers that `commit` lacks `file`.
    pub(crate) fn set_lacks(&self, commit: &str, file: &str) -> Result<(), HubError> {
        if self.lacks(commit, file) {
            return Ok(());
        }
        write(&self.repository().join(".no_exist").join(commit).join(file), b"")
    }

    /// Keeps other runs from downloading the same repository at the same time, until the file is dropped.
    pub(crate) fn lock(&self) -> Result<File, HubError> {
        let path = self.root.join(".locks").join(&self.name).join("taper.lock");
        create_parent(&path)?;
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(HubError::io(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => {
                tracing::info!(repository = self.name, "waiting for another download of the same repository");
                file.lock().map_err(HubError::io(&path))?;
                Ok(file)
            }
            Err(TryLockError::Error(cause)) => Err(HubError::io(&path)(cause)),
        }
    }

    /// Where contents are gathered. The client is given it as its own cache, and puts nothing there.
    pub(crate) fn staging(&self) -> PathBuf {
        self.repository().join(".taper-partial")
    }

    /// The names of all contents of `size` bytes.
    pub(crate) fn contents(&self, size: u64) -> Result<Vec<String>, HubError> {
        let blobs = self.repository().join("blobs");
        let listed = match fs::read_dir(&blobs) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            listed => listed.map_err(HubError::io(&blobs))?,
        };
        let mut names = Vec::new();
        for entry in listed {
            let entry = entry.map_err(HubError::io(&blobs))?;
            let fits = fs::metadata(entry.path()).is_ok_and(|found| found.is_file() && found.len() == size);
            names.extend(fits.then(|| entry.file_name().to_string_lossy().into_owned()));
        }
        Ok(names)
    }

    fn blob(&self, etag: &str) -> PathBuf {
        self.repository().join("blobs").join(etag)
    }

    /// Where the content that git calls `oid` is gathered; its folder is there then.
    pub(crate) fn partial(&self, oid: &str) -> Result<PathBuf, HubError> {
        let path = self.staging().join(oid);
        create_parent(&path)?;
        if path.is_dir() {
            fs::remove_dir_all(&path).map_err(HubError::io(&path))?; // of another version
        }
        Ok(path)
    }

    /// Gives the file `partial`, which was checked, its name as the content `etag`.
    pub(crate) fn keep(&self, partial: &Path, etag: &str) -> Result<(), HubError> {
        let blob = self.blob(etag);
        create_parent(&blob)?;
        fs::rename(partial, &blob).map_err(HubError::io(&blob))
    }

    /// Makes the content `etag` the file `file` of `commit`.
    pub(crate) fn point(&self, etag: &str, commit: &str, file: &str) -> Result<(), HubError> {
        let pointer = self.snapshot(commit).join(file);
        create_parent(&pointer)?;
        let fresh = pointer.with_extension("taper-link");
        remove(&fresh)?;
        let up = "../".repeat(file.split('/').count() - 1);
        link(&self.blob(etag), Path::new(&format!("{up}../../blobs/{etag}")), &fresh)?;
        fs::rename(&fresh, &pointer).map_err(HubError::io(&pointer))
    }

    /// Removes the staging folder.
    pub(crate) fn clear(&self) -> Result<(), HubError> {
        let path = self.staging();
        match fs::remove_dir_all(&path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(HubError::io(&path)(cause)),
            _ => Ok(()),
        }
    }
}

/// A full commit.
pub(crate) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && is_hex(revision)
}

fn is_hex(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_hexdigit())
}

fn create_parent(path: &Path) -> Result<(), HubError> {
    path.parent().map_or(Ok(()), |parent| fs::create_dir_all(parent).map_err(HubError::io(parent)))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), HubError> {
    create_parent(path)?;
    files::write(path, bytes).map_err(HubError::io(path))
}

fn remove(path: &Path) -> Result<(), HubError> {
    match fs::remove_file(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(HubError::io(path)(cause)),
        _ => Ok(()),
    }
}

/// Links as huggingface_hub makes them.
#[cfg(unix)]
fn link(_: &Path, relative: &Path, pointer: &Path) -> Result<(), HubError> {
    std::os::unix::fs::symlink(relative, pointer).map_err(HubError::io(pointer))
}

/// Copies: links need rights that not every user has.
#[cfg(not(unix))]
fn link(blob: &Path, _: &Path, pointer: &Path) -> Result<(), HubError> {
    fs::copy(blob, pointer).map(drop).map_err(HubError::io(pointer))
}
