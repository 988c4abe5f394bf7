//! Text, tokens and images, and disjoint splits of them.
//!
//! [`TextSource`] (what a recipe says) → [`Documents`] → one [`Split`] of them → [`Tokens`] [`pack()`]ed for calibration
//! and search, or [`windows`] over all tokens for perplexity. Knows nothing of models beyond the tokenizer's files and
//! those that say what is done to an image; [`images`] is their side.

mod chat;
mod documents;
mod error;
mod feed;
mod ids;
pub mod images;
mod pack;
mod read;
mod records;
mod source;
mod special;
mod split;
mod tokenize;
mod tokens;
pub mod windows;

pub use chat::ChatTemplates;
pub use documents::Documents;
pub use error::DataError;
pub use feed::{Cursor, Feed, FeedText, Packed};
pub use ids::read_ids;
pub use pack::{Pack, pack};
pub use records::{Record, read_records};
pub use source::TextSource;
pub use special::SpecialTokens;
pub use split::{Shares, Split};
pub use tokenize::TextTokenizer;
pub use tokens::{Tokens, ids_fingerprint};
pub use windows::Window;
