//! What is to be made small: one file an objective. Losses are per token or per layer, and gradients go with them.

pub mod cka;
pub mod cross_entropy;
pub mod hidden_mse;
pub mod logit_kl;
pub mod qkv_relations;
pub mod self_distill;

use serde_json::Value;
use taper_base::registry::{self, Entry, MethodError};
use taper_kernels::rows::Divergence;

use crate::error::Result;

/// What the student is to be near to, for one token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Guide<'a> {
    /// The teacher's logits, one a token of the vocabulary.
    Logits(&'a [f32]),
    /// The teacher's `ids.len()` likeliest tokens, likeliest first, and the logarithms of their probabilities at the
    /// objective's temperature; what is missing to 1 is the probability of any other token.
    Top {
        /// Tokens.
        ids: &'a [u32],
        /// Natural logarithms of their probabilities.
        log_probabilities: &'a [f32],
    },
    /// Probabilities, one a token of the vocabulary: the mean of those of several models.
    Probabilities(&'a [f32]),
}

/// Whose predictions an objective compares with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Teacher {
    /// Nobody's.
    Nobody,
    /// The original model's.
    Original {
        /// What logits are divided by before they become probabilities.
        temperature: f64,
        /// How many tokens of it are looked at; all of them if none is said.
        top: Option<usize>,
    },
    /// Those of the student's own past.
    Voters {
        /// How many checkpoints vote, at most: the newest ones.
        count: usize,
        /// Steps from one to the next.
        every: u64,
        /// What logits are divided by before they become probabilities.
        temperature: f64,
    },
}

/// An objective of predictions: a function of one token's logits.
pub trait OfLogits: Send + Sync {
    /// Whose predictions it compares with.
    fn teacher(&self) -> Teacher;

    /// The loss of one token in nats; adds `scale · ∂loss/∂logits` to `slopes`. `guide` is given if there is a teacher
    /// (before the first voter has voted it is not, and the loss is 0).
    fn loss(&self, logits: &[f32], target: u32, guide: Option<Guide<'_>>, scale: f32, slopes: &mut [f32]) -> f32;

    /// The same where nothing else wants the logits: they become `scale · ∂loss/∂logits`. None, and nothing changed, if the
    /// objective has no faster way.
    fn in_place(&self, _: &mut [f32], _: u32, _: f32) -> Option<f32> {
        None
    }

    /// What a machine's own kernel has to know of it, if it can do this one.
    fn own_kernel(&self) -> Option<OwnKernel> {
        None
    }
}

/// An objective that a machine computes by itself; others see their logits on the host.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum OwnKernel {
    /// Cross-entropy with this label smoothing.
    CrossEntropy(f32),
    /// `T²` times this divergence from all of the teacher's predictions at temperature `T`.
    Divergence(Divergence, f64),
}

/// Rows of the two models, one a token.
#[derive(Debug, Clone, Copy)]
pub struct Pair<'a> {
    /// The student's, `[sequences · length, student_width]`.
    pub student: &'a [f32],
    /// The teacher's, `[sequences · length, teacher_width]`.
    pub teacher: &'a [f32],
    /// Sequences and tokens of each.
    pub shape: [usize; 2],
    /// Width of the student's rows and of the teacher's.
    pub widths: [usize; 2],
}

/// An objective of what lies between blocks: a function of the residual stream after a block.
pub trait OfStreams: Send + Sync {
    /// Which blocks are compared, student's and teacher's, if student block `i` was block `origin[i]` of the teacher's
    /// `blocks`.
    fn pairs(&self, origin: &[usize], blocks: usize) -> Vec<[usize; 2]>;

    /// The loss of one pair, and its gradient with respect to the student's rows.
    ///
    /// # Errors
    /// [`HealError`](crate::HealError) if the pair does not fit.
    fn loss(&self, pair: Pair<'_>) -> Result<(f64, Vec<f32>)>;
}

/// An objective of the last attention: a function of queries, keys and values as they are attended, all heads side by side.
pub trait OfRelations: Send + Sync {
    /// The loss of one of the three, and its gradient with respect to the student's rows.
    ///
    /// # Errors
    /// [`HealError`](crate::HealError) if the pair does not fit.
    fn loss(&self, pair: Pair<'_>) -> Result<(f64, Vec<f32>)>;
}

/// What an objective is a function of.
pub enum View<'a> {
    /// Predictions.
    Logits(&'a dyn OfLogits),
    /// Residual streams.
    Streams(&'a dyn OfStreams),
    /// Queries, keys and values.
    Relations(&'a dyn OfRelations),
}

/// Something to be made small.
pub trait Objective: Send + Sync + std::fmt::Debug {
    /// What it looks at.
    fn view(&self) -> View<'_>;
}

/// All objectives, sorted by name.
pub const ALL: &[Entry<dyn Objective>] =
    &[cka::ENTRY, cross_entropy::ENTRY, hidden_mse::ENTRY, logit_kl::ENTRY, qkv_relations::ENTRY, self_distill::ENTRY];

/// The objective `name` with its parameters, `Null` for none.
///
/// # Errors
/// [`MethodError`] naming the nearest known name, or the parameter that is wrong.
pub fn build(name: &str, params: &Value) -> std::result::Result<Box<dyn Objective>, MethodError> {
    registry::build("objective", ALL, name, params)
}

/// Student block `i` and the teacher's block that it has to end where: the one it was, or the last one removed after it.
fn spans(origin: &[usize], blocks: usize) -> Vec<[usize; 2]> {
    let next = origin.iter().skip(1).copied().chain([blocks]);
    next.enumerate().map(|(own, next)| [own, next.saturating_sub(1)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use taper_base::rng::{normal, stream};

    /// Numbers of the standard normal distribution.
    pub(super) fn drawn(count: usize, seed: u64) -> Vec<f32> {
        let mut rng = stream(seed, "objectives", 0, 0);
        (0..count).map(|_| normal(&mut rng) as f32).collect()
    }

    fn run(made: &dyn Objective, rows: [&[f32]; 2], shape: [usize; 2], widths: [usize; 2]) -> (f64, Vec<f32>) {
        let pair = Pair { student: rows[0], teacher: rows[1], shape, widths };
        match made.view() {
            View::Streams(objective) => objective.loss(pair).unwrap(),
            View::Relations(objective) => objective.loss(pair).unwrap(),
            View::Logits(_) => panic!("an objective of rows"),
        }
    }

    /// The loss of rows of the student and the teacher.
    pub(super) fn loss(
        entry: &Entry<dyn Objective>,
        params: &Value,
        rows: [&[f32]; 2],
        shape: [usize; 2],
        widths: [usize; 2],
    ) -> f64 {
        run(&*(entry.build)(params).unwrap(), rows, shape, widths).0
    }

    /// Checks a gradient by finite differences.
    pub(super) fn check_gradient(entry: &Entry<dyn Objective>, params: &Value, shape: [usize; 2], widths: [usize; 2]) {
        let made = (entry.build)(params).unwrap();
        let [student, teacher] = [0, 1].map(|side| drawn(shape[0] * shape[1] * widths[side], side as u64));
        let (_, gradient) = run(&*made, [&student, &teacher], shape, widths);
        let most = gradient.iter().fold(0.0_f32, |most, g| most.max(g.abs()));
        for (at, slope) in gradient.iter().enumerate() {
            let moved = |by: f32| {
                let mut rows = student.clone();
                rows[at] += by;
                run(&*made, [&rows, &teacher], shape, widths).0
            };
            let want = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            assert!(
                (f64::from(*slope) - want).abs() < 2e-3 * f64::from(most),
                "{params} {widths:?} {at}: {slope} {want}"
            );
        }
    }

    #[test]
    fn names_are_sorted_unique_and_match_files() {
        let names: Vec<_> = ALL.iter().map(|entry| entry.name).collect();
        assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
        assert_eq!(names, testkit::method_files(env!("CARGO_MANIFEST_DIR"), "src/objectives"));
        assert!(names.iter().all(|name| build(name, &Value::Null).is_ok()));
    }
}
