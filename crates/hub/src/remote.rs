//! Questions to the Hub, and what its refusals mean.

mod ahead;
mod upload;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use hf_hub::progress::{DownloadEvent, ProgressEvent, ProgressHandler, UploadEvent};
use hf_hub::repository::RepoTreeEntry;
use hf_hub::{
    HFClientBuilder, HFClientSync, HFError, HFRepositorySync, RepoType, RepoTypeDataset, RepoTypeModel, split_id,
};

use crate::cache::is_commit;
use crate::error::Location;
use crate::{HubError, HubSettings};

/// How often a transfer tells how far it is.
const TICK: Duration = Duration::from_millis(100);

/// The client takes its own token from the environment if it is given none. No HTTP header can hold this one, so none
/// is sent: what `HubSettings` says is all there is.
const NO_TOKEN: &str = "\0";

/// A file in a repository, as the Hub lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) path: String,
    pub(crate) size: u64,
    /// Its name in git: of the file, or of the pointer that stands for a large one.
    pub(crate) oid: String,
    /// Whether it is kept outside of git.
    pub(crate) large: bool,
}

/// One repository on the Hub.
pub(crate) struct Remote<T: RepoType> {
    endpoint: String,
    client: HFClientSync,
    repository: HFRepositorySync<T>,
    at: Location,
    has_token: bool,
}

impl<T: RepoType> Remote<T> {
    /// The repository that `at` names. Downloads go to `staging`.
    pub(crate) fn new(settings: &HubSettings, at: Location, staging: &Path) -> Result<Self, HubError> {
        let token = settings.token.as_deref();
        if token.is_some_and(|token| !token.chars().all(|c| c.is_ascii_graphic())) {
            return Err(HubError::Token);
        }
        let mut builder = HFClientBuilder::new()
            .cache_dir(staging)
            .user_agent(concat!("taper/", env!("CARGO_PKG_VERSION")))
            .token(token.unwrap_or(NO_TOKEN));
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.endpoint(endpoint);
        }
        let has_token = token.is_some();
        let explained = |cause| explain(at.boxed(), has_token, cause);
        let client = builder.build().map_err(explained)?;
        let endpoint = client.endpoint().to_owned();
        let client = HFClientSync::from_inner(client).map_err(explained)?;
        let (owner, name) = split_id(&at.id);
        let repository = client.repository(T::default(), owner, name);
        Ok(Self { endpoint, client, repository, at, has_token })
    }

    /// The files at the top of the repository.
    pub(crate) fn list(&self, commit: &str) -> Result<Vec<Entry>, HubError> {
        let listed = self.repository.list_tree().revision(commit).send();
        let listed = listed.map_err(|cause| explain(self.at.boxed(), self.has_token, cause))?;
        Ok(listed.into_iter().filter_map(entry).collect())
    }

    /// One file, wherever in the repository.
    pub(crate) fn find(&self, commit: &str, file: &str) -> Result<Entry, HubError> {
        let at = self.at.file(file);
        let found = self.repository.get_paths_info().paths(vec![file.to_owned()]).revision(commit).send();
        let found = found.map_err(|cause| explain(at.clone(), self.has_token, cause))?;
        let found = found.into_iter().filter_map(entry).find(|entry| entry.path == file);
        found.ok_or(HubError::NoFile { at, advice: "" })
    }

    /// A piece of a file, or all of it, and tells `report` how many of its bytes are there.
    pub(crate) fn piece(
        &self,
        file: &str,
        commit: &str,
        range: Option<Range<u64>>,
        report: &dyn Fn(u64),
    ) -> Result<Vec<u8>, HubError> {
        let counter = Arc::new(Counter(AtomicU64::new(0)));
        let request = self.repository.download_file_to_bytes().filename(file).revision(commit).maybe_range(range);
        let request = request.progress(Arc::clone(&counter));
        let got = watched(&|| counter.seen(), report, move || request.send());
        got.map(Vec::from).map_err(|cause| explain(self.at.file(file), self.has_token, cause))
    }

    fn commit(&self, answer: Result<Option<String>, HFError>) -> Result<String, HubError> {
        let commit = answer.map_err(|cause| explain(self.at.boxed(), self.has_token, cause))?;
        commit
            .filter(|commit| is_commit(commit))
            .ok_or_else(|| HubError::Answer { at: self.at.boxed(), reason: "it names no full commit".to_owned() })
    }
}

impl Remote<RepoTypeModel> {
    /// The commit that the revision has now.
    pub(crate) fn resolve(&self) -> Result<String, HubError> {
        let info = self.repository.info().revision(&self.at.revision).expand(vec!["sha".to_owned()]).send();
        self.commit(info.map(|info| info.sha))
    }
}

impl Remote<RepoTypeDataset> {
    /// The commit that the revision has now.
    pub(crate) fn resolve(&self) -> Result<String, HubError> {
        let info = self.repository.info().revision(&self.at.revision).expand(vec!["sha".to_owned()]).send();
        self.commit(info.map(|info| info.sha))
    }
}

fn entry(listed: RepoTreeEntry) -> Option<Entry> {
    match listed {
        RepoTreeEntry::File { path, size, oid, lfs, .. } => Some(Entry { path, size, oid, large: lfs.is_some() }),
        RepoTreeEntry::Directory { .. } => None,
    }
}

/// Runs the transfer `work` and tells `report` on the way how many bytes it has `seen`.
fn watched<R: Send>(seen: &dyn Fn() -> u64, report: &dyn Fn(u64), work: impl FnOnce() -> R + Send) -> R {
    let (running, over) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let worker = scope.spawn(move || {
            let _running = running;
            work()
        });
        while over.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
            report(seen());
        }
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The most bytes seen of a transfer.
struct Counter(AtomicU64);

impl Counter {
    fn seen(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl ProgressHandler for Counter {
    fn on_progress(&self, event: &ProgressEvent) {
        let done = match event {
            ProgressEvent::Download(DownloadEvent::Progress { files }) => {
                files.iter().map(|file| file.bytes_completed).max().unwrap_or(0)
            }
            ProgressEvent::Download(DownloadEvent::AggregateProgress { bytes_completed, .. })
            | ProgressEvent::Upload(UploadEvent::Progress { bytes_completed, .. }) => *bytes_completed,
            _ => 0,
        };
        self.0.fetch_max(done, Ordering::Relaxed);
    }
}

/// The client's error in our words.
fn explain(at: Box<Location>, has_token: bool, cause: HFError) -> HubError {
    let context = match &cause {
        HFError::Http { context }
        | HFError::AuthRequired { context }
        | HFError::Forbidden { context }
        | HFError::Conflict { context } => Some(context),
        HFError::RepoNotFound { context, .. }
        | HFError::RevisionNotFound { context, .. }
        | HFError::EntryNotFound { context, .. } => context.as_ref(),
        _ => None,
    };
    let status = context.map_or(0, |context| context.status.as_u16());
    let code = context.and_then(|context| context.error_code.as_deref()).unwrap_or_default();
    let message = context.and_then(|context| context.server_message.as_deref()).map(line).unwrap_or_default();
    match (&cause, code, status) {
        (_, "GatedRepo", _) => HubError::Denied { at, status, message, advice: gated(has_token) },
        (_, "RepoNotFound", _) => HubError::NotFound { at, message },
        (_, "RevisionNotFound", _) => HubError::NoRevision { at },
        (HFError::EntryNotFound { .. }, _, 0 | 404) | (_, "EntryNotFound", _) => HubError::NoFile { at, advice: "" },
        (_, _, 401 | 403) => HubError::Denied { at, status, message, advice: denied(has_token) },
        (_, _, 404) => HubError::NotFound { at, message },
        (HFError::RateLimited { retry_after, .. }, _, _) => HubError::Busy { at, after: *retry_after, has_token },
        (HFError::Conflict { .. }, _, _) => HubError::Moved { at, message },
        _ => HubError::Request { at, cause: Box::new(cause) },
    }
}

fn gated(has_token: bool) -> &'static str {
    if has_token {
        "it is gated: accept its licence on its page, with the account that the token in HF_TOKEN belongs to"
    } else {
        "it is gated: accept its licence on its page, then set HF_TOKEN to a token of that account"
    }
}

fn denied(has_token: bool) -> &'static str {
    if has_token {
        "the token in HF_TOKEN or the token file is expired or may not read this"
    } else {
        "the name is misspelt, or it is private or gated: then accept its licence on its page and set HF_TOKEN"
    }
}

/// The start of what a server said, as one line.
fn line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().filter(|c| !c.is_control()).take(200).collect()
}
