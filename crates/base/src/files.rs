//! Files and folders that appear whole or not at all: written beside their place, synced, then renamed.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// What the names of unfinished files begin with.
const UNFINISHED: &str = ".taper-";
/// What the names of folders under construction and just replaced end with, after a dot.
const SIBLINGS: [&str; 2] = ["partial", "old"];

/// Writes `bytes` to `path`; a reader sees the old file or the new one, never a part.
///
/// # Errors
/// Whatever creating, writing, syncing or renaming returns.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_with(path, |out| out.write_all(bytes))
}

/// As [`write()`], for content that is produced piece by piece.
///
/// # Errors
/// Whatever `fill` or the file system returns; then `path` is as it was.
pub fn write_with(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(parent(path))?;
    let mut out = BufWriter::with_capacity(1 << 20, file.as_file_mut());
    fill(&mut out)?;
    out.flush()?;
    drop(out);
    set_permissions(file.as_file())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// Puts the finished file `temporary` in the place of `path`: synced, as readable as any new file, renamed.
///
/// # Errors
/// Whatever opening, syncing or renaming returns.
pub fn persist(temporary: &Path, path: &Path) -> io::Result<()> {
    let file = fs::File::open(temporary)?;
    set_permissions(&file)?;
    file.sync_all()?;
    fs::rename(temporary, path)
}

/// `value` as pretty JSON with a final newline.
///
/// # Errors
/// As [`write()`]; a value without a JSON form is [`io::ErrorKind::InvalidData`].
pub fn write_json<T: serde::Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value)?;
    bytes.push(b'\n');
    write(path, &bytes)
}

/// Temporary files are private to their owner; results are as readable as any new file.
#[cfg(unix)]
fn set_permissions(file: &fs::File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn set_permissions(_: &fs::File) -> io::Result<()> {
    Ok(())
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A folder under construction: fill [`path`](Self::path), then [`commit`](Self::commit). Dropped before that, it is gone.
#[derive(Debug)]
pub struct PendingDir {
    target: PathBuf,
    temporary: Option<PathBuf>,
}

impl PendingDir {
    /// Starts a folder that is to become `target`. What an earlier, killed attempt left is removed.
    ///
    /// # Errors
    /// Whatever clearing or creating the sibling folder returns.
    pub fn new(target: &Path) -> io::Result<Self> {
        let temporary = sibling(target, SIBLINGS[0]);
        remove(&temporary)?;
        fs::create_dir_all(&temporary)?;
        Ok(Self { target: target.to_owned(), temporary: Some(temporary) })
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        self.temporary.as_deref().unwrap_or(&self.target)
    }

    /// Puts the folder in its place, instead of what stood there.
    ///
    /// # Errors
    /// Whatever syncing or renaming returns. A kill between the two renames leaves no `target`: the work is redone.
    pub fn commit(mut self) -> io::Result<()> {
        let temporary = self.temporary.take().unwrap_or_default();
        for entry in fs::read_dir(&temporary)? {
            let path = entry?.path();
            if path.is_file() {
                fs::File::open(&path)?.sync_all()?;
            }
        }
        let old = sibling(&self.target, SIBLINGS[1]);
        remove(&old)?;
        if self.target.exists() {
            fs::rename(&self.target, &old)?;
        }
        fs::rename(&temporary, &self.target)?;
        remove(&old)
    }
}

impl Drop for PendingDir {
    fn drop(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            // Nothing can be done about a failure here, and the next attempt clears the folder first.
            drop(remove(&temporary));
        }
    }
}

/// Removes from `dir` what killed writers left there: unfinished files, and folders under construction or just replaced.
/// Only for a folder that nobody else is writing to.
///
/// # Errors
/// Whatever reading `dir` or removing returns.
pub fn sweep(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() {
            if name.starts_with('.') && SIBLINGS.iter().any(|what| name.ends_with(&format!(".{what}"))) {
                remove(&entry.path())?;
            }
        } else if name.starts_with(UNFINISHED) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn sibling(target: &Path, what: &str) -> PathBuf {
    let name = target.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    parent(target).join(format!(".{name}.{what}"))
}

fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write(&path, b"old").unwrap();
        let failed = write_with(&path, |out| {
            out.write_all(b"half")?;
            Err(io::Error::other("disk full"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "disk full");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn sweeping_takes_what_killed_writers_left_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let kept = [".lock", "stage.old", ".stage", "x.taper-1"];
        for name in kept.iter().chain(&[".taper-a1b2c3"]) {
            write(&dir.path().join(name), b"x").unwrap();
        }
        for name in [".stage.old", ".stage.partial", "stage.partial"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        sweep(dir.path()).unwrap();
        let left = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut left: Vec<String> = left.collect();
        left.sort();
        assert_eq!(left, [".lock", ".stage", "stage.old", "stage.partial", "x.taper-1"]);
    }

    #[test]
    fn a_pending_folder_replaces_the_old_one_whole() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("stage");
        for content in ["1", "2"] {
            let pending = PendingDir::new(&target).unwrap();
            write(&pending.path().join(content), b"x").unwrap();
            assert_eq!(target.exists(), content == "2");
            pending.commit().unwrap();
        }
        assert!(target.join("2").exists() && !target.join("1").exists());
        drop(PendingDir::new(&target).unwrap());
        assert!(target.join("2").exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
