//! The MLP half of a block: `x + λ D(silu(G n) · U n)` or `x + λ D(gelu(U n))`, `n = norm(x)`, with factors `λ` if it has them.

use taper_arch::Activation;
use taper_kernels::{
    Gelu, Result, Tensor, from_units, gelu, gelu_backward, into_units, scale_columns, swiglu, swiglu_backward,
};

use crate::attention::Context;
use crate::model::Mlp;
use crate::pass::Flow;
use crate::{Gradient, Parameter, Place, Sink};

/// What the backward pass needs of the forward pass.
pub(crate) struct MlpTape {
    normed: Option<Tensor>, // [tokens, d_model]; none: made again
    gate: Option<Tensor>,   // [tokens, d_ff]; none: there is no gate
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
        let h = made(tape.h.clone(), || self.activate(tape.gate.as_ref(), &tape.up))?;
        Ok((result(base, (&h, &self.down), self.down_bias.as_ref(), self.scale.as_ref())?, tape))
    }

    /// All but the output projection.
    pub(crate) fn tape(&self, context: &Context<'_>, x: &Tensor) -> Result<MlpTape> {
        let normed = self.norm.forward(x, context.eps)?;
        let gate = self.gate.as_ref().map(|gate| into_units(&normed, gate, self.gate_bias.as_ref())).transpose()?;
        let up = into_units(&normed, &self.up, self.up_bias.as_ref())?; // [tokens, d_ff]
        let h = self.activate(gate.as_ref(), &up)?;
        Ok(MlpTape { normed: Some(normed), gate, up, h: Some(h) })
    }

    fn activate(&self, gate: Option<&Tensor>, up: &Tensor) -> Result<Tensor> {
        match gate {
            Some(gate) => swiglu(gate, up),
            None => gelu(up, self.form()),
        }
    }

    fn form(&self) -> Gelu {
        if self.activation == Activation::GeluTanh { Gelu::Tanh } else { Gelu::Exact }
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
        let MlpTape { normed, gate, up, h } = tape;
        let h = made(h, || self.activate(gate.as_ref(), &up))?;
        let part = Part { weight: &self.down, bias: self.down_bias.as_ref(), scale: self.scale.as_ref() };
        let places = [P::Down, P::DownBias, P::MlpScale].map(|parameter| Place::of(block, parameter));
        let dh = part.backward(&h, g, (places, sink))?; // [tokens, d_ff]
        drop(h);
        let (dgate, dup) = match &gate {
            Some(gate) => swiglu_backward(gate, &up, &dh).map(|(dgate, dup)| (Some(dgate), dup))?,
            None => (None, gelu_backward(&up, &dh, self.form())?),
        };
        drop((gate, up, dh));
        let normed = made(normed, || self.norm.forward(x, context.eps))?;
        let gate = self.gate.as_ref().zip(dgate.as_ref());
        let gate = gate.map(|(weight, units)| (P::Gate, P::GateBias, weight, units, &self.gate_bias));
        let inner = gate.into_iter().chain([(P::Up, P::UpBias, &self.up, &dup, &self.up_bias)]);
        for (matrix, bias, weight, units, has_bias) in inner.clone() {
            sink.take(Place::of(block, matrix), Gradient::Matrix { units, other: &normed, weight })?;
            if has_bias.is_some() {
                sink.take(Place::of(block, bias), Gradient::Bias { dy: units })?;
            }
        }
        let terms: Vec<_> = inner.map(|(_, _, weight, units, _)| (units, weight)).collect();
        let dn = from_units(None, &terms, None)?; // [tokens, d_model]
        let places = [P::MlpNorm, P::MlpNormBias].map(|parameter| Place::of(block, parameter));
        self.norm.backward(Some(stream), (x, context.eps), &dn, (places, sink))
    }
}

/// `base + scale ∘ (units · weight + bias)`: what a sub-block adds to the residual stream.
pub(crate) fn result(
    base: Option<&Tensor>,
    (units, weight): (&Tensor, &Tensor),
    bias: Option<&Tensor>,
    scale: Option<&Tensor>,
) -> Result<Tensor> {
    match scale {
        None => from_units(base, &[(units, weight)], bias),
        Some(scale) => scale_columns(base, &from_units(None, &[(units, weight)], bias)?, scale),
    }
}

/// A sub-block's output projection, as the backward pass sees it.
pub(crate) struct Part<'a> {
    pub(crate) weight: &'a Tensor, // [units, d_model]
    pub(crate) bias: Option<&'a Tensor>,
    pub(crate) scale: Option<&'a Tensor>,
}

impl Part<'_> {
    /// The gradient of `units` from that of the result, `g`; those of the parameters at `places` (weight, bias, factors) go to
    /// `sink`.
    pub(crate) fn backward(
        &self,
        units: &Tensor,
        g: &Tensor,
        ([weight, bias, scale], sink): ([Place; 3], &mut dyn Sink),
    ) -> Result<Tensor> {
        let scaled = match self.scale {
            Some(factors) => {
                sink.take(scale, Gradient::Scale { units, weight: self.weight, bias: self.bias, dy: g })?;
                Some(scale_columns(None, g, factors)?)
            }
            None => None,
        };
        let g = scaled.as_ref().unwrap_or(g);
        sink.take(weight, Gradient::Matrix { units, other: g, weight: self.weight })?;
        if self.bias.is_some() {
            sink.take(bias, Gradient::Bias { dy: g })?;
        }
        into_units(g, self.weight, None)
    }
}

/// `kept`, or what `make` makes.
pub(crate) fn made(kept: Option<Tensor>, make: impl FnOnce() -> Result<Tensor>) -> Result<Tensor> {
    kept.map_or_else(make, Ok)
}
