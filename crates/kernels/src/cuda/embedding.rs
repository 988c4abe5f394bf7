//! Rows of the embedding by token, and its gradient.

use super::launch::Kernel;
use super::{Array, CudaError, Kind, Result};

const FILE: &str = "embedding.cu";

/// `table[token]` of each token.
///
/// # Shapes
/// `table` `[vocab, d]`; the result is `[tokens, d]`.
///
/// # Errors
/// If a token is not in the table, types do not fit, or the machine fails.
pub fn gather_rows(table: &Array, tokens: &[u32]) -> Result<Array> {
    const OP: &str = "gather_rows";
    let (vocab, d) = table.as_rows();
    let ids = Array::of_numbers(table.machine(), &numbers(OP, tokens, vocab)?)?;
    let out = Array::uninitialised(table.machine(), &[tokens.len(), d], table.kind())?;
    let kernel = Kernel::new(OP, FILE, OP, table.storage(OP, "table")?).array(&out).array(table).array(&ids);
    kernel.size("d", d).grid([tokens.len(), 1, 1]).run(table.machine())?;
    Ok(out)
}

/// Gradient of the table: each row sums `dy` over the places of its token, in their order.
///
/// # Shapes
/// `dy` `[tokens, d]`; the result is `[vocab, d]` in f32.
///
/// # Errors
/// If a token is not below `vocab`, shapes or types do not fit, or the machine fails.
pub fn scatter_rows(tokens: &[u32], dy: &Array, vocab: usize) -> Result<Array> {
    const OP: &str = "scatter_rows";
    let ((rows, d), machine) = (dy.as_rows(), dy.machine());
    if rows != tokens.len() {
        let want = format!("[{}, d]", tokens.len());
        return Err(CudaError::Shape { op: OP, what: "dy", got: dy.shape().to_vec(), want });
    }
    let numbers = numbers(OP, tokens, vocab)?;
    let mut places: Vec<i32> = (0..tokens.len() as i32).collect();
    places.sort_by_key(|place| numbers[*place as usize]); // stable: places of one token stay in order
    let mut starts = vec![0; vocab + 1];
    numbers.iter().for_each(|token| starts[*token as usize + 1] += 1);
    (0..vocab).for_each(|token| starts[token + 1] += starts[token]);
    let (starts, places) = (Array::of_numbers(machine, &starts)?, Array::of_numbers(machine, &places)?);
    let out = Array::uninitialised(machine, &[vocab, d], Kind::F32)?;
    let kernel = Kernel::new(OP, FILE, OP, dy.storage(OP, "dy")?).array(&out).array(dy).array(&starts).array(&places);
    kernel.size("d", d).grid([vocab, 1, 1]).run(machine)?;
    Ok(out)
}

/// Tokens as a kernel reads them; each below `vocab`.
pub(crate) fn numbers(op: &'static str, tokens: &[u32], vocab: usize) -> Result<Vec<i32>> {
    let number = |token: &u32| {
        let fits = i32::try_from(*token).ok().filter(|_| (*token as usize) < vocab);
        let want = || format!("below the vocabulary's size, {vocab}");
        fits.ok_or_else(|| CudaError::Shape { op, what: "token", got: vec![*token as usize], want: want() })
    };
    tokens.iter().map(number).collect()
}
