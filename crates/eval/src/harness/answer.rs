//! Asks the model what is not known yet, in batches that depend on the requests alone.
//!
//! Requests are sorted by their tokens, so that neighbours share a beginning, and cut into batches of so many tokens that
//! the model goes through; what a batch shares it computes once. A batch is answered whole and kept whole: whether a run
//! was interrupted changes no bit of its answers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use taper_base::progress::Progress;
use taper_data::TextTokenizer;
use taper_model::{Continuation, Decoder, Model, greedy};

use super::request::Ask;
use super::store::AnswerStore;
use super::{HarnessError, Subject};

/// Tokens of one forward pass, unless a single text has more.
const TOKENS: usize = 4096;

/// What a model answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// To a continuation.
    Likelihood {
        /// Sum over its tokens, in nats.
        log_likelihood: f64,
        /// Whether each token is the likeliest.
        greedy: bool,
    },
    /// To a prompt.
    Text(String),
}

/// What answering took.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Effort {
    /// Requests.
    pub requests: usize,
    /// Those whose answer was on disk.
    pub known: usize,
    /// Tokens that went through the model, shared ones once.
    pub tokens: usize,
    /// Time in the model.
    pub time: Duration,
}

/// Asks one model about one task.
pub(super) struct Asker<'a> {
    pub(super) subject: Subject<'a>,
    pub(super) task: String,
    pub(super) store: &'a mut AnswerStore,
    pub(super) progress: &'a dyn Progress,
}

impl Asker<'_> {
    /// The answers, in the order of `asks`.
    pub(super) fn answers(&mut self, asks: &[Ask]) -> Result<(Vec<Answer>, Effort), HarnessError> {
        let mut known = self.store.known(self.subject.fingerprint, &self.task)?;
        let keys: Vec<String> = asks.iter().map(|ask| ask.key().to_string()).collect();
        let have = keys.iter().filter(|key| known.contains_key(*key)).count();
        let mut effort = Effort { requests: asks.len(), known: have, ..Effort::default() };
        self.progress.begin(&self.task, asks.len() as u64);
        let answered = batches(asks).into_iter().try_for_each(|batch| {
            let missing = batch.iter().any(|index| !known.contains_key(&keys[*index]));
            if missing {
                let start = Instant::now();
                let (found, tokens) = self.run(asks, &batch)?;
                effort.time += start.elapsed();
                effort.tokens += tokens;
                let new: BTreeMap<String, Answer> = batch.iter().map(|index| keys[*index].clone()).zip(found).collect();
                let new: Vec<(String, Answer)> = new.into_iter().filter(|(key, _)| !known.contains_key(key)).collect();
                self.store.keep(self.subject.fingerprint, &self.task, &new)?;
                known.extend(new);
            }
            self.progress.advance(batch.len() as u64, "");
            Ok(())
        });
        self.progress.end();
        answered.map(|()| (keys.iter().filter_map(|key| known.get(key).cloned()).collect(), effort))
    }

    /// Answers to one batch, and the tokens it took.
    fn run(&self, asks: &[Ask], batch: &[usize]) -> Result<(Vec<Answer>, usize), HarnessError> {
        let model = self.subject.model;
        if let [index] = batch
            && let Ask::Generate { prompt, until, most } = &asks[*index]
        {
            let text = generate(model, self.subject.tokenizer, prompt, until, *most)
                .map_err(|cause| cause.into_harness(&self.task))?;
            return Ok((vec![Answer::Text(text.0)], text.1));
        }
        let continuation = |index: &usize| match &asks[*index] {
            Ask::Score { input, target } => Some(Continuation { input, target }),
            Ask::Generate { .. } => None, // alone in its batch
        };
        let texts: Vec<Continuation<'_>> = batch.iter().filter_map(continuation).collect();
        let scored = model.score(&texts)?;
        let answers = scored.iter().map(|s| Answer::Likelihood { log_likelihood: s.log_likelihood, greedy: s.greedy });
        Ok((answers.collect(), cost(&texts)))
    }
}

/// Tokens that go through the model for `texts`, sorted.
fn cost(texts: &[Continuation<'_>]) -> usize {
    let earlier = std::iter::once(None).chain(texts.iter().map(Some));
    texts.iter().zip(earlier).map(|(text, earlier)| text.new_tokens(earlier)).sum()
}

/// Indices of `asks` in batches: likelihoods by their tokens, then generations one by one.
fn batches(asks: &[Ask]) -> Vec<Vec<usize>> {
    let input = |index: &usize| match &asks[*index] {
        Ask::Score { input, target } => Some(Continuation { input, target }),
        Ask::Generate { .. } => None,
    };
    let mut scores: Vec<usize> = (0..asks.len()).filter(|index| input(index).is_some()).collect();
    scores.sort_by_key(|index| input(index).map(|text| (text.input, text.target)));
    let (mut batches, mut batch, mut tokens) = (Vec::new(), Vec::<usize>::new(), 0);
    for index in scores {
        let Some(text) = input(&index) else { continue };
        let earlier = batch.last().and_then(input);
        let more = text.new_tokens(earlier.as_ref());
        if !batch.is_empty() && tokens + more > TOKENS {
            batches.push(std::mem::take(&mut batch));
            tokens = 0;
        }
        tokens += if batch.is_empty() { text.input.len() } else { more };
        batch.push(index);
    }
    batches.extend((!batch.is_empty()).then_some(batch));
    batches.extend((0..asks.len()).filter(|index| input(index).is_none()).map(|index| vec![index]));
    batches
}

/// What can fail while text is generated.
enum Failed {
    Model(taper_model::ModelError),
    Tokenizer(taper_data::DataError),
}

impl Failed {
    fn into_harness(self, task: &str) -> HarnessError {
        match self {
            Self::Model(cause) => HarnessError::Model { cause },
            Self::Tokenizer(cause) => HarnessError::Tokenize { task: task.to_owned(), cause },
        }
    }
}

impl From<taper_model::ModelError> for Failed {
    fn from(cause: taper_model::ModelError) -> Self {
        Self::Model(cause)
    }
}

impl From<taper_data::DataError> for Failed {
    fn from(cause: taper_data::DataError) -> Self {
        Self::Tokenizer(cause)
    }
}

/// Greedy text after `prompt`, up to the first of `until`, and the tokens that went through the model.
///
/// As `HFLM.generate_until`: the last tokens are decoded, two more than a stop text has, to see whether it is there; the
/// result is cut at the first occurrence of each stop text in turn.
fn generate(
    model: &Model,
    tokenizer: &TextTokenizer,
    prompt: &[u32],
    until: &[String],
    most: usize,
) -> Result<(String, usize), Failed> {
    let special = tokenizer.special();
    let mut stops: Vec<String> = until.to_vec();
    if let Some(eos) = special.eos {
        stops.push(tokenizer.decode(&[eos], false)?);
    }
    stops.retain(|stop| !stop.is_empty());
    let mut looks = Vec::with_capacity(stops.len());
    for stop in &stops {
        looks.push(tokenizer.encode(stop, false)?.len() + 2);
    }
    let mut decoder = Decoder::new(model, 1, prompt.len() + most)?;
    let (mut made, mut next) = (Vec::<u32>::new(), decoder.feed(prompt, &mut |_| ())?);
    while made.len() < most {
        let token = greedy(&next)?.first().copied().unwrap_or_default();
        made.push(token);
        let mut ended = special.stop.contains(&token) || special.eos == Some(token);
        for (stop, look) in stops.iter().zip(&looks) {
            ended = ended || tokenizer.decode(&made[made.len().saturating_sub(*look)..], false)?.contains(stop);
        }
        if ended || made.len() == most {
            break;
        }
        next = decoder.feed(&[token], &mut |_| ())?;
    }
    let mut text = tokenizer.decode(&made, true)?;
    for stop in &stops {
        if let Some(at) = text.find(stop) {
            text.truncate(at);
        }
    }
    Ok((text, prompt.len() + made.len()))
}
