//! Checkpoints from the Hub.
//!
//! [`fetch_model`] turns what a recipe says ([`ModelSource`]) into a folder on this machine. Environment
//! variables and the cache are those of huggingface_hub, so both share downloads.

mod cache;
mod error;
mod fetch;
mod git;
mod publish;
mod remote;
mod settings;
mod source;
mod transfer;

pub use error::{HubError, Location};
pub use fetch::{LocalModel, fetch_dataset_file, fetch_model};
pub use publish::{Content, Publication, Published, files_of, licence, publish};
pub use settings::HubSettings;
pub use source::ModelSource;
