//! A model to safetensors: tensors under their stored names, one at a time, in shards.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Tensor as Host};
use half::{bf16, f16};
use safetensors::{Dtype, View};
use serde::{Deserialize, Serialize};
use serde_json::json;
use taper_arch::{SelectedAttention, Selection, SubBlock};
use taper_base::files;
use taper_kernels::Tensor;

use crate::error::{at, candle};
use crate::model::Model;
use crate::parameter::parameters;
use crate::{ModelError, Parameter, Place, Result};

/// How weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoredType {
    /// 32 bits.
    F32,
    /// 16 bits, IEEE.
    F16,
    /// 16 bits, the upper half of f32.
    BF16,
}

impl StoredType {
    /// Bytes of one weight.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }

    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::BF16 => "bfloat16",
        }
    }

    pub(crate) fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F32 => Some(Self::F32),
            Dtype::F16 => Some(Self::F16),
            Dtype::BF16 => Some(Self::BF16),
            _ => None,
        }
    }

    fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::BF16 => Dtype::BF16,
        }
    }
}

/// Writes `model` into the existing folder `dir`: `model.safetensors`, or shards of at most `shard_bytes` (one tensor
/// may be larger) and their index. Blocks without both halves are dropped and later ones renumbered. Query heads are
/// written group by group, as every layout has them, whatever their order in `model`.
///
/// # Errors
/// [`ModelError::Write`], [`ModelError::NotFinite`] for a weight that `stored` cannot hold, or [`ModelError::Selection`]
/// if the KV groups of a block keep different numbers of query heads, which no layout can hold.
pub fn save(model: &Model, dir: &Path, stored: StoredType, shard_bytes: u64) -> Result<()> {
    let tensors = entries(&model.by_group()?, dir, stored)?;
    let mut shards: Vec<(u64, BTreeMap<String, Entry>)> = vec![(0, BTreeMap::new())];
    for (place, entry) in tensors {
        let size = entry.data_len() as u64;
        if shards.last().is_some_and(|(used, shard)| !shard.is_empty() && used + size > shard_bytes) {
            shards.push((0, BTreeMap::new()));
        }
        if let Some((used, shard)) = shards.last_mut() {
            *used += size;
            shard.insert(place.name(&model.spec), entry);
        }
    }
    let count = shards.len();
    let mut map = BTreeMap::new();
    let total: u64 = shards.iter().map(|(used, _)| used).sum();
    for (number, (_, shard)) in shards.into_iter().enumerate() {
        let name = match count {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
        };
        map.extend(shard.keys().map(|tensor| (tensor.clone(), name.clone())));
        write_shard(&dir.join(&name), shard)?;
    }
    if count > 1 {
        let path = dir.join("model.safetensors.index.json");
        let index = json!({"metadata": {"total_size": total}, "weight_map": map});
        files::write_json(&path, &index).map_err(|cause| ModelError::Write { path, cause })?;
    }
    Ok(())
}

fn write_shard(path: &Path, tensors: BTreeMap<String, Entry>) -> Result<()> {
    let wrap = |cause: std::io::Error| ModelError::Write { path: path.to_owned(), cause };
    let temporary = path.with_extension("partial");
    let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
    safetensors::serialize_to_file(tensors, metadata, &temporary)
        .map_err(|cause| wrap(std::io::Error::other(cause)))?;
    files::persist(&temporary, path).map_err(wrap)
}

/// One tensor; its bytes are made when they are written.
struct Entry {
    tensor: Host,
    stored: StoredType,
}

impl Entry {
    fn values(&self) -> candle_core::Result<Vec<f32>> {
        self.tensor.flatten_all()?.to_dtype(DType::F32)?.to_vec1()
    }
}

impl View for Entry {
    fn dtype(&self) -> Dtype {
        self.stored.dtype()
    }

    fn shape(&self) -> &[usize] {
        self.tensor.dims()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let values = self.values().unwrap_or_default().into_iter(); // `entries` has read them once already
        Cow::Owned(match self.stored {
            StoredType::F32 => values.flat_map(f32::to_le_bytes).collect(),
            StoredType::F16 => values.flat_map(|x| f16::from_f32(x).to_le_bytes()).collect(),
            StoredType::BF16 => values.flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect(),
        })
    }

    fn data_len(&self) -> usize {
        self.tensor.elem_count() * self.stored.bytes()
    }
}

/// All tensors in the order of the model, each checked to fit `stored`.
fn entries(model: &Model, dir: &Path, stored: StoredType) -> Result<Vec<(Place, Entry)>> {
    let mut entries = Vec::new();
    let shapes: BTreeMap<Place, Vec<usize>> = parameters(model.without_empty_blocks().spec()).into_iter().collect();
    for (place, tensor) in model.tensors() {
        let name = place.name(&model.spec);
        let tensor = tensor.to_host().map_err(at(name.clone()))?;
        let tensor = if place.parameter.transposed() {
            tensor.t()
        } else {
            shapes.get(&place).map_or_else(|| Ok(tensor.clone()), |shape| tensor.reshape(&shape[..]))
        };
        let tensor = tensor.map_err(candle("save")).map_err(at(name.clone()))?;
        let entry = Entry { tensor, stored };
        let fits = |x: f32| match stored {
            StoredType::F32 => x.is_finite(),
            StoredType::F16 => f16::from_f32(x).is_finite(),
            StoredType::BF16 => bf16::from_f32(x).is_finite(),
        };
        let values = entry.values().map_err(candle("save")).map_err(at(name.clone()))?;
        if let Some(index) = values.iter().position(|x| !fits(*x)) {
            let (path, tensor) = (dir.to_owned(), format!("{name} as {}", stored.name()));
            return Err(ModelError::NotFinite { path, tensor, index, value: values[index] });
        }
        entries.push((place, entry));
    }
    Ok(entries)
}

impl Model {
    /// The same model with the query heads of each block in the order of their KV heads.
    fn by_group(&self) -> Result<Self> {
        let mut kept = Selection::whole(&self.spec).blocks;
        for (index, (block, kept)) in self.blocks.iter().zip(&mut kept).enumerate() {
            let Some(attention) = &block.attention else { continue };
            let of_group = |group: usize| attention.kv_of.iter().filter(|kv| **kv == group).count();
            let counts: Vec<usize> = (0..attention.n_kv_heads).map(of_group).collect();
            if counts.iter().any(|count| *count != counts[0]) {
                let place = format!("block {index}, {}", SubBlock::Attention);
                let reason =
                    format!("the KV groups keep {counts:?} query heads; checkpoints hold equally many in each");
                return Err(ModelError::Selection { place, reason });
            }
            let mut heads: Vec<usize> = (0..attention.kv_of.len()).collect();
            heads.sort_by_key(|head| attention.kv_of[*head]);
            kept.attention = Some(SelectedAttention { heads, groups: (0..attention.n_kv_heads).collect() });
        }
        self.cut(&kept)
    }

    /// The model without blocks of which nothing is left: what an export holds.
    #[must_use]
    pub fn without_empty_blocks(&self) -> Self {
        let mut model = self.clone();
        model.blocks.retain(|block| block.attention.is_some() || block.mlp.is_some());
        model.spec.blocks.retain(|block| block.attention.is_some() || block.mlp.is_some());
        model
    }

    /// Every parameter, matrices of sub-blocks with units as rows; empty blocks dropped, later ones renumbered.
    pub fn tensors(&self) -> Vec<(Place, Tensor)> {
        use Parameter as P;
        let model = self.without_empty_blocks();
        let global = |parameter, tensor: &Tensor| (Place::global(parameter), tensor.clone());
        let mut all = match &model.images {
            None => vec![global(P::Embedding, &model.embedding)],
            Some(images) => images.tensors(&model.embedding).map(|(p, tensor)| global(p, tensor)).collect(),
        };
        for (index, block) in model.blocks.iter().enumerate() {
            let mut put = |parts: &[(Parameter, &Tensor)]| {
                all.extend(parts.iter().map(|(parameter, tensor)| (Place::of(index, *parameter), (*tensor).clone())));
            };
            if let Some(a) = &block.attention {
                put(&[(P::AttentionNorm, &a.norm.weight)]);
                a.norm.bias.iter().for_each(|t| put(&[(P::AttentionNormBias, t)]));
                put(&[(P::Q, &a.q), (P::K, &a.k), (P::V, &a.v), (P::O, &a.o)]);
                if let Some([q, k, v]) = &a.qkv_bias {
                    put(&[(P::QBias, q), (P::KBias, k), (P::VBias, v)]);
                }
                a.o_bias.iter().for_each(|t| put(&[(P::OBias, t)]));
                if let Some([q, k]) = &a.qk_norm {
                    put(&[(P::QNorm, q), (P::KNorm, k)]);
                }
                a.scale.iter().for_each(|t| put(&[(P::AttentionScale, t)]));
            }
            if let Some(m) = &block.mlp {
                put(&[(P::MlpNorm, &m.norm.weight)]);
                m.norm.bias.iter().for_each(|t| put(&[(P::MlpNormBias, t)]));
                m.gate.iter().for_each(|t| put(&[(P::Gate, t)]));
                put(&[(P::Up, &m.up), (P::Down, &m.down)]);
                let optional = [
                    (P::GateBias, &m.gate_bias),
                    (P::UpBias, &m.up_bias),
                    (P::DownBias, &m.down_bias),
                    (P::MlpScale, &m.scale),
                ];
                optional.iter().for_each(|(p, t)| t.iter().for_each(|t| put(&[(*p, t)])));
            }
        }
        all.push(global(P::FinalNorm, &model.norm.weight));
        all.extend(model.norm.bias.iter().map(|bias| global(P::FinalNormBias, bias)));
        all.extend(model.head.iter().map(|head| global(P::Head, head)));
        all.extend(model.images.iter().flat_map(|images| images.heads()).map(|(p, tensor)| global(p, tensor)));
        all
    }
}
