//! What can go wrong with a task, by name of task, document and field.

use std::path::PathBuf;

/// Why tasks could not be evaluated.
#[derive(Debug, thiserror::Error)]
pub enum HarnessError {
    /// A task file that is not one.
    #[error("{at}: {reason}")]
    TaskFile {
        /// File and line.
        at: String,
        /// What is wrong.
        reason: String,
    },
    /// A file or folder that cannot be read.
    #[error("{}: cannot be read", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system says.
        #[source]
        cause: std::io::Error,
    },
    /// No such task.
    #[error("unknown task `{name}`{hint}; `taper tasks` lists them")]
    Unknown {
        /// The name given.
        name: String,
        /// ", did you mean `x`?" or nothing.
        hint: String,
    },
    /// Data of a task that cannot be read.
    #[error("task {task}, split {split}")]
    Documents {
        /// Which task.
        task: String,
        /// Which split.
        split: String,
        /// What is wrong.
        #[source]
        cause: Box<taper_data::DataError>,
    },
    /// Data of a task that cannot be fetched.
    #[error("task {task}, split {split}")]
    Fetch {
        /// Which task.
        task: String,
        /// Which split.
        split: String,
        /// What the Hub or the cache says.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A split without documents.
    #[error("task {task}, split {split}: no document in it{of}")]
    NoDocuments {
        /// Which task.
        task: String,
        /// Which split.
        split: String,
        /// " with subject = x" or nothing.
        of: String,
    },
    /// A document that the task cannot be applied to.
    #[error("task {task}, document {document} of {split}, {field}: {reason}")]
    Document {
        /// Which task.
        task: String,
        /// Which split.
        split: String,
        /// Its number, from 0.
        document: usize,
        /// Which key of the task.
        field: String,
        /// What is wrong.
        reason: String,
    },
    /// Shots that cannot be had.
    #[error("task {task}: {asked} shots, but the split {split} has {found} documents to choose from")]
    Shots {
        /// Which task.
        task: String,
        /// Of which split.
        split: String,
        /// How many were asked for.
        asked: usize,
        /// How many there are.
        found: usize,
    },
    /// Text that the tokenizer does not take.
    #[error("task {task}")]
    Tokenize {
        /// Which task.
        task: String,
        /// What is wrong.
        #[source]
        cause: taper_data::DataError,
    },
    /// A tokenizer without a token that a text could start with.
    #[error("the tokenizer has neither a begin nor an end token, one of which stands before a text")]
    NoPrefix,
    /// Chat templates that cannot be read, or none.
    #[error("--apply-chat-template")]
    Chat {
        /// What is wrong.
        #[source]
        cause: taper_data::DataError,
    },
    /// A chat template that is none.
    #[error("{}: chat template: {reason}", dir.display())]
    ChatTemplate {
        /// The model's folder.
        dir: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A model that overflows.
    #[error("task {task}, document {document}: the model's answer is infinite or NaN")]
    NotFinite {
        /// Which task.
        task: String,
        /// Its number, from 0.
        document: usize,
    },
    /// The forward pass.
    #[error("answers of the model")]
    Model {
        /// Where, and why.
        #[source]
        cause: taper_model::ModelError,
    },
    /// The file of answers.
    #[error("{}: answers cannot be kept", path.display())]
    Store {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        #[source]
        cause: rusqlite::Error,
    },
}

impl From<taper_model::ModelError> for HarnessError {
    fn from(cause: taper_model::ModelError) -> Self {
        Self::Model { cause }
    }
}
