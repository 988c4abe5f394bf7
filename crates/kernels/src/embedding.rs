//! Rows of a table by number, and the gradient of the table.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::host::{self, Host, Weight};
use crate::{KernelError, Result};

/// Rows of the table a task takes at least: most have no token.
const ROWS: usize = 256;

/// Row `ids[t]` of the table for each token `t`.
///
/// # Shapes
/// `table` `[vocab, d]`, of any stored type; the result is `[tokens, d]`.
///
/// # Errors
/// If an id is no row of the table, or layout or device do not fit.
pub fn gather_rows(table: &Tensor, ids: &[u32]) -> Result<Tensor> {
    const OP: &str = "gather_rows";
    let (vocab, d) = host::rows(OP, "table", table)?;
    check(OP, ids, vocab)?;
    let rows = Weight::of(OP, table)?;
    let mut out = vec![0.0; ids.len() * d];
    out.par_chunks_mut(d.max(1)).zip(ids).for_each(|(out, id)| rows.row(d, *id as usize, out));
    host::tensor(OP, out, &[ids.len(), d])
}

/// Gradient of the table: row `v` is the sum of `dy`'s rows `t` with `ids[t] = v`, in the order of the tokens, in f64.
///
/// # Shapes
/// `dy` `[tokens, d]`; the result is `[vocab, d]`.
///
/// # Errors
/// If an id is no row of the table, or shapes, layout or device do not fit.
pub fn scatter_rows(ids: &[u32], dy: &Tensor, vocab: usize) -> Result<Tensor> {
    const OP: &str = "scatter_rows";
    let (_, d) = host::rows(OP, "dy", dy)?;
    let mut out = vec![0.0; vocab * d];
    add_into(OP, &mut out, ids, dy, vocab)?;
    host::tensor(OP, out, &[vocab, d])
}

/// Adds row `t` of `dy` to row `ids[t]` of `sum`, in place: whoever shares that tensor sees it.
///
/// # Shapes
/// As [`scatter_rows`], `sum` as its result.
///
/// # Errors
/// If an id is no row of `sum`, or shapes, layout or device do not fit.
pub fn add_rows(sum: &Tensor, ids: &[u32], dy: &Tensor) -> Result<()> {
    const OP: &str = "add_rows";
    let (vocab, d) = host::rows(OP, "sum", sum)?;
    if host::rows(OP, "dy", dy)?.1 != d {
        return Err(host::shape(OP, "dy", dy, format!("[{}, {d}]", ids.len())));
    }
    host::update(OP, sum, |sum| add_into(OP, sum, ids, dy, vocab))
}

fn add_into(op: &'static str, out: &mut [f32], ids: &[u32], dy: &Tensor, vocab: usize) -> Result<()> {
    let (_, d) = host::rows(op, "dy", dy)?;
    if dy.dims() != [ids.len(), d] {
        return Err(host::shape(op, "dy", dy, format!("[{}, {d}]", ids.len())));
    }
    check(op, ids, vocab)?;
    let gradients = Host::of(op, dy)?;
    let (starts, tokens) = by_id(ids, vocab);
    let rows = out.par_chunks_mut(d.max(1)).enumerate().with_min_len(ROWS);
    rows.for_each_init(
        || vec![0.0_f64; d],
        |sums, (row, out)| {
            let tokens = &tokens[starts[row]..starts[row + 1]];
            if tokens.is_empty() {
                return;
            }
            sums.fill(0.0);
            for token in tokens {
                let dy = &gradients[token * d..(token + 1) * d];
                sums.iter_mut().zip(dy).for_each(|(sum, g)| *sum += f64::from(*g));
            }
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out += *sum as f32);
        },
    );
    Ok(())
}

/// Tokens grouped by id, ascending in each group, and where each id's group starts: a counting sort.
fn by_id(ids: &[u32], vocab: usize) -> (Vec<usize>, Vec<usize>) {
    let mut starts = vec![0; vocab + 1];
    ids.iter().for_each(|id| starts[*id as usize + 1] += 1);
    (0..vocab).for_each(|id| starts[id + 1] += starts[id]);
    let (mut next, mut tokens) = (starts.clone(), vec![0; ids.len()]);
    for (token, id) in ids.iter().enumerate() {
        tokens[next[*id as usize]] = token;
        next[*id as usize] += 1;
    }
    (starts, tokens)
}

fn check(op: &'static str, ids: &[u32], vocab: usize) -> Result<()> {
    match ids.iter().find(|id| **id as usize >= vocab) {
        Some(id) => {
            Err(KernelError::Shape { op, what: "id", got: vec![*id as usize], want: format!("rows below {vocab}") })
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn t(values: &[f32], shape: (usize, usize)) -> Tensor {
        Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
    }

    #[test]
    fn rows_are_gathered_and_their_gradients_summed() {
        let table = t(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], (3, 2));
        let ids = [2, 0, 2];
        let rows = gather_rows(&table, &ids).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(rows, [[5.0, 6.0], [1.0, 2.0], [5.0, 6.0]]);
        let dy = t(&[1.0, 10.0, 2.0, 20.0, 4.0, 40.0], (3, 2));
        let gradient = scatter_rows(&ids, &dy, 3).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(gradient, [[2.0, 20.0], [0.0, 0.0], [5.0, 50.0]]);
    }

    #[test]
    fn ids_and_shapes_are_checked() {
        let table = t(&[1.0, 2.0], (1, 2));
        let refusal = gather_rows(&table, &[0, 1]).unwrap_err().to_string();
        assert_eq!(refusal, "gather_rows: id has shape [1], wanted rows below 1");
        assert!(scatter_rows(&[1], &table, 1).is_err());
        let refusal = scatter_rows(&[0, 0], &table, 1).unwrap_err().to_string();
        assert_eq!(refusal, "scatter_rows: dy has shape [1, 2], wanted [2, 2]");
        assert_eq!(gather_rows(&table, &[]).unwrap().dims(), [0, 2]);
        assert_eq!(scatter_rows(&[], &t(&[], (0, 2)), 3).unwrap().dims(), [3, 2]);
    }
}
