//! `key.json`: what a stage's result was made for, and every file of it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use taper_base::{Bytes, Fingerprint};

use super::RunDirError;
use crate::StageKey;

const NAME: &str = "key.json";
/// Files beyond this size are checked by their size alone.
const HASHED: Bytes = Bytes(64 << 20);
/// Deepest folder of a result.
const DEEPEST: usize = 16;

/// The content of `key.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// The fingerprint of `made_for`.
    key: Fingerprint,
    /// What the result depends on.
    #[serde(flatten)]
    made_for: StageKey,
    /// Every other file of the result, by its path in the folder with `/` between names.
    files: BTreeMap<String, Written>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Written {
    bytes: Bytes,
    sha256: Fingerprint,
}

impl Manifest {
    /// The manifest of what `folder` holds. Files are synced on the way: the folder's rename must not overtake them.
    pub fn of(key: &StageKey, folder: &Path) -> Result<Self, RunDirError> {
        let mut files = BTreeMap::new();
        collect(folder, "", 0, &mut files)?;
        if files.contains_key(NAME) {
            return Err(RunDirError::Result {
                path: folder.join(NAME),
                reason: "this name is taken by the stage's key",
            });
        }
        Ok(Self { key: key.fingerprint(), made_for: key.clone(), files })
    }

    pub fn write(&self, folder: &Path) -> Result<(), RunDirError> {
        let path = folder.join(NAME);
        taper_base::files::write_json(&path, self).map_err(RunDirError::io(&path, "write"))
    }

    /// The manifest in `folder`; `None` if there is none, or one that this version cannot read.
    pub fn read(folder: &Path) -> Result<Option<Self>, RunDirError> {
        let path = folder.join(NAME);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(cause) if is_absent(&cause) => return Ok(None),
            Err(cause) => return Err(RunDirError::io(&path, "read")(cause)),
        };
        match serde_json::from_slice(&bytes) {
            Ok(manifest) => Ok(Some(manifest)),
            Err(cause) => {
                tracing::warn!("{}: not a stage's key ({cause}); the stage is done again", path.display());
                Ok(None)
            }
        }
    }

    /// Whether the result was made for `key`.
    pub fn is_for(&self, key: &StageKey) -> bool {
        self.key == key.fingerprint() && self.made_for == *key
    }

    /// What is missing or altered in `folder`, if anything.
    pub fn damage(&self, folder: &Path) -> Result<Option<String>, RunDirError> {
        for (name, written) in &self.files {
            let path = folder.join(name);
            let size = match fs::symlink_metadata(&path) {
                Ok(found) if found.is_file() => Bytes(found.len()),
                Ok(_) => return Ok(Some(format!("{}: no longer a file", path.display()))),
                Err(cause) if is_absent(&cause) => return Ok(Some(format!("{}: missing", path.display()))),
                Err(cause) => return Err(RunDirError::io(&path, "look at")(cause)),
            };
            if size != written.bytes {
                let (now, then) = (size.0, written.bytes.0);
                return Ok(Some(format!("{}: has {now} bytes, was written with {then}", path.display())));
            }
            if size <= HASHED {
                let found = Fingerprint::of_file(&path).map_err(RunDirError::io(&path, "read"))?;
                if found != written.sha256 {
                    return Ok(Some(format!("{}: altered since it was written", path.display())));
                }
            }
        }
        Ok(None)
    }
}

fn is_absent(cause: &io::Error) -> bool {
    matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Adds the files of `folder`, whose path in the result is `prefix`.
fn collect(
    folder: &Path,
    prefix: &str,
    depth: usize,
    files: &mut BTreeMap<String, Written>,
) -> Result<(), RunDirError> {
    let refuse = |path: &Path, reason| Err(RunDirError::Result { path: path.to_owned(), reason });
    if depth > DEEPEST {
        return refuse(folder, "folders nested too deeply");
    }
    for entry in fs::read_dir(folder).map_err(RunDirError::io(folder, "list"))? {
        let entry = entry.map_err(RunDirError::io(folder, "list"))?;
        let path = entry.path();
        let Ok(name) = entry.file_name().into_string() else {
            return refuse(&path, "a name that is not UTF-8");
        };
        let name = format!("{prefix}{name}");
        let kind = entry.file_type().map_err(RunDirError::io(&path, "look at"))?;
        if kind.is_dir() {
            collect(&path, &format!("{name}/"), depth + 1, files)?;
        } else if kind.is_file() {
            let written = record(&path).map_err(RunDirError::io(&path, "read and sync"))?;
            files.insert(name, written);
        } else {
            return refuse(&path, "a link or device, which a result cannot hold");
        }
    }
    Ok(())
}

fn record(path: &Path) -> io::Result<Written> {
    let file = fs::File::open(path)?;
    file.sync_all()?;
    Ok(Written { bytes: Bytes(file.metadata()?.len()), sha256: Fingerprint::of_file(path)? })
}
