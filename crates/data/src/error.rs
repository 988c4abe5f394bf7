//! What can go wrong between a file and a batch of tokens or images.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use parquet::errors::ParquetError;

use crate::Split;

/// Why text or tokens could not be had. `at` names the file and the line, row or column in it.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file or folder is missing or unreadable.
    #[error("{}: cannot be read", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system says.
        #[source]
        cause: io::Error,
    },
    /// A file whose name does not say how to read it.
    #[error("{}: text is read from .txt, .jsonl and .parquet files, and this name ends in none of them", path.display())]
    Format {
        /// The file.
        path: PathBuf,
    },
    /// A file of documents with fields whose name does not say how to read it.
    #[error("{}: documents are read from .jsonl, .json and .parquet files", path.display())]
    RecordFormat {
        /// The file.
        path: PathBuf,
    },
    /// A value that documents cannot have.
    #[error("{at}: `{field}` is {found}, wanted text, a number, true or false, or a list or an object of those")]
    Value {
        /// The file and row.
        at: String,
        /// The field.
        field: String,
        /// What it holds.
        found: String,
    },
    /// A text that has nothing for training.
    #[error("{text}: no document to train on")]
    NothingToTrain {
        /// Its name.
        text: String,
    },
    /// A folder without a single file of text.
    #[error("{}: no .txt, .jsonl or .parquet file among its {entries} entries; subfolders are not searched", path.display())]
    EmptyFolder {
        /// The folder.
        path: PathBuf,
        /// How many files and folders it holds.
        entries: usize,
    },
    /// Bytes that are no UTF-8.
    #[error("{at}: invalid UTF-8 at byte {offset}")]
    Utf8 {
        /// The file, line or row.
        at: String,
        /// Where in the file (parquet: in the value) the first bad byte stands, counted from 0.
        offset: u64,
    },
    /// A line or file that is no JSON of the kind wanted.
    #[error("{at}: {reason}")]
    Json {
        /// The file, and line and column where they are known.
        at: String,
        /// What is wrong.
        reason: String,
    },
    /// No such field in an object, or no such column.
    #[error("{at}: no field `{field}`{hint}; there are: {known}")]
    MissingField {
        /// The file or line.
        at: String,
        /// The field asked for.
        field: String,
        /// ", did you mean `x`?" or nothing.
        hint: String,
        /// The names that exist.
        known: String,
    },
    /// A field or column that holds something else than text. Null counts as such: a silent gap would hide a broken export.
    #[error("{at}: `{field}` is {found}, wanted text")]
    NotText {
        /// The file, line or row.
        at: String,
        /// The field or column.
        field: String,
        /// What it holds.
        found: String,
    },
    /// A damaged parquet file, or one compressed in a way that is not built in.
    #[error("{}: not a readable parquet file", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What the parquet reader says.
        #[source]
        cause: ParquetError,
    },
    /// A parquet file so damaged that its reader gave up.
    #[error("{}: damaged parquet file: {reason}", path.display())]
    DamagedParquet {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Files that hold nothing but separators and white space.
    #[error("{text}: no document in it")]
    NoDocuments {
        /// The files.
        text: String,
    },
    /// Shares of the splits that are no shares.
    #[error("shares of calibration {calibration}, validation {validation} and test {test}: {reason}")]
    Shares {
        /// Share of the calibration split.
        calibration: f64,
        /// Share of the search's validation split.
        validation: f64,
        /// Share of the test split.
        test: f64,
        /// What is wrong.
        reason: &'static str,
    },
    /// A model folder without `tokenizer.json`.
    #[error("{}: no tokenizer.json; older formats are converted with transformers: AutoTokenizer.from_pretrained(…).save_pretrained(…)", dir.display())]
    NoTokenizer {
        /// The folder.
        dir: PathBuf,
    },
    /// A model folder without a chat template.
    #[error("{}: no chat template, neither `chat_template` in tokenizer_config.json nor a chat_template.jinja", dir.display())]
    NoChatTemplate {
        /// The folder.
        dir: PathBuf,
    },
    /// No chat template of this name.
    #[error("{}: no chat template `{name}`; there are: {known}", dir.display())]
    ChatTemplateName {
        /// The folder.
        dir: PathBuf,
        /// The name asked for.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// A `tokenizer.json` that the tokenizers library refuses.
    #[error("{}: not a readable tokenizer", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What the library says.
        #[source]
        cause: Box<dyn Error + Send + Sync>,
    },
    /// A begin or end token that the tokenizer does not have.
    #[error("{}: `{key}` is {token}, which is not in the tokenizer's vocabulary", path.display())]
    UnknownToken {
        /// The file that names it.
        path: PathBuf,
        /// Under which key.
        key: String,
        /// The token's text or id.
        token: String,
    },
    /// The tokenizer failed on a text or on ids.
    #[error("{}: cannot {action}", path.display())]
    Tokenize {
        /// The tokenizer's file.
        path: PathBuf,
        /// "encode" or "decode", and what.
        action: String,
        /// What the library says.
        #[source]
        cause: Box<dyn Error + Send + Sync>,
    },
    /// A batch without a sequence, or with sequences without a token, or with more tokens than can be counted.
    #[error("{sequences} sequences of {length} tokens are no batch")]
    Shape {
        /// How many sequences.
        sequences: usize,
        /// How many tokens each.
        length: usize,
    },
    /// A split that holds too little text.
    #[error(
        "{text}: the {split} split gives {found} tokens ({documents} of {all} documents), wanted {wanted}; \
         add text, raise the split's share or ask for fewer tokens"
    )]
    TooShort {
        /// The files.
        text: String,
        /// The split.
        split: Split,
        /// Tokens wanted.
        wanted: usize,
        /// Tokens there are.
        found: usize,
        /// Documents of the split.
        documents: usize,
        /// Documents of all splits.
        all: usize,
    },
    /// Explicit ids that are too few.
    #[error("{found} token ids given, wanted {wanted}")]
    TooFewIds {
        /// Tokens wanted.
        wanted: usize,
        /// Tokens there are.
        found: usize,
    },
    /// A token id that the model has no embedding for.
    #[error("{}: id {id} at place {place} (counted from 0) is outside the vocabulary of {vocabulary}", path.display())]
    OutsideVocabulary {
        /// The file.
        path: PathBuf,
        /// The place in the list.
        place: usize,
        /// The id.
        id: u64,
        /// One more than the largest id allowed.
        vocabulary: usize,
    },
    /// Windows that cannot score a token, or would skip some.
    #[error(
        "a window of {window} tokens moved by {stride}: wanted a window of at least 2 and a stride from 1 to the window"
    )]
    Window {
        /// Tokens a window.
        window: usize,
        /// Tokens from one window's start to the next.
        stride: usize,
    },
    /// A file that is no image, or of a kind that is not read.
    #[error("{image}: not an image; JPEG, PNG and WebP are read, and this begins with {found}")]
    ImageFormat {
        /// The file, or the row.
        image: String,
        /// Its first bytes.
        found: String,
    },
    /// An image without pixels, or with too many.
    #[error("{image}: {height} x {width} pixels, wanted at least one and at most {limit}")]
    ImageSize {
        /// The file, or the row.
        image: String,
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
        /// The most pixels allowed.
        limit: usize,
    },
    /// A damaged image.
    #[error("{image}: not a readable {format} image")]
    DamagedImage {
        /// The file, or the row.
        image: String,
        /// What it begins as.
        format: &'static str,
        /// What the decoder says.
        #[source]
        cause: Box<dyn Error + Send + Sync>,
    },
    /// An image that would become too large.
    #[error("{} x {} pixels resized to {} x {}, wanted at most {limit}", from[0], from[1], to[0], to[1])]
    ResizedImage {
        /// Rows and columns it has.
        from: [usize; 2],
        /// Rows and columns it would have.
        to: [usize; 2],
        /// The most pixels allowed.
        limit: usize,
    },
    /// A key of an image processor's configuration that makes no sense, or asks for what is not there.
    #[error("{at}: `{key}` is {found}, wanted {wanted}")]
    ImageKey {
        /// The file.
        at: Box<str>,
        /// The key.
        key: Box<str>,
        /// What it holds.
        found: Box<str>,
        /// What it should hold.
        wanted: Box<str>,
    },
    /// A set of images that is not as it should be.
    #[error("{at}: {reason}")]
    ImageSet {
        /// The file or folder, and line or row where they are known.
        at: String,
        /// What is wrong.
        reason: String,
    },
    /// Images that a batch cannot hold together.
    #[error("{image}: {} x {} pixels, but {} x {} in the same batch", found[0], found[1], wanted[0], wanted[1])]
    UnequalImages {
        /// The image.
        image: String,
        /// Its rows and columns.
        found: [usize; 2],
        /// Those of the first image.
        wanted: [usize; 2],
    },
}

impl DataError {
    /// For `map_err`: what the system said of `path`.
    pub(crate) fn read(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |cause| Self::Read { path, cause }
    }

    /// A name that is not among those that exist.
    pub(crate) fn missing_field<'a>(at: String, field: &str, known: impl Iterator<Item = &'a str> + Clone) -> Self {
        let hint = taper_base::registry::did_you_mean(field, known.clone());
        let known = known.collect::<Vec<_>>();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Self::MissingField { at, field: field.to_owned(), hint, known }
    }
}

/// What `serde_json` found wrong, without the line it counts (always 1 where a line is parsed alone) and with the column apart.
pub(crate) fn json_reason(cause: &serde_json::Error) -> String {
    let text = cause.to_string();
    let place = format!(" at line {} column {}", cause.line(), cause.column());
    text.strip_suffix(&place).unwrap_or(&text).to_owned()
}
