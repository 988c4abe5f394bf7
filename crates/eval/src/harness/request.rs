//! From texts to token ids, as lm-evaluation-harness's `HFLM` does it (0.4.13): where context and continuation part, what
//! stands before a text, what is cut off on the left, and the windows of a long text.

use taper_base::Fingerprint;
use taper_data::{DataError, TextTokenizer};

use super::HarnessError;

/// One thing asked of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ask {
    /// How likely `target` is at the end of `input`, of which it predicts all but the last token.
    Score { input: Vec<u32>, target: Vec<u32> },
    /// What comes after `prompt`.
    Generate { prompt: Vec<u32>, until: Vec<String>, most: usize },
}

/// Ids of texts for one model.
pub(crate) struct Encoder<'a> {
    tokenizer: &'a TextTokenizer,
    prefix: u32,
    prefix_text: String,
    max_tokens: usize,
}

/// Why a text is no request.
pub(crate) enum Refusal {
    /// What is wrong with the text.
    Reason(String),
    /// What the tokenizer says.
    Tokenizer(DataError),
}

impl From<DataError> for Refusal {
    fn from(cause: DataError) -> Self {
        Self::Tokenizer(cause)
    }
}

impl<'a> Encoder<'a> {
    /// For a model that takes `max_tokens` at once.
    ///
    /// # Errors
    /// [`HarnessError::NoPrefix`].
    pub(crate) fn new(tokenizer: &'a TextTokenizer, max_tokens: usize) -> Result<Self, HarnessError> {
        let special = tokenizer.special();
        let prefix = special.bos.or(special.eos).ok_or(HarnessError::NoPrefix)?;
        let text = tokenizer.decode(&[prefix], false);
        let prefix_text = text.map_err(|cause| HarnessError::Tokenize { task: "any".to_owned(), cause })?;
        Ok(Self { tokenizer, prefix, prefix_text, max_tokens })
    }

    /// `tok_encode`: a text that has its begin token already gets no other.
    fn encode(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>, DataError> {
        let begun = |text: &str| text.starts_with(&self.prefix_text);
        let plain: Vec<&str> = texts.iter().copied().filter(|text| !begun(text)).collect();
        let mut plain = self.tokenizer.encode_batch(&plain, true)?.into_iter();
        let one = |text: &&str| match begun(text) {
            true => self.tokenizer.encode(text, false),
            false => Ok(plain.next().unwrap_or_default()), // one for each that was given
        };
        texts.iter().map(one).collect()
    }

    /// Contexts and continuations: `TemplateLM.loglikelihood`, `_encode_pair`, and the cut of `_loglikelihood_tokens`.
    pub(crate) fn scores(&self, pairs: &[(String, String)]) -> Result<Vec<Result<Ask, String>>, DataError> {
        let parted: Vec<(&str, String)> = pairs.iter().map(|(context, end)| part(context, end)).collect();
        let mut texts: Vec<&str> = Vec::with_capacity(2 * pairs.len());
        for (index, (context, whole)) in parted.iter().enumerate() {
            texts.push(whole);
            if index == 0 || parted[index - 1].0 != *context {
                texts.push(context);
            }
        }
        let mut ids = self.encode(&texts)?.into_iter();
        let (mut asks, mut context_ids) = (Vec::with_capacity(pairs.len()), Vec::new());
        for (index, ((context, _), (given, continuation))) in parted.iter().zip(pairs).enumerate() {
            let whole = ids.next().unwrap_or_default();
            if index == 0 || parted[index - 1].0 != *context {
                context_ids = ids.next().unwrap_or_default();
            }
            asks.push(if given.is_empty() {
                let ids = self.tokenizer.encode(continuation, false)?;
                match ids.split_first() {
                    Some((first, rest)) if *first == self.prefix => self.score(&[*first], rest),
                    _ => self.score(&[self.prefix], &ids),
                }
            } else {
                self.score(&context_ids, whole.get(context_ids.len()..).unwrap_or_default())
            });
        }
        Ok(asks)
    }

    fn score(&self, context: &[u32], continuation: &[u32]) -> Result<Ask, String> {
        if continuation.is_empty() {
            return Err("a continuation without a token of its own".to_owned());
        }
        if context.is_empty() {
            return Err("a context without tokens".to_owned());
        }
        if continuation.len() > self.max_tokens {
            let (got, most) = (continuation.len(), self.max_tokens);
            return Err(format!("a continuation of {got} tokens, and the model takes {most}"));
        }
        let mut input = [context, continuation].concat();
        input.drain(..input.len().saturating_sub(self.max_tokens + 1));
        input.pop();
        Ok(Ask::Score { input, target: continuation.to_vec() })
    }

    /// Windows of a text, each token predicted once: `loglikelihood_rolling`, `get_rolling_token_windows` with a context
    /// of one token, `make_disjoint_window`.
    pub(crate) fn rolling(&self, text: &str) -> Result<Vec<Ask>, Refusal> {
        let ids = self.encode(&[text])?.pop().unwrap_or_default();
        let (mut asks, mut done) = (Vec::new(), 0);
        while done < ids.len() {
            let end = ids.len().min(done + self.max_tokens);
            let before = match done {
                0 => &[self.prefix][..],
                _ => &ids[(end - 1).saturating_sub(self.max_tokens)..done], // the last window is filled with context
            };
            asks.push(self.score(before, &ids[done..end]).map_err(Refusal::Reason)?);
            done = end;
        }
        match asks.is_empty() {
            true => Err(Refusal::Reason("a text without tokens".to_owned())),
            false => Ok(asks),
        }
    }

    /// The prompt of a generation, cut on the left so that `most` tokens fit after it: `generate_until`.
    pub(crate) fn generation(&self, prompt: &str, until: &[String], most: usize) -> Result<Ask, Refusal> {
        if most == 0 || most >= self.max_tokens {
            let reason = format!("{most} tokens to generate, and the model takes {}", self.max_tokens);
            return Err(Refusal::Reason(reason));
        }
        let mut ids = self.encode(&[prompt])?.pop().unwrap_or_default();
        ids.drain(..ids.len().saturating_sub(self.max_tokens - most));
        if ids.is_empty() {
            return Err(Refusal::Reason("a prompt without tokens".to_owned()));
        }
        Ok(Ask::Generate { prompt: ids, until: until.to_vec(), most })
    }
}

/// The context without the white space at its end, and all of the text.
fn part<'t>(context: &'t str, continuation: &str) -> (&'t str, String) {
    (context.trim_end_matches(super::python::is_space), format!("{context}{continuation}"))
}

impl Ask {
    /// What the answer is kept under.
    pub(crate) fn key(&self) -> Fingerprint {
        let mut bytes = Vec::new();
        let mut ids = |ids: &[u32]| {
            bytes.extend_from_slice(&(ids.len() as u64).to_le_bytes());
            ids.iter().for_each(|id| bytes.extend_from_slice(&id.to_le_bytes()));
        };
        match self {
            Self::Score { input, target } => {
                ids(input);
                ids(target);
            }
            Self::Generate { prompt, until, most } => {
                ids(prompt);
                ids(&[*most as u32, u32::MAX]);
                bytes.extend_from_slice(until.join("\0").as_bytes());
            }
        }
        Fingerprint::of_bytes(&bytes)
    }
}
