//! Documents packed into sequences without end, for training: several texts by their weights, each read through in a new
//! order time after time.
//!
//! Sequence `i` comes from one text, drawn with the probability of its weight from the stream `(seed, "source", i)`. A text's
//! documents, shuffled anew by `(seed, "feed", source, epoch)`, are tokenized as in [`pack()`](crate::pack()), put end to end,
//! and cut every `length` tokens. They are tokenized as they are needed, and where a feed stands is data, so that a training
//! goes on where it was.

use serde::{Deserialize, Serialize};
use taper_base::rng::{self, RngExt, seq::SliceRandom};

use crate::pack::next;
use crate::{DataError, TextTokenizer};

/// A text to train on.
#[derive(Debug, Clone)]
pub struct FeedText<'a> {
    /// Named in errors.
    pub name: String,
    /// Its documents.
    pub documents: Vec<&'a str>,
    /// Its share of the sequences, relative to those of the others; above 0.
    pub weight: f64,
}

/// Where a feed stands in one text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// Times that the text was read through.
    epoch: u64,
    /// Documents of this time that are tokenized.
    read: usize,
    /// Tokens not handed out yet.
    ids: Vec<u32>,
    /// Where documents start among them.
    starts: Vec<usize>,
}

/// Tokens of one or several documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Their ids.
    pub ids: Vec<u32>,
    /// Where documents start, besides 0.
    pub starts: Vec<usize>,
}

/// Sequences of some texts.
pub struct Feed<'a> {
    tokenizer: &'a TextTokenizer,
    texts: Vec<FeedText<'a>>,
    orders: Vec<Vec<usize>>,
    cursors: Vec<Cursor>,
    length: usize,
    seed: u64,
}

impl<'a> Feed<'a> {
    /// Sequences of `length` tokens; `cursors`, one a text, are where an earlier feed of the same texts stood.
    ///
    /// # Errors
    /// [`DataError::Shape`] if there is no text, or one has no documents, or `length` is 0.
    pub fn new(
        tokenizer: &'a TextTokenizer,
        texts: Vec<FeedText<'a>>,
        (length, seed): (usize, u64),
        cursors: Option<Vec<Cursor>>,
    ) -> Result<Self, DataError> {
        if length == 0 || texts.is_empty() {
            return Err(DataError::Shape { sequences: texts.len(), length });
        }
        if let Some(empty) = texts.iter().find(|text| text.documents.is_empty()) {
            return Err(DataError::NothingToTrain { text: empty.name.clone() });
        }
        let cursors = cursors.filter(|cursors| cursors.len() == texts.len());
        let cursors = cursors.unwrap_or_else(|| vec![Cursor::default(); texts.len()]);
        let mut feed = Self { tokenizer, orders: Vec::new(), cursors, length, seed, texts };
        feed.orders = (0..feed.texts.len()).map(|text| feed.order(text)).collect();
        Ok(feed)
    }

    /// Where it stands.
    pub fn cursors(&self) -> &[Cursor] {
        &self.cursors
    }

    /// Times that each text was read through, the time now not counted.
    pub fn epochs(&self) -> Vec<u64> {
        self.cursors.iter().map(|cursor| cursor.epoch).collect()
    }

    /// Sequence `index`; to be asked for in order, since each goes on where the last one of its text ended.
    ///
    /// # Errors
    /// [`DataError::NothingToTrain`] if a text's documents have no tokens, and what tokenizing says.
    pub fn sequence(&mut self, index: u64) -> Result<Packed, DataError> {
        let text = self.text_of(index);
        while self.cursors[text].ids.len() < self.length {
            self.read(text)?;
        }
        let cursor = &mut self.cursors[text];
        let rest = cursor.ids.split_off(self.length);
        let ids = std::mem::replace(&mut cursor.ids, rest);
        let starts = cursor.starts.iter().copied().filter(|start| (1..self.length).contains(start)).collect();
        cursor.starts = cursor.starts.iter().filter_map(|start| start.checked_sub(self.length)).collect();
        Ok(Packed { ids, starts })
    }

    fn text_of(&self, index: u64) -> usize {
        let sum: f64 = self.texts.iter().map(|text| text.weight).sum();
        let mut at = rng::stream(self.seed, "source", index, 0).random::<f64>() * sum;
        let found = self.texts.iter().position(|text| {
            at -= text.weight;
            at < 0.0
        });
        found.unwrap_or(self.texts.len() - 1)
    }

    fn order(&self, text: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.texts[text].documents.len()).collect();
        order.shuffle(&mut rng::stream(self.seed, "feed", text as u64, self.cursors[text].epoch));
        order
    }

    /// Tokenizes some more documents of a text.
    fn read(&mut self, text: usize) -> Result<(), DataError> {
        let (documents, read) = (&self.texts[text].documents, self.cursors[text].read);
        let left: Vec<&str> = self.orders[text][read..].iter().map(|document| documents[*document]).collect();
        let now = &left[..next(&left, self.length)];
        let eos = self.tokenizer.special().eos;
        let tokenized = self.tokenizer.encode_batch(now, true)?;
        let cursor = &mut self.cursors[text];
        for document in tokenized {
            let end = eos.filter(|eos| document.last() != Some(eos));
            if !document.is_empty() || end.is_some() {
                cursor.starts.push(cursor.ids.len());
            }
            cursor.ids.extend(document);
            cursor.ids.extend(end);
        }
        cursor.read += now.len();
        if cursor.read == self.orders[text].len() {
            if cursor.ids.is_empty() {
                return Err(DataError::NothingToTrain { text: self.texts[text].name.clone() });
            }
            (cursor.epoch, cursor.read) = (cursor.epoch + 1, 0);
            self.orders[text] = self.order(text);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenize::example;

    /// 40 documents of word `wN` once or more, and their tokenizer: BOS 0, EOS 1, `wN` is N + 2.
    fn texts() -> (tempfile::TempDir, TextTokenizer, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        taper_base::files::write(&dir.path().join("tokenizer_config.json"), br#"{"eos_token": "</s>"}"#).unwrap();
        let words: Vec<String> = (0..40).map(|n| format!("w{n}")).collect();
        let tokenizer = example(dir.path(), &words.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
        let documents = (0..40).map(|n| vec![format!("w{n}"); 1 + n % 3].join(" ")).collect();
        (dir, tokenizer, documents)
    }

    fn text(documents: &[String], weight: f64) -> FeedText<'_> {
        FeedText { name: "x".to_owned(), documents: documents.iter().map(String::as_str).collect(), weight }
    }

    #[test]
    fn every_document_comes_once_an_epoch_and_starts_where_it_says() {
        let (_dir, tokenizer, documents) = texts();
        let all: usize = documents.iter().map(|text| text.split(' ').count() + 2).sum();
        let mut feed = Feed::new(&tokenizer, vec![text(&documents, 1.0)], (7, 3), None).unwrap();
        let mut stream = Vec::new();
        for index in 0..2 * all as u64 / 7 + 1 {
            let packed = feed.sequence(index).unwrap();
            assert_eq!(packed.ids.len(), 7);
            let begins: Vec<usize> = (1..7).filter(|place| packed.ids[*place] == 0).collect();
            assert_eq!(packed.starts, begins);
            stream.extend(packed.ids);
        }
        let words = |ids: &[u32]| -> Vec<u32> {
            ids.split(|id| *id == 1).filter(|document| document.len() > 1).map(|document| document[1]).collect()
        };
        let (first, second) = (words(&stream[..all]), words(&stream[all..2 * all]));
        let sorted = |mut words: Vec<u32>| {
            words.sort_unstable();
            words
        };
        assert_eq!(sorted(first.clone()), (2..42).collect::<Vec<u32>>());
        assert_eq!(sorted(second.clone()), sorted(first.clone()));
        assert_ne!(first, second, "each time in another order");
    }

    #[test]
    fn a_feed_goes_on_where_it_stood() {
        let (_dir, tokenizer, documents) = texts();
        let make = |cursors| {
            let both = vec![text(&documents[..25], 3.0), text(&documents[25..], 1.0)];
            Feed::new(&tokenizer, both, (9, 5), cursors).unwrap()
        };
        let mut whole = make(None);
        let want: Vec<Packed> = (0..60).map(|index| whole.sequence(index).unwrap()).collect();
        let mut first = make(None);
        (0..23).for_each(|index| drop(first.sequence(index).unwrap()));
        let kept = serde_json::to_string(first.cursors()).unwrap();
        let mut second = make(Some(serde_json::from_str(&kept).unwrap()));
        let got: Vec<Packed> = (23..60).map(|index| second.sequence(index).unwrap()).collect();
        assert_eq!(got, want[23..]);
        assert_eq!(second.epochs(), whole.epochs());
    }

    #[test]
    fn texts_have_their_shares() {
        let (_dir, tokenizer, documents) = texts();
        let both = vec![text(&documents[..20], 3.0), text(&documents[20..], 1.0)];
        let feed = Feed::new(&tokenizer, both, (1, 0), None).unwrap();
        let second = (0..4000).filter(|index| feed.text_of(*index) == 1).count();
        assert!((900..1100).contains(&second), "{second}"); // 1000 expected, deviation 27
    }

    #[test]
    fn texts_without_tokens_are_named() {
        let (_dir, tokenizer, documents) = texts();
        let none = Feed::new(&tokenizer, vec![text(&[], 1.0)], (4, 0), None).map(|_| ()).unwrap_err();
        assert_eq!(none.to_string(), "x: no document to train on");
        assert!(Feed::new(&tokenizer, vec![text(&documents, 1.0)], (0, 0), None).is_err());
    }
}
