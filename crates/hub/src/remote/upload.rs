//! What publishing asks of the Hub.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use hf_hub::repository::CommitOperation;
use hf_hub::{HFError, RepoTypeModel};

use super::{Counter, Entry, Remote, entry, explain, watched};
use crate::HubError;

impl Remote<RepoTypeModel> {
    /// Creates the repository, unless it is there. Its page.
    pub(crate) fn create(&self, private: bool) -> Result<String, HubError> {
        let create = self.client.create_repository().repo_id(&self.at.id).repo_type(RepoTypeModel);
        let created = create.private(private).exist_ok(true).send();
        created.map(|created| created.url).map_err(|cause| self.explain(cause))
    }

    /// Whether everybody may read it.
    pub(crate) fn is_public(&self) -> Result<bool, HubError> {
        let info = self.repository.info().revision(&self.at.revision).expand(vec!["private".to_owned()]).send();
        Ok(info.map_err(|cause| self.explain(cause))?.private == Some(false))
    }

    /// What its card says of its licence.
    pub(crate) fn licence(&self) -> Result<Option<String>, HubError> {
        let info = self.repository.info().revision(&self.at.revision).expand(vec!["cardData".to_owned()]).send();
        let card = info.map_err(|cause| self.explain(cause))?.card_data;
        Ok(card.and_then(|card| card.get("license").and_then(|licence| licence.as_str().map(str::to_owned))))
    }

    /// All files of the repository.
    pub(crate) fn list_all(&self, commit: &str) -> Result<Vec<Entry>, HubError> {
        let listed = self.repository.list_tree().revision(commit).recursive(true).send();
        Ok(listed.map_err(|cause| self.explain(cause))?.into_iter().filter_map(entry).collect())
    }

    /// One commit of `operations` on top of `parent`, and tells `report` how many bytes are there. Its id.
    pub(crate) fn commit_files(
        &self,
        operations: Vec<CommitOperation>,
        (message, parent): (&str, &str),
        report: &dyn Fn(u64),
    ) -> Result<String, HubError> {
        let counter = Arc::new(Counter(AtomicU64::new(0)));
        let commit = self.repository.create_commit().operations(operations).commit_message(message);
        let commit = commit.revision(&self.at.revision).parent_commit(parent).progress(Arc::clone(&counter));
        let committed = watched(&|| counter.seen(), report, move || commit.send());
        self.commit(committed.map(|committed| committed.commit_oid))
    }

    pub(super) fn explain(&self, cause: HFError) -> HubError {
        explain(self.at.boxed(), self.has_token, cause)
    }
}
