//! Cross-entropy of the next token, fused with the output head: logits exist for a piece of the tokens only.

use super::embedding::numbers;
use super::launch::Kernel;
use super::linear::{Operand, Out, multiply, multiply_into};
use super::{Array, CudaError, Kind, Result, Storage};
use crate::rows::Divergence;

const FILE: &str = "loss.cu";
/// Logits computed at once, in values: 512 MiB of f32. Fixed by shape alone, so results depend on nothing else.
pub const LOGITS: usize = 128 << 20;

/// Loss of each token, in nats, in f32; logits are f32 whatever the inputs are.
///
/// # Shapes
/// `hidden` `[tokens, d_model]` after the final norm, `head` `[vocab, d_model]`, one target a token.
///
/// # Errors
/// If shapes, types or targets do not fit, or the machine fails.
pub fn token_losses(hidden: &Array, head: &Array, targets: &[u32]) -> Result<Array> {
    const OP: &str = "token_losses";
    let pieces = Pieces::of(OP, hidden, head, targets)?;
    let losses = Array::uninitialised(hidden.machine(), &[targets.len()], Kind::F32)?;
    for (start, count) in pieces.ranges() {
        let logits = pieces.logits(start, count)?;
        let kernel = pieces.kernel(OP, &losses, start, count, &logits)?;
        kernel.size("vocab", pieces.vocab).run(hidden.machine())?;
    }
    Ok(losses)
}

/// Receives the head's input and the gradient of its logits, piece by piece: `[tokens, d_model]`, `[tokens, vocab]`. The
/// rows of the latter are apart: only products take it.
pub type HeadGradients<'a, E> = dyn FnMut(&Array, &Array) -> std::result::Result<(), E> + 'a;

/// Loss of each token, and the gradient of `Σ weight · loss` with respect to `hidden`.
///
/// # Shapes
/// As [`token_losses`]; one weight a token; the gradient is as `hidden`.
///
/// # Errors
/// If shapes, types or targets do not fit, the machine fails, or what `sink` returns.
pub fn cross_entropy<E: From<CudaError>>(
    hidden: &Array,
    head: &Array,
    targets: &[u32],
    weights: &[f32],
    mut sink: Option<&mut HeadGradients<'_, E>>,
) -> std::result::Result<(Array, Array), E> {
    const OP: &str = "cross_entropy";
    let (pieces, machine) = (Pieces::of(OP, hidden, head, targets)?, hidden.machine());
    if weights.len() != targets.len() {
        let want = format!("[{}]", targets.len());
        return Err(CudaError::Shape { op: OP, what: "weights", got: vec![weights.len()], want }.into());
    }
    let weights = Array::of(machine, weights, &[weights.len()], Storage::F32)?;
    let losses = Array::uninitialised(machine, &[targets.len()], Kind::F32)?;
    let gradient = hidden.like()?;
    for (start, count) in pieces.ranges() {
        let logits = pieces.logits(start, count)?;
        let kernel = pieces.kernel(OP, &losses, start, count, &logits)?.array(&weights.rows(start, count)?);
        kernel.size("vocab", pieces.vocab).run(machine)?;
        pieces.back(&gradient, (start, count), (&pieces.slopes(&logits), &mut sink))?;
    }
    Ok((losses, gradient))
}

/// What predictions are to be like: a target's token, a teacher's predictions, or both.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Predictions {
    /// Weight of the cross-entropy; 0: none.
    pub cross_entropy: f64,
    /// Its label smoothing.
    pub smoothing: f64,
    /// Weight of the divergence's gradient with respect to logits divided by the temperature.
    pub apart: f64,
    /// Which.
    pub divergence: Divergence,
    /// What logits are divided by for it.
    pub temperature: f64,
}

/// Cross-entropy and the divergence from a teacher's predictions, each before its weight, `[tokens, 2]`; and the gradient of
/// their weighted sum with respect to `hidden`.
///
/// # Shapes
/// As [`token_losses`]; a target of none is not learnt. `teacher` is its `hidden` and `head`, of as many tokens and the same
/// vocabulary.
///
/// # Errors
/// If shapes, types or targets do not fit, the machine fails, or what `sink` returns.
pub fn predictions<E: From<CudaError>>(
    [hidden, head]: [&Array; 2],
    teacher: Option<[&Array; 2]>,
    targets: &[Option<u32>],
    aims: Predictions,
    mut sink: Option<&mut HeadGradients<'_, E>>,
) -> std::result::Result<(Array, Array), E> {
    const OP: &str = "predictions";
    let known: Vec<u32> = targets.iter().map(|target| target.unwrap_or(0)).collect();
    let (pieces, machine) = (Pieces::of(OP, hidden, head, &known)?, hidden.machine());
    let teacher = teacher.map(|[hidden, head]| Pieces::of(OP, hidden, head, &known)).transpose()?;
    if let Some(other) = teacher.as_ref().filter(|other| other.vocab != pieces.vocab) {
        let want = format!("a vocabulary of {}", pieces.vocab);
        return Err(CudaError::Shape { op: OP, what: "teacher", got: vec![other.vocab], want }.into());
    }
    let learnt: Vec<i32> = targets.iter().map(|target| target.map_or(-1, |id| id as i32)).collect();
    let learnt = Array::of_numbers(machine, &learnt)?;
    let losses = Array::uninitialised(machine, &[targets.len(), 2], Kind::F32)?;
    let gradient = hidden.like()?;
    let (kind, beta) = match aims.divergence {
        Divergence::Forward => (0, 0.0),
        Divergence::Reverse => (1, 0.0),
        Divergence::JensenShannon(beta) => (2, beta),
    };
    for (start, count) in pieces.ranges() {
        let logits = pieces.logits(start, count)?;
        let other = teacher.as_ref().map(|teacher| teacher.logits(start, count)).transpose()?;
        let kernel = Kernel::new(OP, FILE, OP, pieces.storage).array(&losses.rows(start, count)?).array(&logits);
        let kernel = kernel.maybe(other.as_ref()).array(&learnt.rows(start, count)?).size("vocab", pieces.vocab);
        let kernel =
            kernel.float(aims.cross_entropy).float(aims.smoothing).float(aims.apart).float(1.0 / aims.temperature);
        kernel.flag(kind).float(f64::from(beta)).grid([count, 1, 1]).run(machine)?;
        drop(other);
        pieces.back(&gradient, (start, count), (&pieces.slopes(&logits), &mut sink))?;
    }
    Ok((losses, gradient))
}

/// The gradient with respect to `hidden` of any loss of the logits, which `slopes` turns into theirs on the host.
///
/// # Shapes
/// As the CPU's.
///
/// # Errors
/// If shapes or types do not fit, the machine fails, or what `sink` or `slopes` returns.
pub fn through_head<E: From<CudaError>>(
    hidden: &Array,
    head: &Array,
    mut sink: Option<&mut HeadGradients<'_, E>>,
    mut slopes: impl FnMut(usize, &mut [f32]) -> std::result::Result<(), E>,
) -> std::result::Result<Array, E> {
    const OP: &str = "through_head";
    let pieces = Pieces::of(OP, hidden, head, &vec![0; hidden.as_rows().0])?;
    let gradient = hidden.like()?;
    for (start, count) in pieces.ranges() {
        let mut values = pieces.logits(start, count)?.to_host()?;
        slopes(start, &mut values)?;
        let slopes = Array::of(hidden.machine(), &values, &[count, pieces.vocab], pieces.storage)?;
        pieces.back(&gradient, (start, count), (&slopes, &mut sink))?;
    }
    Ok(gradient)
}

/// Logits of each piece of the tokens, on the host, as `each` is given the first token's number and them.
///
/// # Errors
/// If shapes or types do not fit, the machine fails, or what `each` returns.
pub fn logits_in_pieces<E: From<CudaError>>(
    hidden: &Array,
    head: &Array,
    mut each: impl FnMut(usize, &mut [f32]) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let pieces = Pieces::of("logits_in_pieces", hidden, head, &vec![0; hidden.as_rows().0])?;
    pieces.ranges().try_for_each(|(start, count)| each(start, &mut pieces.logits(start, count)?.to_host()?))
}

struct Pieces<'a> {
    op: &'static str,
    hidden: &'a Array,
    head: &'a Array,
    targets: Array,
    storage: Storage,
    vocab: usize,
    tokens: usize,
}

impl<'a> Pieces<'a> {
    fn of(op: &'static str, hidden: &'a Array, head: &'a Array, targets: &[u32]) -> Result<Self> {
        let ((tokens, d), (vocab, _)) = (hidden.as_rows(), head.as_rows());
        head.expect(op, "head", &[vocab, d], hidden.kind())?;
        if targets.len() != tokens {
            let want = format!("[{tokens}]");
            return Err(CudaError::Shape { op, what: "targets", got: vec![targets.len()], want });
        }
        let targets = Array::of_numbers(hidden.machine(), &numbers(op, targets, vocab)?)?;
        Ok(Self { op, hidden, head, targets, storage: hidden.storage(op, "hidden")?, vocab, tokens })
    }

    fn ranges(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (step, tokens) = ((LOGITS / self.vocab.max(1)).max(1), self.tokens);
        (0..tokens).step_by(step).map(move |start| (start, step.min(tokens - start)))
    }

    fn logits(&self, start: usize, count: usize) -> Result<Array> {
        let input = self.hidden.rows(start, count)?;
        multiply(self.op, ("hidden", Operand::plain(&input)), ("head", Operand::turned(self.head)), Kind::F32)
    }

    /// The slopes that a kernel has put where the f32 logits were, each row where its logits began.
    fn slopes(&self, logits: &Array) -> Array {
        let apart = self.vocab * Storage::F32.bytes() / self.storage.bytes();
        logits.apart([logits.as_rows().0, self.vocab], self.storage, apart)
    }

    /// From slopes through the head.
    fn back<E: From<CudaError>>(
        &self,
        gradient: &Array,
        (start, count): (usize, usize),
        (slopes, sink): (&Array, &mut Option<&mut HeadGradients<'_, E>>),
    ) -> std::result::Result<(), E> {
        let to = Out { array: &gradient.rows(start, count)?, add: false };
        multiply_into(self.op, ("slopes", Operand::plain(slopes)), ("head", Operand::plain(self.head)), to)?;
        match sink {
            Some(sink) => sink(&self.hidden.rows(start, count)?, slopes),
            None => Ok(()),
        }
    }

    fn kernel(&self, name: &'static str, losses: &Array, start: usize, count: usize, logits: &Array) -> Result<Kernel> {
        let kernel = Kernel::new(self.op, FILE, name, self.storage).array(&losses.rows(start, count)?).array(logits);
        Ok(kernel.array(&self.targets.rows(start, count)?).grid([count, 1, 1]))
    }
}
