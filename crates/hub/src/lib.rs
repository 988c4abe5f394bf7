//! Checkpoints from the Hub or a folder, and the layouts that stock engines load.
//!
//! [`ModelSource`] (what a user writes) → [`fetch_model`] → [`LocalModel`] (a folder). The cache is huggingface_hub's.

mod error;
pub mod export;
mod fetch;
pub mod layouts;
mod settings;
mod source;

pub use error::HubError;
pub use fetch::{LocalModel, fetch_dataset_file, fetch_dataset_file_with, fetch_model, fetch_model_with};
pub use settings::HubSettings;
pub use source::ModelSource;
