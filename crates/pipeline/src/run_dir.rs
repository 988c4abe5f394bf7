//! One run's folder: a subfolder for each stage's result, whole or absent, with the key it was made for.

mod manifest;

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use taper_base::files::PendingDir;

use crate::StageKey;
use manifest::Manifest;

/// Why a run folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
    /// The file system refuses.
    #[error("{}: cannot {what}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the file system says.
        source: io::Error,
    },
    /// Another process works in the same run folder.
    #[error("{}: in use by another taper ({holder}); wait for it, or give this recipe another `name`", path.display())]
    Locked {
        /// The run folder.
        path: PathBuf,
        /// The other process, as it wrote itself down.
        holder: String,
    },
    /// A name that is no plain folder name.
    #[error("`{name}` cannot name a folder: wanted letters, digits, - _ and ., and no dot in front")]
    Name {
        /// The name.
        name: String,
    },
    /// A stage's result holds something that cannot be kept.
    #[error("{}: {reason}", path.display())]
    Result {
        /// What the stage left.
        path: PathBuf,
        /// Why it cannot be kept.
        reason: &'static str,
    },
    /// A stage's parameters cannot be hashed.
    #[error("stage {stage}: its input `{input}` has no JSON form")]
    Input {
        /// The stage.
        stage: String,
        /// The input.
        input: String,
        /// Why.
        source: serde_json::Error,
    },
}

impl RunDirError {
    fn io(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), what, source }
    }
}

/// What became of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its result was there.
    Skipped,
    /// It was made now.
    Done,
}

/// The folder of one run, locked for this process until dropped.
#[derive(Debug)]
pub struct RunDir {
    root: PathBuf,
    /// Holds the lock; the system releases it when the process ends, however it ends.
    _lock: File,
}

impl RunDir {
    /// Opens the folder of run `name` in `runs`, made if it is not there, and removes what killed runs left unfinished.
    ///
    /// # Errors
    /// [`RunDirError::Locked`] if another process has it open, [`RunDirError::Name`], [`RunDirError::Io`].
    pub fn open(runs: &Path, name: &str) -> Result<Self, RunDirError> {
        check_name(name)?;
        let root = runs.join(name);
        std::fs::create_dir_all(&root).map_err(RunDirError::io(&root, "create the folder"))?;
        let lock = lock(&root)?;
        taper_base::files::sweep(&root).map_err(RunDirError::io(&root, "remove what a killed run left"))?;
        Ok(Self { root, _lock: lock })
    }

    /// The run's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the result of `stage` is, once it is.
    pub fn path(&self, stage: &str) -> PathBuf {
        self.root.join(stage)
    }

    /// Whether the result for `key` is there and undamaged.
    ///
    /// Every file that was written must still be there in its size, and in its hash if it has at most 64 MiB; larger ones
    /// were hashed when they were written, and hashing gigabytes at every start would cost more than it finds. A damaged
    /// result is reported with a warning and counts as absent.
    ///
    /// # Errors
    /// [`RunDirError::Io`] for files that are there and cannot be read, [`RunDirError::Name`].
    pub fn done(&self, key: &StageKey) -> Result<bool, RunDirError> {
        check_name(key.stage())?;
        let folder = self.path(key.stage());
        let Some(manifest) = Manifest::read(&folder)? else { return Ok(false) };
        if !manifest.is_for(key) {
            return Ok(false);
        }
        let damage = manifest.damage(&folder)?;
        if let Some(damage) = &damage {
            tracing::warn!(stage = key.stage(), "{damage}; the stage is done again");
        }
        Ok(damage.is_none())
    }

    /// Has `work` make the result for `key` in the folder it is given, unless that is [`done`](Self::done).
    ///
    /// The folder becomes the stage's only when `work` has succeeded, with `key.json` written last; a kill at any moment
    /// leaves no result or a whole one. Links in a result are refused: what they lead to may change.
    ///
    /// # Errors
    /// What `work` returns, and [`RunDirError`].
    pub fn run<E: From<RunDirError>>(
        &self,
        key: &StageKey,
        work: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<Outcome, E> {
        if self.done(key)? {
            return Ok(Outcome::Skipped);
        }
        let target = self.path(key.stage());
        let pending = PendingDir::new(&target).map_err(RunDirError::io(&target, "prepare the folder"))?;
        work(pending.path())?;
        Manifest::of(key, pending.path())?.write(pending.path())?;
        pending.commit().map_err(RunDirError::io(&target, "put the result in its place"))?;
        Ok(Outcome::Done)
    }
}

fn check_name(name: &str) -> Result<(), RunDirError> {
    let allowed = name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if !allowed || name.is_empty() || name.starts_with('.') || name.len() > 100 {
        return Err(RunDirError::Name { name: name.escape_debug().to_string() });
    }
    Ok(())
}

/// Takes the lock of `root` and writes this process down as its holder. The file stays: removing it would be a race.
fn lock(root: &Path) -> Result<File, RunDirError> {
    let path = root.join(".lock");
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = open.map_err(RunDirError::io(&path, "open the lock"))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // Where a locked file cannot even be read, the holder stays unknown; the refusal is what matters.
            let read = (&file).take(64).read_to_string(&mut holder);
            let known = read.is_ok() && !holder.trim().is_empty();
            let holder = if known { format!("process {}", holder.trim()) } else { "process unknown".to_owned() };
            return Err(RunDirError::Locked { path: root.to_owned(), holder });
        }
        Err(TryLockError::Error(source)) => return Err(RunDirError::Io { path, what: "lock", source }),
    }
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    write(&mut file).map_err(RunDirError::io(&path, "write the lock"))?;
    Ok(file)
}

#[cfg(test)]
mod tests;
