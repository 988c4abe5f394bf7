//! Text after prompts, greedily, of several together: a step reads the weights once for all.
//!
//! As `HFLM.generate_until`: a text ends with the tokens asked for, an end token, or a stop text, and is cut at the first
//! occurrence of each stop text in turn. Each ends by itself, and the others go on without it.

use taper_data::{DataError, TextTokenizer};
use taper_model::{Decoder, Model, ModelError, greedy};

use super::HarnessError;
use super::answer::{all_tokens, passes};

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) prompt: &'a [u32],
    pub(super) until: &'a [String],
    pub(super) most: usize,
}

impl Wanted<'_> {
    /// Tokens that it may come to.
    pub(super) fn room(&self) -> usize {
        self.prompt.len() + self.most
    }
}

/// What can fail.
pub(super) enum Failed {
    Model(ModelError),
    Tokenizer(DataError),
    /// What follows this one of those wanted is infinite or NaN.
    NotFinite(usize),
}

impl Failed {
    /// `document` says whose each of those wanted is.
    pub(super) fn into_harness(self, task: &str, document: impl Fn(usize) -> usize) -> HarnessError {
        match self {
            Self::NotFinite(text) => HarnessError::NotFinite { task: task.to_owned(), document: document(text) },
            Self::Model(cause) => HarnessError::Model { cause },
            Self::Tokenizer(cause) => HarnessError::Tokenize { task: task.to_owned(), cause },
        }
    }
}

impl From<ModelError> for Failed {
    fn from(cause: ModelError) -> Self {
        Self::Model(cause)
    }
}

impl From<DataError> for Failed {
    fn from(cause: DataError) -> Self {
        Self::Tokenizer(cause)
    }
}

/// A text in the making.
struct Text<'a> {
    tokenizer: &'a TextTokenizer,
    tokens: Vec<u32>,
    most: usize,
    stops: Vec<(String, usize)>, // and how many of the last tokens are looked at for it
}

impl<'a> Text<'a> {
    fn new(wanted: &Wanted<'_>, tokenizer: &'a TextTokenizer) -> Result<Self, DataError> {
        let mut stops = wanted.until.to_vec();
        if let Some(eos) = tokenizer.special().eos {
            stops.push(tokenizer.decode(&[eos], false)?);
        }
        stops.retain(|stop| !stop.is_empty());
        let look = |stop: String| tokenizer.encode(&stop, false).map(|ids| (stop, ids.len() + 2));
        let stops = stops.into_iter().map(look).collect::<Result<_, _>>()?;
        Ok(Self { tokenizer, tokens: Vec::new(), most: wanted.most, stops })
    }

    /// Takes the next token, and says whether more are wanted.
    fn take(&mut self, token: u32) -> Result<bool, DataError> {
        self.tokens.push(token);
        let special = self.tokenizer.special();
        if self.tokens.len() >= self.most || special.stop.contains(&token) || special.eos == Some(token) {
            return Ok(false);
        }
        for (stop, look) in &self.stops {
            let last = &self.tokens[self.tokens.len().saturating_sub(*look)..];
            if self.tokenizer.decode(last, false)?.contains(stop) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn finish(&self) -> Result<String, DataError> {
        let mut text = self.tokenizer.decode(&self.tokens, true)?;
        for (stop, _) in &self.stops {
            if let Some(at) = text.find(stop) {
                text.truncate(at);
            }
        }
        Ok(text)
    }
}

/// The text after each prompt, and the tokens that went through the model. Prompts are sorted, and ask for one token at
/// least.
pub(super) fn generate(
    model: &Model,
    tokenizer: &TextTokenizer,
    wanted: &[Wanted<'_>],
) -> Result<(Vec<String>, usize), Failed> {
    let mut texts = wanted.iter().map(|wanted| Text::new(wanted, tokenizer)).collect::<Result<Vec<_>, _>>()?;
    let rooms: Vec<usize> = wanted.iter().map(Wanted::room).collect();
    let prompts: Vec<&[u32]> = wanted.iter().map(|wanted| wanted.prompt).collect();
    let mut decoder = Decoder::new(model, &rooms)?;
    let (mut next, mut tokens) = (Vec::with_capacity(texts.len()), 0);
    for pass in passes(&prompts) {
        let prompts = &prompts[pass.clone()];
        next.extend(known(greedy(&decoder.read(pass.start, prompts)?), |sequence| pass.start + sequence)?);
        tokens += all_tokens(prompts);
    }
    let mut live: Vec<usize> = (0..texts.len()).collect();
    loop {
        let taken = live.iter().zip(&next).map(|(text, token)| texts[*text].take(*token));
        let more = taken.collect::<Result<Vec<bool>, _>>()?;
        decoder.keep(&more);
        let still = |(text, more): (&usize, &bool)| more.then_some(*text);
        live = live.iter().zip(&more).filter_map(still).collect();
        if live.is_empty() {
            break;
        }
        next = next.into_iter().zip(more).filter_map(|(token, more)| more.then_some(token)).collect();
        next = known(greedy(&decoder.feed(&next, &mut |_| ())?), |sequence| live[sequence])?;
    }
    tokens += texts.iter().map(|text| text.tokens.len()).sum::<usize>();
    let texts = texts.iter().map(Text::finish).collect::<Result<_, _>>()?;
    Ok((texts, tokens))
}

/// The next token of each sequence; `text` says which of those wanted a sequence is.
fn known(tokens: Result<Vec<u32>, ModelError>, text: impl Fn(usize) -> usize) -> Result<Vec<u32>, Failed> {
    tokens.map_err(|cause| match cause {
        ModelError::Logits { sequence } => Failed::NotFinite(text(sequence)),
        cause => Failed::Model(cause),
    })
}
