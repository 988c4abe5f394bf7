//! The attention half of a block: `x + λ O(softmax attention(Q n, K n, V n))`, `n = norm(x)`, with factors `λ` if it has them.

use taper_kernels::{
    Attended, Heads, Result, Rope, Sight, Tensor, Turn, accumulate, attention, attention_backward, from_units,
    into_units, rms_norm, rms_norm_backward, scatter_rows,
};

use crate::mlp::{Part, made, result};
use crate::model::Attention;
use crate::pass::Flow;
use crate::{Gradient, Parameter, Place, Sink};

/// What all blocks share in one pass.
pub(crate) struct Context<'a> {
    pub(crate) sequences: usize,
    pub(crate) tokens: usize,
    pub(crate) d_head: usize,
    pub(crate) eps: f64,
    pub(crate) rope: Option<Rope>, // none: positions are not turned, and each token sees its whole sequence
    pub(crate) first: Option<&'a [u32]>,
    /// The rows of the residual stream that the head reads, as many of each sequence, where no others are wanted at the end: only they
    /// look in the last attention, and go on from there.
    pub(crate) read: Option<Vec<u32>>,
}

impl Context<'_> {
    /// The rows that look in an attention, if it is the `last` and not all do.
    pub(crate) fn look(&self, last: bool) -> Option<&[u32]> {
        self.read.as_deref().filter(|_| last)
    }

    /// Turns queries and keys by their positions, in place.
    fn turn(&self, tensors: [&Tensor; 2], turn: Turn) -> Result<()> {
        let Some(rope) = &self.rope else { return Ok(()) };
        tensors.into_iter().try_for_each(|x| rope.turn(x, turn))
    }
}

/// Some rows of `x`, or all.
pub(crate) fn picked(x: &Tensor, rows: Option<&[u32]>) -> Result<Tensor> {
    rows.map_or_else(|| Ok(x.clone()), |rows| x.pick(rows))
}

/// What the backward pass needs of the forward pass.
pub(crate) struct AttentionTape {
    normed: Option<Tensor>,        // [tokens, d_model]; none: made again
    unnormed: Option<[Tensor; 2]>, // q and k before their norm, if they have one
    q: Tensor,                     // after norm and rotation
    k: Tensor,
    v: Tensor,
    attended: Attended,
}

/// The input of attention.
pub(crate) struct Projected {
    pub(crate) normed: Tensor,
    pub(crate) unnormed: Option<[Tensor; 2]>,
    pub(crate) q: Tensor,
    pub(crate) k: Tensor,
    pub(crate) v: Tensor,
}

impl AttentionTape {
    /// The input of o: `[tokens, n_heads * d_head]`.
    pub(crate) fn units(&self) -> &Tensor {
        &self.attended.out
    }

    /// Without what no product is needed for.
    pub(crate) fn slim(self) -> Self {
        Self { normed: None, ..self }
    }

    /// What is attended.
    pub(crate) fn projections(&self) -> [&Tensor; 3] {
        [&self.q, &self.k, &self.v]
    }
}

impl Attention {
    /// `look` are the rows that look, if not all.
    pub(crate) fn heads<'a>(&'a self, context: &Context<'a>, look: Option<&[u32]>) -> Heads<'a> {
        let queries = look.map_or(context.tokens, |rows| rows.len() / context.sequences.max(1));
        Heads {
            sequences: context.sequences,
            tokens: context.tokens,
            d_head: context.d_head,
            kv_of: &self.kv_of,
            n_kv_heads: self.n_kv_heads,
            window: self.window,
            first: context.first,
            sight: if context.rope.is_none() { Sight::Full { queries } } else { Sight::Causal },
        }
    }

    /// `x` `[tokens, d_model]` is the residual stream; the result, of the rows that look, is added to `base`, if there is one.
    pub(crate) fn forward(
        &self,
        context: &Context<'_>,
        (x, look): (&Tensor, Option<&[u32]>),
        base: Option<&Tensor>,
    ) -> Result<(Tensor, AttentionTape)> {
        let tape = self.tape(context, x, look)?;
        Ok((self.result(base, tape.units())?, tape))
    }

    /// The output projection of `units`, added to `base`, if there is one.
    pub(crate) fn result(&self, base: Option<&Tensor>, units: &Tensor) -> Result<Tensor> {
        result(base, (units, &self.o), self.o_bias.as_ref(), self.scale.as_ref())
    }

    /// All but the output projection.
    pub(crate) fn tape(&self, context: &Context<'_>, x: &Tensor, look: Option<&[u32]>) -> Result<AttentionTape> {
        let Projected { normed, unnormed, q, k, v } = self.project(context, x, look)?;
        let attended = attention(&q, &k, &v, self.heads(context, look))?;
        Ok(AttentionTape { normed: Some(normed), unnormed, q, k, v, attended })
    }

    /// What is attended.
    pub(crate) fn project(&self, context: &Context<'_>, x: &Tensor, look: Option<&[u32]>) -> Result<Projected> {
        let normed = self.norm.forward(x, context.eps)?;
        let bias = |index: usize| self.qkv_bias.as_ref().map(|bias| &bias[index]);
        let q = into_units(&picked(&normed, look)?, &self.q, bias(0))?; // [tokens that look, n_heads * d_head]
        let k = into_units(&normed, &self.k, bias(1))?; // [tokens, n_kv_heads * d_head]
        let v = into_units(&normed, &self.v, bias(2))?;
        let (unnormed, q, k) = match &self.qk_norm {
            Some([q_norm, k_norm]) => {
                let normed = |x: &Tensor, weight| per_head(x, context, |x| rms_norm(x, weight, context.eps));
                let (normed_q, normed_k) = (normed(&q, q_norm)?, normed(&k, k_norm)?);
                (Some([q, k]), normed_q, normed_k)
            }
            None => (None, q, k),
        };
        context.turn([&q, &k], Turn::Forward)?;
        Ok(Projected { normed, unnormed, q, k, v })
    }

    /// Gradient of `x` from that of the result; those of the parameters go to `sink`. `extra` is added to those of queries,
    /// keys and values. What of the tape is no longer needed is let go on the way. `look` is as in the forward pass, and the flow of
    /// those rows.
    pub(crate) fn backward(
        &self,
        context: &Context<'_>,
        (block, x, look): (usize, &Tensor, Option<&[u32]>),
        (tape, extra): (AttentionTape, Option<[Tensor; 3]>),
        Flow { branch: g, stream }: Flow<'_>,
        sink: &mut dyn Sink,
    ) -> Result<Tensor> {
        use Parameter as P;
        let part = Part { weight: &self.o, bias: self.o_bias.as_ref(), scale: self.scale.as_ref() };
        let places = [P::O, P::OBias, P::AttentionScale].map(|parameter| Place::of(block, parameter));
        let dout = part.backward(tape.units(), g, (places, sink))?; // [tokens, n_heads * d_head]
        let mut take = |parameter, gradient: Gradient<'_>| sink.take(Place::of(block, parameter), gradient);
        let AttentionTape { normed, unnormed, q, k, v, attended } = tape;
        let [mut dq, mut dk, dv] = attention_backward([&q, &k, &v], self.heads(context, look), &attended, &dout)?;
        drop((q, k, v, attended, dout));
        if let Some(extra) = &extra {
            [&dq, &dk, &dv].into_iter().zip(extra).try_for_each(|(sum, slope)| accumulate(sum, slope))?;
        }
        context.turn([&dq, &dk], Turn::Back)?;
        if let (Some([q_norm, k_norm]), Some([q, k])) = (&self.qk_norm, &unnormed) {
            for (parameter, x, weight, d) in [(P::QNorm, q, q_norm, &mut dq), (P::KNorm, k, k_norm, &mut dk)] {
                let (x, dy) = (split_heads(x, context)?, split_heads(d, context)?); // [tokens * heads, d_head]
                take(parameter, Gradient::Norm { x: &x, eps: context.eps, dy: &dy })?;
                let dx = rms_norm_backward(None, &x, weight, context.eps, &dy)?;
                *d = dx.reshape(d.dims())?;
            }
        }
        let normed = made(normed, || self.norm.forward(x, context.eps))?;
        let looking = picked(&normed, look)?;
        let matrices = [
            (P::Q, P::QBias, &self.q, &dq, &looking),
            (P::K, P::KBias, &self.k, &dk, &normed),
            (P::V, P::VBias, &self.v, &dv, &normed),
        ];
        for (matrix, bias, weight, units, other) in matrices {
            take(matrix, Gradient::Matrix { units, other, weight })?;
            if self.qkv_bias.is_some() {
                take(bias, Gradient::Bias { dy: units })?;
            }
        }
        let [q, k, v] = matrices.map(|(_, _, weight, units, _)| (units, weight));
        let places = [P::AttentionNorm, P::AttentionNormBias].map(|parameter| Place::of(block, parameter));
        let Some(rows) = look else {
            let dn = from_units(None, &[q, k, v], None)?; // [tokens, d_model]
            return self.norm.backward(Some(stream), (x, context.eps), &dn, (places, sink));
        };
        let (dn, all) = (from_units(None, &[k, v], None)?, x.dims()[0]);
        accumulate(&dn, &scatter_rows(rows, &from_units(None, &[q], None)?, all)?)?;
        let stream = scatter_rows(rows, stream, all)?; // [tokens, d_model]
        self.norm.backward(Some(&stream), (x, context.eps), &dn, (places, sink))
    }
}

/// `[tokens, heads * d_head]` as `[tokens * heads, d_head]`.
fn split_heads(x: &Tensor, context: &Context<'_>) -> Result<Tensor> {
    let rows = x.elem_count() / context.d_head;
    x.reshape(&[rows, context.d_head])
}

fn per_head(x: &Tensor, context: &Context<'_>, f: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    f(&split_heads(x, context)?)?.reshape(x.dims())
}
