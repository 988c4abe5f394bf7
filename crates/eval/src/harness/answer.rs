//! Asks the model what is not known yet, in batches that depend on the requests alone.
//!
//! Requests are sorted by their tokens, so that neighbours share a beginning, and cut into batches of so many tokens that
//! the model goes through; what a batch shares it computes once. A batch is answered whole and kept whole: whether a run
//! was interrupted changes no bit of its answers.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use taper_base::progress::Progress;
use taper_model::{Continuation, new_tokens};

use super::generate::{Wanted, generate};
use super::request::Ask;
use super::store::AnswerStore;
use super::{HarnessError, Subject};

/// Tokens of one forward pass, unless a single text has more.
const TOKENS: usize = 4096;
/// Texts that are generated together, at most.
const TOGETHER: usize = 32;
/// Tokens of their prompts and of what may follow, whose keys and values are kept, unless a single text has more.
const ROOM: usize = 1 << 14;

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
    /// The answers, in the order of `asks`, each of the document of its number in `documents`.
    pub(super) fn answers(&mut self, asks: &[Ask], documents: &[usize]) -> Result<(Vec<Answer>, Effort), HarnessError> {
        let mut known = self.store.known(self.subject.fingerprint, &self.task)?;
        let keys: Vec<String> = asks.iter().map(|ask| ask.key().to_string()).collect();
        let have = keys.iter().filter(|key| known.contains_key(*key)).count();
        let mut effort = Effort { requests: asks.len(), known: have, ..Effort::default() };
        self.progress.begin(&self.task, asks.len() as u64);
        let answered = batches(asks).into_iter().try_for_each(|batch| {
            let missing = batch.iter().any(|index| !known.contains_key(&keys[*index]));
            if missing {
                let start = Instant::now();
                let (found, tokens) = self.run(asks, &batch, documents)?;
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

    /// The task without its version.
    fn name(&self) -> &str {
        self.task.split('@').next().unwrap_or_default()
    }

    /// Answers to one batch, and the tokens it took.
    fn run(&self, asks: &[Ask], batch: &[usize], documents: &[usize]) -> Result<(Vec<Answer>, usize), HarnessError> {
        let model = self.subject.model;
        let wanted: Vec<Wanted<'_>> = batch.iter().filter_map(|index| wanted(&asks[*index])).collect();
        if !wanted.is_empty() {
            let made = generate(model, self.subject.tokenizer, &wanted);
            let (texts, tokens) =
                made.map_err(|cause| cause.into_harness(self.name(), |text| documents[batch[text]]))?;
            return Ok((texts.into_iter().map(Answer::Text).collect(), tokens));
        }
        let texts: Vec<Continuation<'_>> = batch.iter().filter_map(|index| continuation(&asks[*index])).collect();
        let scored = model.score(&texts)?;
        if let Some(place) = scored.iter().position(|scored| !scored.log_likelihood.is_finite()) {
            return Err(HarnessError::NotFinite { task: self.name().to_owned(), document: documents[batch[place]] });
        }
        let answers = scored.iter().map(|s| Answer::Likelihood { log_likelihood: s.log_likelihood, greedy: s.greedy });
        Ok((answers.collect(), all_tokens(&texts.iter().map(|text| text.input).collect::<Vec<_>>())))
    }
}

fn continuation(ask: &Ask) -> Option<Continuation<'_>> {
    match ask {
        Ask::Score { input, target } => Some(Continuation { input, target }),
        Ask::Generate { .. } => None,
    }
}

fn wanted(ask: &Ask) -> Option<Wanted<'_>> {
    match ask {
        Ask::Generate { prompt, until, most } => Some(Wanted { prompt, until, most: *most }),
        Ask::Score { .. } => None,
    }
}

/// Tokens of `inputs`, sorted, that go through the model in one pass: shared ones once.
pub(super) fn all_tokens(inputs: &[&[u32]]) -> usize {
    let earlier = std::iter::once(None).chain(inputs.iter().map(|input| Some(*input)));
    earlier.zip(inputs).map(|(earlier, input)| new_tokens(earlier, input)).sum()
}

/// Ranges of `inputs`, sorted, each for one forward pass.
pub(super) fn passes(inputs: &[&[u32]]) -> Vec<Range<usize>> {
    let (mut passes, mut start, mut tokens) = (Vec::new(), 0, 0);
    for (index, input) in inputs.iter().enumerate() {
        let more = new_tokens((index > start).then(|| inputs[index - 1]), input);
        if index > start && tokens + more > TOKENS {
            passes.push(start..index);
            (start, tokens) = (index, input.len());
        } else {
            tokens += more;
        }
    }
    passes.extend((start < inputs.len()).then_some(start..inputs.len()));
    passes
}

/// Indices of `asks` in batches: likelihoods, then generations, each by their tokens.
fn batches(asks: &[Ask]) -> Vec<Vec<usize>> {
    let mut scores: Vec<_> = (0..asks.len()).filter_map(|index| Some((continuation(&asks[index])?, index))).collect();
    scores.sort_by_key(|(text, index)| (text.input, text.target, *index));
    let inputs: Vec<&[u32]> = scores.iter().map(|(text, _)| text.input).collect();
    let whole = |pass: Range<usize>| scores[pass].iter().map(|(_, index)| *index).collect();
    let mut batches: Vec<Vec<usize>> = passes(&inputs).into_iter().map(whole).collect();
    let mut texts: Vec<_> = (0..asks.len()).filter_map(|index| Some((wanted(&asks[index])?, index))).collect();
    texts.sort_by_key(|(text, index)| (text.prompt, *index));
    let (mut batch, mut room) = (Vec::new(), 0);
    for (text, index) in texts {
        if !batch.is_empty() && (batch.len() == TOGETHER || room + text.room() > ROOM) {
            batches.push(std::mem::take(&mut batch));
            room = 0;
        }
        room += text.room();
        batch.push(index);
    }
    batches.extend((!batch.is_empty()).then_some(batch));
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(input: &[u32]) -> Ask {
        Ask::Score { input: input.to_vec(), target: vec![1] }
    }

    fn text(prompt: &[u32], most: usize) -> Ask {
        Ask::Generate { prompt: prompt.to_vec(), until: Vec::new(), most }
    }

    #[test]
    fn batches_hold_so_many_tokens_and_neighbours_share_theirs() {
        let long = vec![7; TOKENS - 1];
        let longer = [&long[..], &[8, 9]].concat();
        let asks = [score(&longer), text(&[5], 1), score(&long), score(&[1, 2]), score(&[1]), score(&[1, 3])];
        assert_eq!(batches(&asks), [vec![4, 3, 5], vec![2], vec![0], vec![1]]);
        assert_eq!(passes(&[&[1; TOKENS + 5], &[2]]), [0..1, 1..2]);
        assert!(passes(&[]).is_empty());
    }

    #[test]
    fn texts_are_made_together_as_far_as_their_room_goes() {
        let many: Vec<Ask> = (0..TOGETHER + 3).rev().map(|index| text(&[index as u32], 4)).collect();
        let sizes: Vec<usize> = batches(&many).iter().map(Vec::len).collect();
        assert_eq!(sizes, [TOGETHER, 3]);
        assert_eq!(batches(&many)[0][0], TOGETHER + 2); // the smallest prompt comes first
        let wide = [text(&[1], ROOM / 2), text(&[2], ROOM / 2 - 2), text(&[3], 1)];
        assert_eq!(batches(&wide), [vec![0, 1], vec![2]]);
    }
}
