//! One file from the Hub into the cache, piece by piece: what arrived stays on disk, so after a break or a kill no more than the
//! piece under way comes again. A file gets its name in the cache only once its digest is the one that the Hub names.

use std::cell::Cell;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use hf_hub::RepoType;
use taper_base::progress::Progress;
use taper_base::{Bytes, Fingerprint};

use crate::cache::Cache;
use crate::error::Location;
use crate::remote::{Entry, Remote};
use crate::{HubError, git};

/// Bytes of a piece; also what a download takes in memory.
const PIECE: u64 = 32 << 20;
/// Tries for a piece whose connection breaks, and the wait after the first; it doubles.
const TRIES: u32 = 5;
const WAIT: Duration = Duration::from_millis(100);

/// A file that is fetched.
pub(crate) struct Transfer<'a, T: RepoType> {
    pub(crate) at: &'a Location,
    pub(crate) cache: &'a Cache,
    pub(crate) remote: &'a Remote<T>,
    pub(crate) commit: &'a str,
    pub(crate) progress: &'a dyn Progress,
    pub(crate) entry: &'a Entry,
}

impl<T: RepoType> Transfer<'_, T> {
    /// Fetches it, unless its content is in the cache, and gives it its place at the commit.
    pub(crate) fn run(&self) -> Result<(), HubError> {
        let Entry { path, size, .. } = self.entry;
        let etag = match self.here()? {
            Some(etag) => {
                self.progress.advance(*size, path);
                etag
            }
            None => {
                let partial = self.cache.partial(&self.entry.oid)?;
                self.fetch(&partial)?;
                let etag = match self.check(&partial) {
                    Ok(etag) => etag,
                    Err(damaged) => {
                        fs::remove_file(&partial).map_err(HubError::io(&partial))?;
                        return Err(damaged);
                    }
                };
                self.cache.keep(&partial, &etag)?;
                etag
            }
        };
        self.cache.point(&etag, self.commit, path)
    }

    /// The name of its content, if the cache has it.
    fn here(&self) -> Result<Option<String>, HubError> {
        let Entry { oid, size, large, .. } = self.entry;
        let same =
            |etag: &String| if *large { git::blob(git::pointer(etag, *size).as_bytes()) == *oid } else { etag == oid };
        Ok(self.cache.contents(*size)?.into_iter().find(same))
    }

    /// Appends to `partial` what it lacks.
    fn fetch(&self, partial: &Path) -> Result<(), HubError> {
        let size = self.entry.size;
        let mut file = OpenOptions::new().create(true).append(true).open(partial).map_err(HubError::io(partial))?;
        let mut have = file.metadata().map_err(HubError::io(partial))?.len();
        if have > size {
            file.set_len(0).map_err(HubError::io(partial))?;
            have = 0;
        }
        let told = Cell::new(0);
        let tell = |done: u64| {
            self.progress.advance(done.saturating_sub(told.get()), &self.entry.path);
            told.set(told.get().max(done));
        };
        tell(have);
        while have < size {
            let end = size.min(have + PIECE);
            let piece = self.piece(have..end, &|new| tell(have + new))?;
            file.write_all(&piece).and_then(|()| file.sync_data()).map_err(HubError::io(partial))?;
            have = end;
            tell(have);
        }
        file.sync_all().map_err(HubError::io(partial))
    }

    /// One piece, asked for again if the connection breaks.
    fn piece(&self, range: std::ops::Range<u64>, report: &dyn Fn(u64)) -> Result<Vec<u8>, HubError> {
        let whole = range == (0..self.entry.size);
        let wanted = range.end - range.start;
        let mut wait = WAIT;
        for _ in 1..TRIES {
            let got = self.remote.piece(&self.entry.path, self.commit, (!whole).then_some(range.clone()), report);
            match got {
                Ok(bytes) if bytes.len() as u64 == wanted => return Ok(bytes),
                Ok(bytes) => tracing::debug!(file = self.entry.path, wanted, got = bytes.len(), "short piece"),
                Err(HubError::Request { cause, .. }) if is_broken(&cause) => {
                    tracing::debug!(file = self.entry.path, %cause, "broken piece");
                }
                Err(other) => return Err(other),
            }
            std::thread::sleep(wait);
            wait *= 2;
        }
        let last = self.remote.piece(&self.entry.path, self.commit, (!whole).then_some(range), report)?;
        if last.len() as u64 == wanted { Ok(last) } else { Err(self.damaged(size(wanted), size(last.len() as u64))) }
    }

    /// The name that huggingface_hub gives the content, SHA-256 of large files and git's of others, if it is the one listed.
    fn check(&self, partial: &Path) -> Result<String, HubError> {
        let Entry { oid, size, large, .. } = self.entry;
        let etag = if *large {
            Fingerprint::of_file(partial).map(|digest| digest.as_str().to_owned())
        } else {
            git::blob_of_file(partial)
        };
        let etag = etag.map_err(HubError::io(partial))?;
        let got = if *large { git::blob(git::pointer(&etag, *size).as_bytes()) } else { etag.clone() };
        if got == *oid {
            return Ok(etag);
        }
        let what = if *large { "a pointer with the SHA-1" } else { "git's SHA-1" };
        Err(self.damaged(format!("{what} {oid}"), got))
    }

    fn damaged(&self, want: String, got: String) -> HubError {
        HubError::Damaged { at: self.at.file(&self.entry.path), want, got }
    }
}

/// Whether the client's error is of a connection, so that another try may do.
fn is_broken(cause: &hf_hub::HFError) -> bool {
    matches!(cause, hf_hub::HFError::Request { .. } | hf_hub::HFError::Xet { .. } | hf_hub::HFError::Io(_))
}

fn size(bytes: u64) -> String {
    format!("{bytes} bytes ({})", Bytes(bytes))
}
