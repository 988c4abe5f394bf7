//! Large files go to the storage ahead of the commit that names them, piece by piece.
//!
//! The storage counts blocks as there only once an index of them, a shard, has come, and the client sends one at the end of all
//! files. So each piece is a file of its own here, with its own index, and the commit then finds its chunks in the
//! storage and sends none again, but for the two at a cut. What breaks costs the piece under way.

use std::error::Error;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use hf_hub::{HFError, RepoTypeModel, XetOperation};
use xet::xet_session::{HeaderMap, HeaderValue, Sha256Policy, XetSession, XetSessionBuilder, XetUploadCommit, header};

use super::{Remote, watched};
use crate::HubError;

/// Bytes of a piece: two of the storage's largest blocks, which go side by side.
const PIECE: u64 = 128 << 20;
/// The Hub keeps files below that in git itself.
const LARGE: u64 = 10 << 20;
/// Bytes read at a time.
const READ: u64 = 4 << 20;

impl Remote<RepoTypeModel> {
    /// Sends those of `files` (with their sizes) that the Hub keeps outside of git, if they are more than one piece in all. Tells
    /// `report` how many of their bytes are there.
    pub(crate) fn send_ahead(
        &self,
        files: &[(PathBuf, u64)],
        token: &str,
        report: &dyn Fn(u64),
    ) -> Result<(), HubError> {
        let large = || files.iter().filter(|(_, bytes)| *bytes >= LARGE);
        if large().map(|(_, bytes)| bytes).sum::<u64>() <= PIECE {
            return Ok(());
        }
        let session = XetSessionBuilder::new().build().map_err(|cause| self.broken(XetOperation::Session, cause))?;
        let mut sent = 0;
        for (path, bytes) in large() {
            for from in (0..*bytes).step_by(PIECE as usize) {
                let length = PIECE.min(bytes - from);
                let commit = self.piece_commit(&session, token)?;
                let seen = || commit.progress().total_bytes_completed.min(length);
                let stored = watched(&seen, &|done| report(sent + done), || store(&commit, path, from, length));
                stored.map_err(|broken| match broken {
                    Broken::Read(cause) => HubError::io(path)(cause),
                    Broken::Sent(cause) => self.broken(XetOperation::Upload, cause),
                })?;
                sent += length;
                report(sent);
            }
        }
        Ok(())
    }

    /// A commit to the storage; where that is and who may write, the client asks the Hub.
    fn piece_commit(&self, session: &XetSession, token: &str) -> Result<XetUploadCommit, HubError> {
        let address = format!("{}/api/models/{}/xet-write-token/main", self.endpoint, self.at.id);
        let mut bearer = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_bad: _| HubError::Token)?;
        bearer.set_sensitive(true);
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, bearer)]);
        let builder = session.new_upload_commit().map_err(|cause| self.broken(XetOperation::Session, cause))?;
        let built = builder.with_token_refresh_url(address, headers).build_blocking();
        built.map_err(|cause| self.broken(XetOperation::Upload, cause))
    }

    fn broken(&self, what: XetOperation, cause: impl Error + Send + Sync + 'static) -> HubError {
        self.explain(HFError::xet(what, cause))
    }
}

enum Broken {
    Read(std::io::Error),
    Sent(xet::error::XetError),
}

impl From<std::io::Error> for Broken {
    fn from(cause: std::io::Error) -> Self {
        Self::Read(cause)
    }
}

impl From<xet::error::XetError> for Broken {
    fn from(cause: xet::error::XetError) -> Self {
        Self::Sent(cause)
    }
}

/// Sends `length` bytes of `path` and their index.
fn store(commit: &XetUploadCommit, path: &Path, from: u64, length: u64) -> Result<(), Broken> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut rest = file.take(length);
    let stream = commit.upload_stream_blocking(None, Sha256Policy::Skip)?;
    loop {
        let mut bytes = Vec::new();
        if rest.by_ref().take(READ).read_to_end(&mut bytes)? == 0 {
            break;
        }
        stream.write_blocking(bytes)?;
    }
    stream.finish_blocking()?;
    commit.commit_blocking()?;
    Ok(())
}
