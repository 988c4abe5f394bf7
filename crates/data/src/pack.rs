//! Documents of one split packed into sequences without padding.
//!
//! The split's documents, shuffled, tokenized and put end to end; the first `sequences * length` tokens are the batch. Each is
//! encoded as the tokenizer encodes a text (Llama: BOS before it) and followed by EOS, if the tokenizer has one: a model
//! sees a boundary where it saw one in training. Documents are tokenized only as far as needed, so a small batch of a large
//! corpus is quick.

use taper_base::rng::{self, seq::SliceRandom};

use crate::tokens::count;
use crate::{DataError, Documents, Shares, Split, TextTokenizer, Tokens};

/// Text is rarely denser than this; a guess of how many documents to tokenize next, without influence on the result.
const BYTES_PER_TOKEN: usize = 4;
/// The least text worth giving to all cores.
const LEAST_BYTES: usize = 1 << 16;

/// What [`pack`] is to make.
#[derive(Debug, Clone, PartialEq)]
pub struct Pack {
    /// Which documents.
    pub split: Split,
    /// What each split holds.
    pub shares: Shares,
    /// How many sequences.
    pub sequences: usize,
    /// Tokens a sequence.
    pub length: usize,
    /// Seed of the shuffle.
    pub seed: u64,
    /// EOS after each document, if the tokenizer has one and did not put it there itself.
    pub eos: bool,
}

impl Pack {
    /// `sequences` of `length` tokens of `split`, with default shares and with EOS.
    pub fn new(split: Split, sequences: usize, length: usize, seed: u64) -> Self {
        Self { split, shares: Shares::default(), sequences, length, seed, eos: true }
    }
}

/// The batch that `wanted` describes. Same documents, tokenizer and description: same batch, on any number of cores.
///
/// # Errors
/// [`DataError::TooShort`] if the split's documents do not suffice, [`DataError::Shape`] for an empty batch, and what
/// [`TextTokenizer::encode`] says.
pub fn pack(documents: &Documents, tokenizer: &TextTokenizer, wanted: &Pack) -> Result<Tokens, DataError> {
    let tokens = count(wanted.sequences, wanted.length)?;
    let mut of_split = documents.of_split(&wanted.shares, wanted.split);
    of_split.shuffle(&mut rng::stream(wanted.seed, "pack", wanted.split as u64, 0));
    let eos = tokenizer.special().eos.filter(|_| wanted.eos);
    let (mut ids, mut rest) = (Vec::new(), of_split.as_slice());
    while ids.len() < tokens && !rest.is_empty() {
        let (now, later) = rest.split_at(next(rest, tokens - ids.len()));
        for document in tokenizer.encode_batch(now, true)? {
            let end = eos.filter(|eos| document.last() != Some(eos));
            ids.extend(document);
            ids.extend(end);
        }
        rest = later;
    }
    if ids.len() < tokens {
        return Err(DataError::TooShort {
            text: documents.name().to_owned(),
            split: wanted.split,
            wanted: tokens,
            found: ids.len(),
            documents: of_split.len(),
            all: documents.all().len(),
        });
    }
    Tokens::new(ids, wanted.sequences, wanted.length)
}

/// How many of `documents` likely hold `missing` tokens; at least one.
pub(crate) fn next(documents: &[&str], missing: usize) -> usize {
    let enough = missing.saturating_mul(BYTES_PER_TOKEN).max(LEAST_BYTES);
    let mut bytes = 0;
    let full = documents.iter().position(|document| {
        bytes += document.len();
        bytes >= enough
    });
    full.map_or(documents.len(), |last| last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenize::example;
    use proptest::prelude::*;

    /// Words `w0 w1 …` with ids from 2 on, and a tokenizer of them that has `</s>` as EOS.
    fn words(n: usize) -> (tempfile::TempDir, TextTokenizer) {
        let dir = tempfile::tempdir().unwrap();
        taper_base::files::write(&dir.path().join("tokenizer_config.json"), br#"{"eos_token": "</s>"}"#).unwrap();
        let words: Vec<String> = (0..n).map(|n| format!("w{n}")).collect();
        let tokenizer = example(dir.path(), &words.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
        (dir, tokenizer)
    }

    fn all_test(sequences: usize, length: usize) -> Pack {
        Pack { shares: Shares::new(0.0, 0.0, 1.0).unwrap(), ..Pack::new(Split::Test, sequences, length, 0) }
    }

    #[test]
    fn each_document_has_its_begin_and_end() {
        let (_dir, tokenizer) = words(3);
        let documents = Documents::new("x", vec!["w0 w1".to_owned()]).unwrap();
        let mut wanted = all_test(1, 4);
        assert_eq!(pack(&documents, &tokenizer, &wanted).unwrap().ids(), [0, 2, 3, 1]);
        let ended = Documents::new("x", vec!["w0 w1 </s>".to_owned()]).unwrap();
        assert_eq!(pack(&ended, &tokenizer, &wanted).unwrap().ids(), [0, 2, 3, 1]);
        let second_end = pack(&ended, &tokenizer, &all_test(1, 5));
        assert!(matches!(second_end, Err(DataError::TooShort { found: 4, .. })), "{second_end:?}");
        (wanted.eos, wanted.length) = (false, 3);
        assert_eq!(pack(&documents, &tokenizer, &wanted).unwrap().ids(), [0, 2, 3]);
    }

    #[test]
    fn too_little_text_says_how_much_there_is() {
        let (_dir, tokenizer) = words(3);
        let documents = Documents::new("x.txt", vec!["w0 w1".to_owned(), "w2".to_owned()]).unwrap();
        assert_eq!(pack(&documents, &tokenizer, &all_test(7, 1)).unwrap().sequences(), 7);
        let error = pack(&documents, &tokenizer, &all_test(2, 4)).unwrap_err();
        let start = "x.txt: the test split gives 7 tokens (2 of 2 documents), wanted 8;";
        assert!(error.to_string().starts_with(start), "{error}");
        let none = Pack { split: Split::Calibration, ..all_test(1, 1) };
        let error = pack(&documents, &tokenizer, &none).unwrap_err();
        assert!(
            error.to_string().contains("the calibration split gives 0 tokens (0 of 2 documents), wanted 1;"),
            "{error}"
        );
        assert!(matches!(pack(&documents, &tokenizer, &all_test(0, 1)), Err(DataError::Shape { .. })));
    }

    #[test]
    fn only_what_is_needed_is_tokenized() {
        let (_dir, tokenizer) = words(1);
        let long = "w0 ".repeat(LEAST_BYTES / 3 + 1);
        let documents = [long.as_str(), "a word the tokenizer has no token for"];
        assert_eq!(next(&documents, 8), 1);
        assert_eq!(next(&documents, LEAST_BYTES), 2);
        assert_eq!(next(&["", ""], usize::MAX), 2);
        let texts: Vec<String> =
            (0..8).map(|n| if n == 7 { "unknown".to_owned() } else { format!("{long}{}", " ".repeat(n)) }).collect();
        let documents = Documents::new("", texts).unwrap();
        let ok = (0..40).filter(|&seed| pack(&documents, &tokenizer, &Pack { seed, ..all_test(1, 8) }).is_ok()).count();
        assert!(ok > 25 && ok < 40, "{ok} of 40 did not start with the bad document"); // expected 35
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn batches_are_deterministic_and_hold_documents_of_their_split_only(
            lengths in prop::collection::vec(1_usize..6, 1..60), seed in any::<u64>(), shares in (0_u32..5, 0_u32..5, 1_u32..5),
        ) {
            let (_dir, tokenizer) = words(60);
            let total = f64::from(shares.0 + shares.1 + shares.2);
            let [a, b, c] = [shares.0, shares.1, shares.2].map(|share| f64::from(share) / total);
            let shares = Shares::new(a, b, c).unwrap();
            // Document n is word n, repeated.
            let texts: Vec<String> = lengths.iter().enumerate().map(|(n, &length)| vec![format!("w{n}"); length].join(" ")).collect();
            let documents = Documents::new("", texts).unwrap();
            let mut seen = 0;
            for split in Split::ALL {
                let own: usize = documents.of_split(&shares, split).iter().map(|text| text.split(' ').count() + 2).sum();
                let wanted = Pack { shares, ..Pack::new(split, own.max(1), 1, seed) };
                let tokens = match pack(&documents, &tokenizer, &wanted) {
                    Ok(tokens) => tokens,
                    Err(error) => {
                        prop_assert!(own == 0, "{}", error);
                        continue;
                    }
                };
                prop_assert_eq!(&tokens, &pack(&documents, &tokenizer, &wanted).unwrap());
                for document in tokens.ids().split(|&id| id == 1).filter(|document| !document.is_empty()) {
                    let n = document[1] as usize - 2;
                    prop_assert_eq!(document, &[&[0][..], &vec![n as u32 + 2; lengths[n]]].concat()); // BOS, then word n
                    prop_assert_eq!(shares.split_of(&documents.all()[n]), split);
                    seen += 1;
                }
            }
            prop_assert_eq!(seen, lengths.len(), "every document is in exactly one split's batch");
        }
    }
}
