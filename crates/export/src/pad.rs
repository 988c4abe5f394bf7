//! A model whose blocks differ as one whose blocks are alike: zeros fill each block up to the largest, and compute nothing.
//!
//! A head of zeros has an output matrix of zeros, so whatever it attends to adds 0; so does a channel of zeros, since
//! `silu(0) · 0 = 0`. What was removed comes back with norms of 1 and zeros else. It costs the memory and the time that pruning
//! saved: for tools that know no other models.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};
use safetensors::{Dtype, View};
use taper_arch::{AttentionSpec, MlpSpec, ModelSpec};
use taper_base::files;
use taper_model::{Checkpoint, Parameter, Place, StoredType, parameters};

use crate::{ExportError, transformers};

/// The sizes of `spec` filled up: all blocks alike, but for windows.
pub fn padded(spec: &ModelSpec) -> ModelSpec {
    let attentions = || spec.blocks.iter().filter_map(|block| block.attention);
    let groups = attentions().map(|a| a.n_kv_heads).max().unwrap_or(1);
    let heads = attentions().map(|a| a.heads_per_group()).max().unwrap_or(1);
    let d_ff = spec.blocks.iter().filter_map(|block| block.mlp.map(|m| m.d_ff)).max().unwrap_or(1);
    let mut padded = spec.clone();
    for block in &mut padded.blocks {
        let window = block.attention.and_then(|a| a.window);
        block.attention = Some(AttentionSpec { n_heads: groups * heads, n_kv_heads: groups, window });
        block.mlp = Some(MlpSpec { d_ff });
    }
    padded
}

/// Writes `checkpoint` into the folder `dir`, filled up.
///
/// # Errors
/// [`ExportError`] for files that cannot be read or written.
pub fn write(checkpoint: &Checkpoint, dir: &Path) -> Result<(), ExportError> {
    let spec = padded(checkpoint.spec());
    transformers::write(dir, &spec, checkpoint.dir(), checkpoint.config())?;
    let tensors = parameters(&spec).into_iter().map(|(place, shape)| {
        let tensor = Padded { checkpoint, spec: &spec, place, shape };
        tensor.values().map(|_| (place.name(&spec), tensor)) // reads it once, to tell what is wrong before it is written
    });
    let tensors: BTreeMap<String, Padded<'_>> = tensors.collect::<Result<_, _>>()?;
    let path = dir.join("model.safetensors");
    let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
    let partial = path.with_extension("partial");
    let written = safetensors::serialize_to_file(tensors, metadata, &partial).map_err(std::io::Error::other);
    written.and_then(|()| files::persist(&partial, &path)).map_err(ExportError::file(&path))
}

/// A parameter of the padded model.
struct Padded<'a> {
    checkpoint: &'a Checkpoint,
    spec: &'a ModelSpec,
    place: Place,
    shape: Vec<usize>,
}

impl Padded<'_> {
    fn values(&self) -> Result<Vec<f32>, ExportError> {
        use Parameter as P;
        let (old, place) = (self.checkpoint.spec(), self.place);
        let count = self.shape.iter().product();
        let blocks = place.block.map(|block| (old.blocks[block], self.spec.blocks[block]));
        let Some((was, is)) = blocks else { return Ok(self.checkpoint.values(place)?) };
        let of_attention =
            !matches!(place.parameter, P::MlpNorm | P::Gate | P::Up | P::Down | P::GateBias | P::UpBias | P::DownBias);
        if if of_attention { was.attention.is_none() } else { was.mlp.is_none() } {
            let norm = matches!(place.parameter, P::AttentionNorm | P::MlpNorm | P::QNorm | P::KNorm);
            return Ok(vec![if norm { 1.0 } else { 0.0 }; count]);
        }
        let values = self.checkpoint.values(place)?;
        let heads = |at: usize| match (was.attention, is.attention) {
            (Some(was), Some(is)) => {
                let (head, within) = (at / old.d_head, at % old.d_head);
                let (group, head) = (head / was.heads_per_group(), head % was.heads_per_group());
                (group * is.heads_per_group() + head) * old.d_head + within
            }
            _ => at,
        };
        let same = |at: usize| at;
        Ok(match place.parameter {
            P::Q | P::QBias => spread(&values, &self.shape, old.d_model, (&heads, &same)),
            P::O => spread(&values, &self.shape, values.len() / old.d_model, (&same, &heads)),
            P::Down => spread(&values, &self.shape, values.len() / old.d_model, (&same, &same)),
            _ => spread(&values, &self.shape, old.d_model, (&same, &same)),
        })
    }
}

/// `values`, rows of `columns`, in a matrix or vector of `shape`: where their row and column go to, zeros else.
fn spread(
    values: &[f32],
    shape: &[usize],
    columns: usize,
    (row, column): (&dyn Fn(usize) -> usize, &dyn Fn(usize) -> usize),
) -> Vec<f32> {
    let mut out = vec![0.0; shape.iter().product()];
    let (columns, wide) = if let [_, wide] = shape { (columns, *wide) } else { (1, 1) };
    for (at, value) in values.iter().enumerate() {
        out[row(at / columns) * wide + column(at % columns)] = *value;
    }
    out
}

impl View for Padded<'_> {
    fn dtype(&self) -> Dtype {
        match self.checkpoint.stored_type() {
            StoredType::F32 => Dtype::F32,
            StoredType::F16 => Dtype::F16,
            StoredType::BF16 => Dtype::BF16,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let values = self.values().unwrap_or_default().into_iter(); // `write` has read them once already
        Cow::Owned(match self.checkpoint.stored_type() {
            StoredType::F32 => values.flat_map(f32::to_le_bytes).collect(),
            StoredType::F16 => values.flat_map(|x| f16::from_f32(x).to_le_bytes()).collect(),
            StoredType::BF16 => values.flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect(),
        })
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.checkpoint.stored_type().bytes()
    }
}
