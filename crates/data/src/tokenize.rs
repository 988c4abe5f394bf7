//! Text to token ids and back, with a checkpoint's `tokenizer.json`.

use std::fs;
use std::path::{Path, PathBuf};

use tokenizers::{ModelWrapper, Tokenizer};

use crate::{DataError, SpecialTokens};

/// Texts encoded by one call into the tokenizers library, which keeps more than the ids of each until the call returns.
const BATCH: usize = 512;

/// A checkpoint's tokenizer. The same text always gives the same ids: what `tokenizer.json` says of truncation, padding and
/// BPE dropout is for training and switched off.
#[derive(Debug, Clone)]
pub struct TextTokenizer {
    path: PathBuf,
    tokenizer: Tokenizer,
    special: SpecialTokens,
    vocabulary: usize,
}

impl TextTokenizer {
    /// The tokenizer in the model folder `dir`.
    ///
    /// # Errors
    /// [`DataError::NoTokenizer`], [`DataError::Tokenizer`], and what is wrong with the files [`SpecialTokens`] come from.
    pub fn load(dir: &Path) -> Result<Self, DataError> {
        let path = dir.join("tokenizer.json");
        if dir.is_dir() && !path.exists() {
            return Err(DataError::NoTokenizer { dir: dir.to_owned() });
        }
        let bytes = fs::read(&path).map_err(DataError::read(&path))?;
        let refuse = |cause| DataError::Tokenizer { path: path.clone(), cause };
        let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(refuse)?;
        tokenizer.with_padding(None).with_truncation(None).map_err(refuse)?;
        if let ModelWrapper::BPE(bpe) = tokenizer.get_model()
            && bpe.dropout.is_some()
        {
            let mut bpe = bpe.clone();
            bpe.dropout = None;
            tokenizer.with_model(bpe);
        }
        let special = SpecialTokens::load(dir, &tokenizer)?;
        let vocabulary = tokenizer.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1);
        Ok(Self { path, tokenizer, special, vocabulary })
    }

    /// The ids of `text`. `add_special` adds what the tokenizer puts around a text (Llama: the begin token; Qwen: nothing).
    ///
    /// # Errors
    /// [`DataError::Tokenize`] if the tokenizer has no token for a part of the text, not even an unknown one.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, DataError> {
        let encoding =
            self.tokenizer.encode_fast(text, add_special).map_err(|cause| self.failed("encode the text", cause))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The ids of each of `texts`, in their order, on all cores. Exactly what [`encode`](Self::encode) gives one by one.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_batch(&self, texts: &[&str], add_special: bool) -> Result<Vec<Vec<u32>>, DataError> {
        let mut ids = Vec::with_capacity(texts.len());
        for texts in texts.chunks(BATCH) {
            let encodings = self.tokenizer.encode_batch_fast(texts.to_vec(), add_special);
            let encodings = encodings.map_err(|cause| self.failed("encode the text", cause))?;
            ids.extend(encodings.iter().map(|encoding| encoding.get_ids().to_vec()));
        }
        Ok(ids)
    }

    /// The text of `ids`; `skip_special` leaves out begin, end and other special tokens. Ids outside the vocabulary give nothing.
    ///
    /// # Errors
    /// [`DataError::Tokenize`] if the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, DataError> {
        self.tokenizer.decode(ids, skip_special).map_err(|cause| self.failed("decode the ids", cause))
    }

    /// One more than the largest id, which a model's embedding must reach. (The number of tokens, unless ids have gaps.)
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// The id of the token written `text`.
    pub fn id(&self, text: &str) -> Option<u32> {
        self.tokenizer.token_to_id(text)
    }

    /// Begin and end of text.
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    fn failed(&self, action: &str, cause: tokenizers::Error) -> DataError {
        DataError::Tokenize { path: self.path.clone(), action: action.to_owned(), cause }
    }
}

/// Writes a tokenizer of whole words to `dir` and loads it: `<s>` 0, `</s>` 1, then `words` from 2 on; no unknown token.
#[cfg(test)]
pub(crate) fn example(dir: &Path, words: &[&str]) -> Result<TextTokenizer, DataError> {
    let words = ["<s>", "</s>"].iter().chain(words);
    let vocab: serde_json::Map<_, _> = words.enumerate().map(|(id, &word)| (word.to_owned(), id.into())).collect();
    let special = |id: u32, text: &str| {
        serde_json::json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let tokenizer = serde_json::json!({
        "version": "1.0", "added_tokens": [special(0, "<s>"), special(1, "</s>")],
        "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "decoder": null,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "<s>"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    });
    taper_base::files::write_json(&dir.join("tokenizer.json"), &tokenizer).map_err(DataError::read(dir))?;
    TextTokenizer::load(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncation_and_padding_are_off() {
        let dir = tempfile::tempdir().unwrap();
        let words = example(dir.path(), &["a", "b"]).unwrap();
        assert_eq!(words.encode("a b a b a", true).unwrap(), [0, 2, 3, 2, 3, 2]);
        assert_eq!(words.encode("b", false).unwrap(), [3]);
        assert_eq!(words.encode_batch(&["a", "b b"], true).unwrap(), [vec![0, 2], vec![0, 3, 3]]);
        assert_eq!(words.decode(&[0, 2, 3, 77], true).unwrap(), "a b");
        assert_eq!(words.decode(&[0, 2], false).unwrap(), "<s> a");
        assert_eq!((words.vocabulary(), words.id("b"), words.id("c")), (4, Some(3), None));
    }

    #[test]
    fn dropout_is_off() {
        let dir = tempfile::tempdir().unwrap();
        let bpe = serde_json::json!({
            "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
            "decoder": null, "truncation": null, "padding": null,
            "model": {"type": "BPE", "dropout": 1.0, "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
        });
        taper_base::files::write_json(&dir.path().join("tokenizer.json"), &bpe).unwrap();
        let tokenizer = TextTokenizer::load(dir.path()).unwrap();
        assert_eq!(tokenizer.encode("abab", false).unwrap(), [2, 2]);
        assert_eq!(*tokenizer.special(), SpecialTokens::default());
    }

    #[test]
    fn a_text_without_a_token_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let words = example(dir.path(), &["a"]).unwrap();
        assert!(matches!(words.encode("zebra", false), Err(DataError::Tokenize { .. })));
        assert!(matches!(words.encode_batch(&["a", "zebra"], false), Err(DataError::Tokenize { .. })));
    }

    #[test]
    fn a_missing_or_broken_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(TextTokenizer::load(dir.path()), Err(DataError::NoTokenizer { .. })));
        assert!(matches!(TextTokenizer::load(&dir.path().join("none")), Err(DataError::Read { .. })));
        taper_base::files::write(&dir.path().join("tokenizer.json"), b"{}").unwrap();
        let error = TextTokenizer::load(dir.path()).unwrap_err();
        assert!(error.to_string().ends_with("tokenizer.json: not a readable tokenizer"), "{error}");
    }
}
