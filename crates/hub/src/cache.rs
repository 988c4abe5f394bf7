//! The cache of huggingface_hub: contents in `blobs/` by their etag, a folder of links for each commit in `snapshots/`,
//! the commits of branches in `refs/`, and in `.no_exist/` what a commit is known to lack.
//!
//! Nothing enters it unchecked: the client downloads into a staging folder inside, and only a file of the size and
//! digest that the Hub lists is moved to `blobs/`. A broken download therefore never has the name of a whole one.

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

    /// The cache that the client is given to download into.
    pub(crate) fn staging(&self) -> PathBuf {
        self.repository().join(".taper-partial")
    }

    /// Clears the staging folder, then shows the client the contents of `size` bytes that are here already, so that a
    /// file which another commit has too is not fetched again.
    pub(crate) fn prepare(&self, size: u64) -> Result<(), HubError> {
        self.clear()?;
        let staged = self.staging().join(&self.name).join("blobs");
        fs::create_dir_all(&staged).map_err(HubError::io(&staged))?;
        let blobs = self.repository().join("blobs");
        for (name, path) in entries(&blobs)? {
            let content = fs::metadata(&path).map_err(HubError::io(&path))?;
            if content.is_file() && content.len() == size && is_etag(&name) {
                show(&path, &staged.join(&name))?;
            }
        }
        Ok(())
    }

    /// What the client put into the staging folder, and whether it was downloaded just now.
    pub(crate) fn staged(&self, pointer: &Path) -> Result<Staged, HubError> {
        let blobs = self.staging().join(&self.name).join("blobs");
        let etag = staged_etag(pointer, &blobs)?;
        let path = blobs.join(&etag);
        let fresh = !fs::symlink_metadata(&path).map_err(HubError::io(&path))?.is_symlink();
        let size = fs::metadata(&path).map_err(HubError::io(&path))?.len();
        Ok(Staged { path, etag, size, fresh })
    }

    /// Gives `staged`, which was checked, its place as `file` of `commit`.
    pub(crate) fn adopt(&self, staged: &Staged, commit: &str, file: &str) -> Result<(), HubError> {
        let blob = self.repository().join("blobs").join(&staged.etag);
        if staged.fresh {
            create_parent(&blob)?;
            File::open(&staged.path).and_then(|file| file.sync_all()).map_err(HubError::io(&staged.path))?;
            fs::rename(&staged.path, &blob).map_err(HubError::io(&blob))?;
        }
        let pointer = self.snapshot(commit).join(file);
        create_parent(&pointer)?;
        let fresh = pointer.with_extension("taper-link");
        remove(&fresh)?;
        let up = "../".repeat(file.split('/').count() - 1);
        link(&blob, Path::new(&format!("{up}../../blobs/{}", staged.etag)), &fresh)?;
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

/// A file in the staging folder.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) path: PathBuf,
    pub(crate) etag: String,
    pub(crate) size: u64,
    /// Downloaded just now, not shown to the client by [`Cache::prepare`].
    pub(crate) fresh: bool,
}

impl Staged {
    /// The SHA-256 that the name of a large file is.
    pub(crate) fn sha256(&self) -> Option<&str> {
        (self.etag.len() == 64).then_some(self.etag.as_str()).filter(|etag| is_hex(etag))
    }
}

/// A full commit.
pub(crate) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && is_hex(revision)
}

fn is_hex(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_hexdigit())
}

fn is_etag(name: &str) -> bool {
    matches!(name.len(), 40 | 64) && is_hex(name)
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

/// Name and path of what `folder` holds, by name; nothing if it does not exist.
fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>, HubError> {
    let listed = match fs::read_dir(folder) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.map_err(HubError::io(folder))?,
    };
    let mut entries = Vec::new();
    for entry in listed {
        let entry = entry.map_err(HubError::io(folder))?;
        entries.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
    }
    entries.sort();
    Ok(entries)
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

#[cfg(unix)]
fn show(blob: &Path, staged: &Path) -> Result<(), HubError> {
    let blob = std::path::absolute(blob).map_err(HubError::io(blob))?;
    std::os::unix::fs::symlink(blob, staged).map_err(HubError::io(staged))
}

/// Not possible without links: the file is fetched again.
#[cfg(not(unix))]
fn show(_: &Path, _: &Path) -> Result<(), HubError> {
    Ok(())
}

/// The name that the client gave the content behind `pointer`.
#[cfg(unix)]
fn staged_etag(pointer: &Path, _: &Path) -> Result<String, HubError> {
    let target = fs::read_link(pointer).map_err(HubError::io(pointer))?;
    Ok(target.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default())
}

/// Without links there is one content, that of the file just fetched.
#[cfg(not(unix))]
fn staged_etag(pointer: &Path, blobs: &Path) -> Result<String, HubError> {
    let only = entries(blobs)?.into_iter().map(|(name, _)| name).next();
    only.ok_or_else(|| HubError::io(pointer)(io::ErrorKind::NotFound.into()))
}
