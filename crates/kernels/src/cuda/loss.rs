//! Cross-entropy of the next token, fused with the output head: logits exist for a piece of the tokens only.

use super::embedding::numbers;
use super::launch::Kernel;
use super::linear::{Operand, multiply};
use super::{Array, Command, CudaError, Kind, Matrix, Product, Result, Storage, unit_gradient};

const FILE: &str = "loss.cu";
/// Logits computed at once, in values: 512 MiB of f32. Fixed by shape alone, so results depend on nothing else.
const LOGITS: usize = 128 << 20;

/// Loss of each token, in nats; logits are f32 whatever the inputs are.
///
/// # Shapes
/// `hidden` `[tokens, d_model]` after the final norm, `head` `[vocab, d_model]`, one target a token.
///
/// # Errors
/// If shapes, types or targets do not fit, or the machine fails.
pub fn token_losses(hidden: &Array, head: &Array, targets: &[u32]) -> Result<Vec<f32>> {
    const OP: &str = "token_losses";
    let pieces = Pieces::of(OP, hidden, head, targets)?;
    let losses = Array::uninitialised(hidden.machine(), &[targets.len()], Kind::F32)?;
    for (start, count) in pieces.ranges() {
        let logits = pieces.logits(start, count)?;
        let kernel = pieces.kernel(OP, &losses, start, count, &logits)?;
        kernel.size("vocab", pieces.vocab).run(hidden.machine())?;
    }
    losses.to_host()
}

/// Loss of each token, the gradient of `Σ weight · loss` with respect to `hidden`, and with respect to `head` in f32 if
/// `of_head`.
///
/// # Shapes
/// As [`token_losses`]; one weight a token; gradients are as `hidden` and `head`.
///
/// # Errors
/// If shapes, types or targets do not fit, or the machine fails.
pub fn cross_entropy(
    hidden: &Array,
    head: &Array,
    targets: &[u32],
    weights: &[f32],
    of_head: bool,
) -> Result<(Vec<f32>, Array, Option<Array>)> {
    const OP: &str = "cross_entropy";
    let (pieces, machine) = (Pieces::of(OP, hidden, head, targets)?, hidden.machine());
    if weights.len() != targets.len() {
        let want = format!("[{}]", targets.len());
        return Err(CudaError::Shape { op: OP, what: "weights", got: vec![weights.len()], want });
    }
    let weights = Array::of(machine, weights, &[weights.len()], Storage::F32)?;
    let losses = Array::uninitialised(machine, &[targets.len()], Kind::F32)?;
    let (gradient, mut head_gradient) = (hidden.like()?, None);
    for (start, count) in pieces.ranges() {
        let logits = pieces.logits(start, count)?;
        let kernel = pieces.kernel(OP, &losses, start, count, &logits)?.array(&weights.rows(start, count)?);
        kernel.size("vocab", pieces.vocab).run(machine)?;
        pieces.through_head(&logits, start, count, &gradient)?;
        if of_head {
            pieces.of_head(&logits, start, count, &mut head_gradient)?;
        }
    }
    if of_head && head_gradient.is_none() {
        let empty = hidden.rows(0, 0)?;
        let none = Array::uninitialised(machine, &[0, pieces.vocab], hidden.kind())?;
        head_gradient = Some(unit_gradient(&none, &empty)?);
    }
    Ok((losses.to_host()?, gradient, head_gradient))
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

    fn kernel(&self, name: &'static str, losses: &Array, start: usize, count: usize, logits: &Array) -> Result<Kernel> {
        let kernel = Kernel::new(self.op, FILE, name, self.storage).array(&losses.rows(start, count)?).array(logits);
        Ok(kernel.array(&self.targets.rows(start, count)?).grid([count, 1, 1]))
    }

    /// The slopes as a column-major `[vocab, count]`: rows of the hidden's type where those of the f32 logits were.
    fn slopes(&self, logits: &Array, transposed: bool) -> Matrix {
        let leading = self.vocab * Storage::F32.bytes() / self.storage.bytes();
        Matrix { address: logits.address(), storage: self.storage, leading, transposed }
    }

    /// `gradient[start..] = slopes · head`.
    fn through_head(&self, logits: &Array, start: usize, count: usize, gradient: &Array) -> Result<()> {
        let (part, (_, d)) = (gradient.rows(start, count)?, self.hidden.as_rows());
        let matrix =
            |array: &Array| Matrix { address: array.address(), storage: self.storage, leading: d, transposed: false };
        let (b, a, out) = (self.slopes(logits, false), matrix(self.head), matrix(&part));
        let product = Product { a, b, out, m: d, n: count, k: self.vocab, add: false };
        gradient.machine().run(&Command::Product(product))
    }

    /// `sum += slopesᵀ · hidden[start..]`, in f32.
    fn of_head(&self, logits: &Array, start: usize, count: usize, sum: &mut Option<Array>) -> Result<()> {
        let (input, (_, d), machine) = (self.hidden.rows(start, count)?, self.hidden.as_rows(), self.hidden.machine());
        let (add, out) = match sum.take() {
            Some(sum) => (true, sum),
            None => (false, Array::uninitialised(machine, &[self.vocab, d], Kind::F32)?),
        };
        let a = Matrix { address: input.address(), storage: self.storage, leading: d, transposed: false };
        let to = Matrix { address: out.address(), storage: Storage::F32, leading: d, transposed: false };
        let product = Product { a, b: self.slopes(logits, true), out: to, m: d, n: self.vocab, k: count, add };
        machine.run(&Command::Product(product))?;
        *sum = Some(out);
        Ok(())
    }
}
