//! A norm with its parameters: RMSNorm, or with a bias LayerNorm.

use taper_kernels::{Result, Tensor, accumulate, layer_norm, layer_norm_backward, rms_norm, rms_norm_backward};

use crate::{Gradient, Place, Sink};

#[derive(Debug, Clone)]
pub(crate) struct Norm {
    pub(crate) weight: Tensor,       // [d_model]
    pub(crate) bias: Option<Tensor>, // [d_model]; LayerNorm if there is one
}

impl Norm {
    pub(crate) fn forward(&self, x: &Tensor, eps: f64) -> Result<Tensor> {
        match &self.bias {
            Some(bias) => layer_norm(x, &self.weight, bias, eps),
            None => rms_norm(x, &self.weight, eps),
        }
    }

    /// `base` and the gradient of the input `x` from that of the result; those of the parameters at `places`, weight and bias,
    /// go to `sink`.
    pub(crate) fn backward(
        &self,
        base: Option<&Tensor>,
        (x, eps): (&Tensor, f64),
        dy: &Tensor,
        (places, sink): ([Place; 2], &mut dyn Sink),
    ) -> Result<Tensor> {
        let [weight, bias] = places;
        if self.bias.is_none() {
            sink.take(weight, Gradient::Norm { x, eps, dy })?;
            return rms_norm_backward(base, x, &self.weight, eps, dy);
        }
        sink.take(weight, Gradient::LayerNorm { x, eps, dy })?;
        sink.take(bias, Gradient::Bias { dy })?;
        let dx = layer_norm_backward(x, &self.weight, eps, dy)?;
        base.map_or(Ok(()), |base| accumulate(&dx, base))?;
        Ok(dx)
    }

    pub(crate) fn each(&self, to: &dyn Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(Self { weight: to(&self.weight)?, bias: self.bias.as_ref().map(to).transpose()? })
    }
}
