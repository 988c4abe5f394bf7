//! How stock engines are told what a cut model looks like. One file an engine; `README.md` names every key written.

mod transformers;

pub use transformers::{Layout, transformers};
