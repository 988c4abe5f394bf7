//! Attention and the rotation of its positions.

use std::sync::Arc;

use crate::cuda::Machine;
use crate::{Heads, KernelError, Result, Tensor, Turn, cpu, cuda};

/// What the forward computed.
#[derive(Debug, Clone)]
pub struct Attended {
    /// `[sequences · queries, n_heads · d_head]`.
    pub out: Tensor,
    kept: Kept,
}

/// What the backward needs of it.
#[derive(Debug, Clone)]
enum Kept {
    Host(cpu::Attended),
    Cuda(cuda::Attended),
}

/// Softmax attention with grouped heads, causal with an optional window, or full.
///
/// # Shapes
/// `q` and the result `[sequences · tokens, n_heads · d_head]`, of those that look only; `k` and `v` `[sequences · tokens, n_kv_heads · d_head]`.
///
/// # Errors
/// If shapes, types or devices do not fit, or a machine fails.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: Heads<'_>) -> Result<Attended> {
    const OP: &str = "attention";
    Ok(match q {
        Tensor::Host(q) => {
            let attended = cpu::attention(q, k.host(OP)?, v.host(OP)?, heads)?;
            Attended { out: attended.out.clone().into(), kept: Kept::Host(attended) }
        }
        Tensor::Cuda(q) => {
            let attended = cuda::attention(q, k.array(OP, q)?, v.array(OP, q)?, heads)?;
            Attended { out: attended.out.clone().into(), kept: Kept::Cuda(attended) }
        }
    })
}

/// Gradients of q, k and v.
///
/// # Shapes
/// As [`attention`]; `dout` as its output.
///
/// # Errors
/// If shapes, types or devices do not fit, or a machine fails.
pub fn attention_backward(
    [q, k, v]: [&Tensor; 3],
    heads: Heads<'_>,
    attended: &Attended,
    dout: &Tensor,
) -> Result<[Tensor; 3]> {
    const OP: &str = "attention_backward";
    match (q, &attended.kept) {
        (Tensor::Host(q), Kept::Host(kept)) => {
            let inputs = [q, k.host(OP)?, v.host(OP)?];
            Ok(cpu::attention_backward(inputs, heads, kept, dout.host(OP)?)?.map(Tensor::from))
        }
        (Tensor::Cuda(q), Kept::Cuda(kept)) => {
            attended.out.array(OP, q)?;
            let (inputs, dout) = ([q, k.array(OP, q)?, v.array(OP, q)?], dout.array(OP, q)?);
            Ok(cuda::attention_backward(inputs, heads, kept, dout)?.map(Tensor::from))
        }
        _ => Err(KernelError::Places { op: OP }),
    }
}

/// Cosines and sines of some positions in a row, where they are needed.
#[derive(Debug, Clone)]
pub enum Rope {
    /// On the CPU.
    Host(cpu::Rope),
    /// On a machine.
    Cuda(cuda::Rope),
}

impl Rope {
    /// Tables on `machine`, or on the CPU, for the angular `frequencies` (one a pair) at positions `0..tokens`.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn new(machine: Option<&Arc<dyn Machine>>, frequencies: &[f32], tokens: usize) -> Result<Self> {
        Ok(match machine {
            None => Self::Host(cpu::Rope::new(frequencies, tokens)),
            Some(machine) => Self::Cuda(cuda::Rope::new(machine, frequencies, tokens)?),
        })
    }

    /// Turns every head of `x` by its position, in place: whoever shares the tensor sees it.
    ///
    /// # Shapes
    /// `x` `[sequences · tokens, heads · d_head]`, row `r` at position `r mod tokens`.
    ///
    /// # Errors
    /// If shapes, types or devices do not fit, or a machine fails.
    pub fn turn(&self, x: &Tensor, turn: Turn) -> Result<()> {
        match (self, x) {
            (Self::Host(rope), Tensor::Host(x)) => rope.turn(x, turn),
            (Self::Cuda(rope), Tensor::Cuda(x)) => Ok(rope.turn(x, turn)?),
            _ => Err(KernelError::Places { op: "rope" }),
        }
    }
}
