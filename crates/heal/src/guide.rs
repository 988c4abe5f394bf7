//! What a student is compared with: its teacher's predictions, at once or from a cache, and those of its own past.

use std::collections::BTreeMap;

use taper_kernels::{Tensor, logits_in_pieces};
use taper_model::{Model, Pass, PassOptions, Recompute};

use crate::cache::Cache;
use crate::error::Result;
use crate::losses::Piece;
use crate::objectives::{Guide, Teacher};

/// Who guides.
#[derive(Clone, Copy)]
pub(crate) struct Guides<'a> {
    /// The original model, if it is to be run.
    pub(crate) teacher: Option<&'a Model>,
    /// Its likeliest tokens, if they are on disk.
    pub(crate) cache: Option<&'a Cache>,
    /// The student as it was, newest last.
    pub(crate) voters: &'a [Model],
    /// What objectives want, each once.
    pub(crate) wanted: &'a [Teacher],
    /// Whether the teacher's logits are wanted.
    pub(crate) logits: bool,
}

/// What a piece is compared with.
pub(crate) struct Guidance<'a> {
    /// The teacher's pass, if its insides are wanted.
    pub(crate) pass: Option<Pass<'a>>,
    pub(crate) rows: Rows<'a>,
}

/// Where predictions for a piece's tokens come from.
pub(crate) struct Rows<'a> {
    guides: Guides<'a>,
    teacher: Option<Tensor>, // its residual stream after the final norm, [tokens, d_model]
    voters: Vec<Tensor>,
    first: u64, // the piece's first token in the run
}

/// Predictions for some tokens.
pub(crate) struct Predictions {
    vocab: usize,
    logits: Option<Vec<f32>>, // [tokens, vocab]
    tops: BTreeMap<(u64, usize), Top>,
    voters: BTreeMap<u64, Vec<f32>>,
    cached: Option<Top>,
}

/// The likeliest tokens of some rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Top {
    pub(crate) ids: Vec<u32>,               // [tokens, k]
    pub(crate) log_probabilities: Vec<f32>, // [tokens, k]
}

impl Top {
    fn row(&self, row: usize, k: usize) -> Guide<'_> {
        let at = row * k..(row + 1) * k;
        Guide::Top { ids: &self.ids[at.clone()], log_probabilities: &self.log_probabilities[at] }
    }
}

impl<'a> Guides<'a> {
    /// Blocks of the teacher.
    pub(crate) fn blocks(&self) -> usize {
        self.teacher.map_or(0, |teacher| teacher.spec().blocks.len())
    }

    /// Runs those who are to be asked about `piece`.
    pub(crate) fn of(&self, piece: Piece<'a>, inner: bool, projections: bool) -> Result<Guidance<'a>> {
        let live = self.logits && self.cache.is_none();
        let mut pass = None;
        if let (Some(teacher), true) = (self.teacher, live || inner) {
            let options = PassOptions { projections, whole: inner, ..PassOptions::new(Recompute::Insides) };
            pass = Some(teacher.pass(piece.batch, options)?);
        }
        let teacher = match (self.teacher, &pass) {
            (Some(teacher), Some(pass)) if live => Some(teacher.read(pass)?),
            _ => None,
        };
        let options = PassOptions::to_head(Recompute::Insides);
        let ask = |voter: &Model| -> Result<Tensor> { Ok(voter.read(&voter.pass(piece.batch, options)?)?) };
        let voters = self.voters.iter().map(ask).collect::<Result<_>>()?;
        let first = piece.first * piece.rows as u64;
        Ok(Guidance { pass: pass.filter(|_| inner), rows: Rows { guides: *self, teacher, voters, first } })
    }
}

impl<'a> Rows<'a> {
    /// Predictions for `count` tokens from the piece's token `start` on.
    pub(crate) fn of(&self, start: usize, count: usize) -> Result<Predictions> {
        let guides = self.guides;
        let teacher = self.teacher.as_ref().zip(guides.teacher);
        let logits = teacher.map(|(hidden, model)| logits(model, hidden, start, count)).transpose()?;
        let vocab = match (guides.teacher, guides.voters.first()) {
            (Some(model), _) | (None, Some(model)) => model.spec().vocab,
            _ => 0,
        };
        let mut found = Predictions { vocab, logits, tops: BTreeMap::new(), voters: BTreeMap::new(), cached: None };
        if let Some(cache) = guides.cache {
            found.cached = Some(cache.read(self.first + start as u64, count)?);
        }
        for wanted in guides.wanted {
            match *wanted {
                Teacher::Original { temperature, top: Some(k) } => {
                    if let Some(logits) = &found.logits {
                        found.tops.insert((temperature.to_bits(), k), tops(logits, vocab, temperature, k));
                    }
                }
                Teacher::Voters { temperature, .. } if !self.voters.is_empty() => {
                    found.voters.insert(temperature.to_bits(), self.votes(start, count, temperature)?);
                }
                _ => {}
            }
        }
        Ok(found)
    }

    /// The teacher and what its head sees of the piece, if it was run.
    pub(crate) fn original(&self) -> Option<(&Model, &Tensor)> {
        self.guides.teacher.zip(self.teacher.as_ref())
    }

    /// The mean of the voters' probabilities, `[tokens, vocab]`.
    fn votes(&self, start: usize, count: usize, temperature: f64) -> Result<Vec<f32>> {
        let mut mean: Vec<f32> = Vec::new();
        for (model, hidden) in self.guides.voters.iter().zip(&self.voters) {
            let mut logits = logits(model, hidden, start, count)?;
            let vocab = model.spec().vocab;
            mean.resize(logits.len(), 0.0);
            let share = 1.0 / self.voters.len() as f32;
            for (row, sum) in logits.chunks_mut(vocab).zip(mean.chunks_mut(vocab)) {
                let log_sum = log_sum(row, temperature);
                let probability = |x: f32| (f64::from(x) / temperature - log_sum).exp() as f32;
                row.iter().zip(sum).for_each(|(x, sum)| *sum += share * probability(*x));
            }
        }
        Ok(mean)
    }
}

/// `[tokens, vocab]` of some rows.
fn logits(model: &Model, hidden: &Tensor, start: usize, count: usize) -> Result<Vec<f32>> {
    let mut all = Vec::new();
    logits_in_pieces(&hidden.rows(start, count)?, &model.output_head()?, |_, logits| {
        all.extend_from_slice(logits);
        Ok(())
    })?;
    Ok(all)
}

/// `log Σ exp(x / T)`.
fn log_sum(logits: &[f32], temperature: f64) -> f64 {
    let most = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|x| ((f64::from(*x) - most) / temperature).exp()).sum();
    most / temperature + sum.ln()
}

/// The `k` likeliest tokens of each row, likeliest first; of equals the smaller id.
pub(crate) fn tops(logits: &[f32], vocab: usize, temperature: f64, k: usize) -> Top {
    use rayon::prelude::*;
    let rows = logits.par_chunks(vocab).map(|row| {
        let before = |a: &u32, b: &u32| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b));
        let mut ids: Vec<u32> = (0..vocab as u32).collect();
        if k < vocab {
            ids.select_nth_unstable_by(k, before);
            ids.truncate(k);
        }
        ids.sort_unstable_by(before);
        let log_sum = log_sum(row, temperature);
        let log_probability = |id: &u32| (f64::from(row[*id as usize]) / temperature - log_sum) as f32;
        let log_probabilities: Vec<f32> = ids.iter().map(log_probability).collect();
        (ids, log_probabilities)
    });
    let rows: Vec<_> = rows.collect();
    let (ids, log_probabilities): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
    Top { ids: ids.concat(), log_probabilities: log_probabilities.concat() }
}

impl Predictions {
    /// What an objective compares row `row` with.
    pub(crate) fn row(&self, wanted: Teacher, row: usize) -> Option<Guide<'_>> {
        match wanted {
            Teacher::Nobody => None,
            Teacher::Original { top: None, .. } => {
                self.logits.as_ref().map(|logits| Guide::Logits(&logits[row * self.vocab..(row + 1) * self.vocab]))
            }
            Teacher::Original { temperature, top: Some(k) } => match &self.cached {
                Some(cached) => Some(cached.row(row, k)),
                None => self.tops.get(&(temperature.to_bits(), k)).map(|found| found.row(row, k)),
            },
            Teacher::Voters { temperature, .. } => {
                let votes = self.voters.get(&temperature.to_bits())?;
                Some(Guide::Probabilities(&votes[row * self.vocab..(row + 1) * self.vocab]))
            }
        }
    }
}
