//! Weights from a checkpoint into memory: matrices in the type they are stored in, units as rows; norms and biases as f32.

use candle_core::{DType, Device, Tensor as Host};
use half::{bf16, f16};
use rayon::prelude::*;
use taper_arch::{AttentionSpec, ModelSpec, NormKind};
use taper_kernels::Tensor;

use crate::checkpoint::Stored;
use crate::error::{at, candle};
use crate::images::Images;
use crate::model::{Attention, Block, Mlp, Model};
use crate::norm::Norm;
use crate::parameter::{flattened, parameters};
use crate::{Checkpoint, ModelError, Parameter, Place, Result, StoredType};

impl Model {
    /// Reads all weights.
    ///
    /// # Errors
    /// [`ModelError::NotFinite`] naming file, tensor and index of the first NaN or infinity.
    pub fn load(checkpoint: &Checkpoint) -> Result<Self> {
        let places: Vec<Place> = parameters(checkpoint.spec()).into_iter().map(|(place, _)| place).collect();
        let read: Vec<Result<Tensor>> = places.par_iter().map(|place| read(checkpoint, *place)).collect();
        let mut tensors = std::collections::BTreeMap::new();
        for (place, tensor) in places.into_iter().zip(read) {
            tensors.insert(place, tensor?);
        }
        let take = |place: Place| {
            let path = checkpoint.dir().to_owned();
            let missing = || ModelError::MissingTensor { path, tensor: place.name(checkpoint.spec()) };
            tensors.get(&place).cloned().ok_or_else(missing)
        };
        Self::assemble(checkpoint.spec().clone(), &take)
    }

    /// A model of `spec` from its parameters, wherever they lie: shapes are those of [`parameters`], but all matrices of
    /// sub-blocks have units as rows. They are not looked at: a wrong one is refused by the first pass.
    ///
    /// # Errors
    /// What `take` returns.
    pub fn assemble(spec: ModelSpec, take: &dyn Fn(Place) -> Result<Tensor>) -> Result<Self> {
        let mut blocks = Vec::with_capacity(spec.blocks.len());
        for (index, block) in spec.blocks.iter().enumerate() {
            let take = |parameter| take(Place::of(index, parameter));
            let attention = block.attention.map(|attention| assemble_attention(&spec, attention, &take)).transpose()?;
            let mlp = block.mlp.map(|_| assemble_mlp(&spec, &take)).transpose()?;
            blocks.push(Block { attention, mlp });
        }
        let global = |parameter| take(Place::global(parameter));
        let head = (!spec.tied_head).then(|| global(Parameter::Head)).transpose()?;
        let first = if spec.image.is_some() { Parameter::Patches } else { Parameter::Embedding };
        let (embedding, images) = (global(first)?, Images::assemble(&spec, &global)?);
        let norm = assemble_norm(&spec, [Parameter::FinalNorm, Parameter::FinalNormBias], &global)?;
        Ok(Self { spec, embedding, images, blocks, norm, head })
    }
}

impl Checkpoint {
    /// The values of one parameter as they lie in the file, row by row.
    ///
    /// # Errors
    /// [`ModelError::MissingTensor`], or [`ModelError::NotFinite`] naming the first NaN or infinity.
    pub fn values(&self, place: Place) -> Result<Vec<f32>> {
        let values = stored(self, place)?.flatten_all().and_then(|flat| flat.to_dtype(DType::F32)?.to_vec1());
        values.map_err(candle("load")).map_err(at(place.name(self.spec())))
    }

    /// The bytes of one parameter as they lie in the file, row by row, little-endian, if they are of the type `wanted`.
    ///
    /// # Errors
    /// As [`values`](Self::values).
    pub fn raw(&self, place: Place, wanted: StoredType) -> Result<Option<&[u8]>> {
        let missing = || ModelError::MissingTensor { path: self.dir().to_owned(), tensor: place.name(self.spec()) };
        let Stored { stored: kind, bytes, .. } = self.tensor(place).ok_or_else(missing)?;
        if kind != wanted {
            return Ok(None); // before all of it is looked at
        }
        // an exponent of ones is that of NaN and infinity; without branches, so that it is as fast as memory
        let any = |all: &[u8]| match kind {
            StoredType::F32 => {
                all.chunks_exact(4).fold(false, |any, b| any | (b[3] & 0x7f == 0x7f && b[2] & 0x80 != 0))
            }
            StoredType::F16 => all.chunks_exact(2).fold(false, |any, b| any | (b[1] & 0x7c == 0x7c)),
            StoredType::BF16 => {
                all.chunks_exact(2).fold(false, |any, b| any | (b[1] & 0x7f == 0x7f && b[0] & 0x80 != 0))
            }
        };
        if bytes.par_chunks(1 << 20).any(any) {
            stored(self, place)?; // which says where
        }
        Ok(Some(bytes))
    }
}

fn assemble_norm(
    spec: &ModelSpec,
    [weight, bias]: [Parameter; 2],
    take: &dyn Fn(Parameter) -> Result<Tensor>,
) -> Result<Norm> {
    Ok(Norm { weight: take(weight)?, bias: (spec.norm == NormKind::Layer).then(|| take(bias)).transpose()? })
}

fn assemble_attention(
    spec: &ModelSpec,
    attention: AttentionSpec,
    take: &dyn Fn(Parameter) -> Result<Tensor>,
) -> Result<Attention> {
    use Parameter as P;
    let all = |on: bool, names: [P; 3]| -> Result<Option<[Tensor; 3]>> {
        let [a, b, c] = names;
        if on { Ok(Some([take(a)?, take(b)?, take(c)?])) } else { Ok(None) }
    };
    Ok(Attention {
        norm: assemble_norm(spec, [P::AttentionNorm, P::AttentionNormBias], take)?,
        q: take(P::Q)?,
        k: take(P::K)?,
        v: take(P::V)?,
        o: take(P::O)?,
        qkv_bias: all(spec.qkv_bias, [P::QBias, P::KBias, P::VBias])?,
        o_bias: spec.o_bias.then(|| take(P::OBias)).transpose()?,
        qk_norm: if spec.qk_norm { Some([take(P::QNorm)?, take(P::KNorm)?]) } else { None },
        scale: spec.layer_scale.then(|| take(P::AttentionScale)).transpose()?,
        kv_of: (0..attention.n_heads).map(|head| head / attention.heads_per_group()).collect(),
        n_kv_heads: attention.n_kv_heads,
        window: attention.window,
    })
}

fn assemble_mlp(spec: &ModelSpec, take: &dyn Fn(Parameter) -> Result<Tensor>) -> Result<Mlp> {
    use Parameter as P;
    let (gated, bias) = (spec.activation.gated(), spec.mlp_bias);
    let optional = |on: bool, parameter| on.then(|| take(parameter)).transpose();
    Ok(Mlp {
        norm: assemble_norm(spec, [P::MlpNorm, P::MlpNormBias], take)?,
        activation: spec.activation,
        gate: optional(gated, P::Gate)?,
        up: take(P::Up)?,
        down: take(P::Down)?,
        gate_bias: optional(gated && bias, P::GateBias)?,
        up_bias: optional(bias, P::UpBias)?,
        down_bias: optional(bias, P::DownBias)?,
        scale: optional(spec.layer_scale, P::MlpScale)?,
    })
}

/// Units as rows.
fn read(checkpoint: &Checkpoint, place: Place) -> Result<Tensor> {
    let tensor = stored(checkpoint, place)?;
    let flat = tensor.reshape(flattened(place.parameter, tensor.dims()));
    let tensor = flat.map_err(candle("load")).map_err(at(place.name(checkpoint.spec())))?;
    let rows = matches!(place.parameter, Parameter::ClassToken | Parameter::DistillationToken | Parameter::Positions);
    let tensor = match tensor.dims() {
        [_, _] if rows => tensor.to_dtype(DType::F32),
        [_, _] if place.parameter.transposed() => tensor.t().and_then(|t| t.contiguous()),
        [_, _] => Ok(tensor),
        _ => tensor.to_dtype(DType::F32), // norms and biases
    };
    Ok(tensor.map_err(candle("load")).map_err(at(place.name(checkpoint.spec())))?.into())
}

/// As it lies in the file, in the type it is stored in.
fn stored(checkpoint: &Checkpoint, place: Place) -> Result<Host> {
    let missing =
        || ModelError::MissingTensor { path: checkpoint.dir().to_owned(), tensor: place.name(checkpoint.spec()) };
    let stored = checkpoint.tensor(place).ok_or_else(missing)?;
    let not_finite = |index: usize, value: f32| {
        let (path, tensor) = (stored.path.to_owned(), place.name(checkpoint.spec()));
        ModelError::NotFinite { path, tensor, index, value }
    };
    let pairs = || stored.bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
    match stored.stored {
        StoredType::F32 => {
            let four = stored.bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            tensor(four.collect(), &stored, |x: f32| x, &not_finite)
        }
        StoredType::F16 => tensor(pairs().map(f16::from_le_bytes).collect(), &stored, f16::to_f32, &not_finite),
        StoredType::BF16 => tensor(pairs().map(bf16::from_le_bytes).collect(), &stored, bf16::to_f32, &not_finite),
    }
}

/// In the type it is stored in.
fn tensor<T: candle_core::WithDType>(
    values: Vec<T>,
    stored: &Stored<'_>,
    widen: impl Fn(T) -> f32,
    not_finite: &dyn Fn(usize, f32) -> ModelError,
) -> Result<Host> {
    if let Some(index) = values.iter().position(|value| !widen(*value).is_finite()) {
        return Err(not_finite(index, widen(values[index])));
    }
    Host::from_vec(values, stored.shape, &Device::Cpu)
        .map_err(candle("load"))
        .map_err(at(stored.path.display().to_string()))
}
