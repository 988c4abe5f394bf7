//! The teacher's likeliest tokens for every token of a training, on disk: written once, so that no step runs the teacher.
//!
//! Token `t` of the training has `8 · top` bytes from byte `8 · top · t` on: the ids of its `top` likeliest tokens, then the
//! logarithms of their probabilities, 32 bits each, little-endian. Numbers are those that the teacher gives when it is run, so a
//! training comes to the same bits with and without.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use taper_base::{Fingerprint, files};

use crate::error::{HealError, Result, file};
use crate::guide::Top;

/// A file of a teacher's likeliest tokens.
pub(crate) struct Cache {
    path: PathBuf,
    file: Mutex<File>,
    top: usize,
    tokens: u64,
}

/// Bytes of the likeliest tokens of one token.
pub(crate) fn bytes_per_token(top: usize) -> u64 {
    8 * top as u64
}

impl Cache {
    /// Opens or begins the cache in the folder `dir` for `tokens` tokens; `identity` is of all that its numbers depend on.
    ///
    /// # Errors
    /// [`HealError::File`], [`HealError::Other`] if it holds another training's.
    pub(crate) fn open(dir: &Path, identity: &Fingerprint, top: usize, tokens: u64) -> Result<Self> {
        let (mark, path) = (dir.join("teacher.json"), dir.join("teacher.bin"));
        match std::fs::read(&mark) {
            Ok(bytes) if serde_json::from_slice(&bytes).ok().as_ref() == Some(identity) => {}
            Ok(_) => return Err(HealError::Other { path: mark, key: "the teacher's cache".to_owned() }),
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
                if path.exists() {
                    std::fs::remove_file(&path).map_err(file(&path))?;
                }
                files::write_json(&mark, identity).map_err(file(&mark))?;
            }
            Err(cause) => return Err(HealError::File { path: mark, cause }),
        }
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        Ok(Self { file: Mutex::new(opened.map_err(file(&path))?), path, top, tokens })
    }

    /// Whole tokens in it; what a kill left of one beyond is cut off.
    pub(crate) fn known(&self) -> Result<u64> {
        let wrap = || file(&self.path);
        let opened = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let length = opened.metadata().map_err(wrap())?.len();
        let known = (length / bytes_per_token(self.top)).min(self.tokens);
        opened.set_len(known * bytes_per_token(self.top)).map_err(wrap())?;
        Ok(known)
    }

    /// Cuts it to `tokens` tokens.
    pub(crate) fn cut(&self, tokens: u64) -> Result<()> {
        let opened = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        opened.set_len(tokens * bytes_per_token(self.top)).map_err(file(&self.path))
    }

    /// Puts the tokens `from..` there.
    pub(crate) fn append(&self, from: u64, top: &Top) -> Result<()> {
        let mut bytes = Vec::with_capacity(8 * top.ids.len());
        for (ids, logs) in top.ids.chunks(self.top).zip(top.log_probabilities.chunks(self.top)) {
            ids.iter().for_each(|id| bytes.extend(id.to_le_bytes()));
            logs.iter().for_each(|log| bytes.extend(log.to_le_bytes()));
        }
        let mut opened = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let written =
            opened.seek(SeekFrom::Start(from * bytes_per_token(self.top))).and_then(|_| opened.write_all(&bytes));
        written.and_then(|()| opened.sync_data()).map_err(file(&self.path))
    }

    /// The likeliest tokens of `count` tokens from `from` on.
    ///
    /// # Errors
    /// [`HealError::Damaged`] if they are not there.
    pub(crate) fn read(&self, from: u64, count: usize) -> Result<Top> {
        let mut bytes = vec![0; count * 8 * self.top];
        let mut opened = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let read =
            opened.seek(SeekFrom::Start(from * bytes_per_token(self.top))).and_then(|_| opened.read_exact(&mut bytes));
        read.map_err(|cause| HealError::Damaged {
            path: self.path.clone(),
            reason: format!("tokens {from} to {} cannot be read: {cause}", from + count as u64),
        })?;
        let mut top = Top::default();
        for token in bytes.chunks(8 * self.top) {
            let (ids, logs) = token.split_at(4 * self.top);
            let words =
                |bytes: &[u8]| -> Vec<[u8; 4]> { bytes.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]).collect() };
            top.ids.extend(words(ids).into_iter().map(u32::from_le_bytes));
            top.log_probabilities.extend(words(logs).into_iter().map(f32::from_le_bytes));
        }
        Ok(top)
    }
}
