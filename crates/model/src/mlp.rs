//! The MLP half of a block: `x + D(silu(G n) · U n)`, `n = RMSNorm(x)`.

use taper_kernels::{Result, Tensor, from_units, into_units, rms_norm, rms_norm_backward, swiglu, swiglu_backward};

use crate::attention::Context;
use crate::model::Mlp;
use crate::pass::Flow;
use crate::{Gradient, Parameter, Place, Sink};

/// What the backward pass needs of the forward pass.
pub(crate) struct MlpTape {
    normed: Option<Tensor>, // [tokens, d_model]; none: made again
    gate: Tensor,           // [tokens, d_ff]
    up: Tensor,             // [tokens, d_ff]
    h: Option<Tensor>,      // [tokens, d_ff]; none: made again
}

impl MlpTape {
    /// The input of down: `[tokens, d_ff]`, if it is there.
    pub(crate) fn units(&self) -> Option<&Tensor> {
        self.h.as_ref()
    }

    /// Without what no product is needed for.
    pub(crate) fn slim(self) -> Self {
        Self { normed: None, h: None, ..self }
    }
}

impl Mlp {
    /// `x` `[tokens, d_model]` is the residual stream; the result is added to `base`, if there is one.
    pub(crate) fn forward(
        &self,
        context: &Context<'_>,
        x: &Tensor,
        base: Option<&Tensor>,
    ) -> Result<(Tensor, MlpTape)> {
        let tape = self.tape(context, x)?;
        let h = made(tape.h.clone(), || swiglu(&tape.gate, &tape.up))?;
        Ok((from_units(base, &[(&h, &self.down)], self.down_bias.as_ref())?, tape))
    }

    /// All but the output projection.
    pub(crate) fn tape(&self, context: &Context<'_>, x: &Tensor) -> Result<MlpTape> {
        let normed = rms_norm(x, &self.norm, context.eps)?;
        let bias = |index: usize| self.gate_up_bias.as_ref().map(|bias| &bias[index]);
        let gate = into_units(&normed, &self.gate, bias(0))?; // [tokens, d_ff]
        let up = into_units(&normed, &self.up, bias(1))?;
        let h = swiglu(&gate, &up)?;
        Ok(MlpTape { normed: Some(normed), gate, up, h: Some(h) })
    }

    /// Gradient of `x` from that of the result; those of the parameters go to `sink`. What of the tape is no longer
    /// needed is let go on the way.
    pub(crate) fn backward(
        &self,
        context: &Context<'_>,
        (block, x): (usize, &Tensor),
        tape: MlpTape,
        Flow { branch: g, stream }: Flow<'_>,
        sink: &mut dyn Sink,
    ) -> Result<Tensor> {
        use Parameter as P;
        let mut take = |parameter, gradient: Gradient<'_>| sink.take(Place::of(block, parameter), gradient);
        let MlpTape { normed, gate, up, h } = tape;
        let h = made(h, || swiglu(&gate, &up))?;
        take(P::Down, Gradient::Matrix { units: &h, other: g, weight: &self.down })?;
        if self.down_bias.is_some() {
            take(P::DownBias, Gradient::Bias { dy: g })?;
        }
        drop(h);
        let dh = into_units(g, &self.down, None)?; // [tokens, d_ff]
        let (dgate, dup) = swiglu_backward(&gate, &up, &dh)?;
        drop((gate, up, dh));
        let normed = made(normed, || rms_norm(x, &self.norm, context.eps))?;
        for (matrix, bias, weight, units) in
            [(P::Gate, P::GateBias, &self.gate, &dgate), (P::Up, P::UpBias, &self.up, &dup)]
        {
            take(matrix, Gradient::Matrix { units, other: &normed, weight })?;
            if self.gate_up_bias.is_some() {
                take(bias, Gradient::Bias { dy: units })?;
            }
        }
        let dn = from_units(None, &[(&dgate, &self.gate), (&dup, &self.up)], None)?; // [tokens, d_model]
        take(P::MlpNorm, Gradient::Norm { x, eps: context.eps, dy: &dn })?;
        rms_norm_backward(Some(stream), x, &self.norm, context.eps, &dn)
    }
}

/// `kept`, or what `make` makes.
pub(crate) fn made(kept: Option<Tensor>, make: impl FnOnce() -> Result<Tensor>) -> Result<Tensor> {
    kept.map_or_else(make, Ok)
}
