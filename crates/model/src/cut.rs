//! The one cutting routine: scoring, healing and export all take a [`Model`] from here.
//!
//! A prefix of the units is a view; anything else is copied. So a model sorted once by calibration is cut without a copy
//! (`ARCHITECTURE.md`).

use taper_arch::{AttentionSpec, BlockSpec, MlpSpec, SelectedAttention, SelectedBlock, SubBlock};
use taper_kernels::{KernelError, Tensor};

use crate::error::at;
use crate::model::{Attention, Block, Mlp, Model};
use crate::{ModelError, Result};

impl Model {
    /// The model that keeps `blocks`: the units named, in the order named.
    ///
    /// Equals this model with the outputs of all other heads and channels set to zero. Every kept head's KV group must
    /// be kept; groups may keep different numbers of heads.
    ///
    /// # Errors
    /// [`ModelError::Selection`] naming the block that does not fit.
    pub fn cut(&self, blocks: &[SelectedBlock]) -> Result<Self> {
        self.clone().into_cut(blocks)
    }

    /// As [`Model::cut`], but each block's weights are let go once it is cut: no second model in memory, if nobody else
    /// holds this one.
    ///
    /// # Errors
    /// As [`Model::cut`].
    pub fn into_cut(self, blocks: &[SelectedBlock]) -> Result<Self> {
        if blocks.len() != self.blocks.len() {
            let reason = format!("{} blocks are selected, the model has {}", blocks.len(), self.blocks.len());
            return Err(ModelError::Selection { place: "blocks".to_owned(), reason });
        }
        let Self { mut spec, embedding, images, blocks: whole, norm, head } = self;
        let mut cut = Vec::with_capacity(blocks.len());
        for (index, (block, kept)) in whole.into_iter().zip(blocks).enumerate() {
            let place = |half: SubBlock| format!("block {index}, {half}");
            let refuse = |half, reason: &str| ModelError::Selection { place: place(half), reason: reason.to_owned() };
            let attention = match (&block.attention, &kept.attention) {
                (_, None) => None,
                (None, Some(_)) => {
                    return Err(refuse(SubBlock::Attention, "is selected, but the model has none there"));
                }
                (Some(attention), Some(kept)) => {
                    let new = attention.cut(spec.d_head, kept);
                    Some(new.map_err(|reason| reason.at(place(SubBlock::Attention)))?)
                }
            };
            let mlp = match (&block.mlp, &kept.mlp) {
                (_, None) => None,
                (None, Some(_)) => return Err(refuse(SubBlock::Mlp, "is selected, but the model has none there")),
                (Some(mlp), Some(kept)) => Some(mlp.cut(kept).map_err(|reason| reason.at(place(SubBlock::Mlp)))?),
            };
            spec.blocks[index] = BlockSpec {
                attention: attention.as_ref().map(|a| AttentionSpec {
                    n_heads: a.kv_of.len(),
                    n_kv_heads: a.n_kv_heads,
                    window: a.window,
                }),
                mlp: kept.mlp.as_ref().map(|kept| MlpSpec { d_ff: kept.len() }),
            };
            cut.push(Block { attention, mlp });
        }
        Ok(Self { spec, embedding, images, blocks: cut, norm, head })
    }
}

/// Why a selection failed, before its place is known.
enum Fault {
    Reason(String),
    Kernel(KernelError),
}

impl Fault {
    fn at(self, place: String) -> ModelError {
        match self {
            Self::Reason(reason) => ModelError::Selection { place, reason },
            Self::Kernel(cause) => at(place)(cause),
        }
    }
}

impl From<KernelError> for Fault {
    fn from(cause: KernelError) -> Self {
        Self::Kernel(cause)
    }
}

impl Attention {
    fn cut(&self, d_head: usize, kept: &SelectedAttention) -> std::result::Result<Self, Fault> {
        let (heads, groups) = (check(&kept.heads, self.kv_of.len())?, check(&kept.groups, self.n_kv_heads)?);
        let kv_of: Option<Vec<usize>> =
            heads.iter().map(|head| groups.iter().position(|group| *group == self.kv_of[*head])).collect();
        let kv_of = kv_of.ok_or_else(|| Fault::Reason("a head is selected whose KV group is not".to_owned()))?;
        let (by_head, by_group) = (|t: &Tensor| pick(t, heads, d_head), |t: &Tensor| pick(t, groups, d_head));
        let bias = match &self.qkv_bias {
            Some([q, k, v]) => Some([by_head(q)?, by_group(k)?, by_group(v)?]),
            None => None,
        };
        Ok(Self {
            q: by_head(&self.q)?,
            k: by_group(&self.k)?,
            v: by_group(&self.v)?,
            o: by_head(&self.o)?,
            qkv_bias: bias,
            kv_of,
            n_kv_heads: groups.len(),
            ..self.clone()
        })
    }
}

impl Mlp {
    fn cut(&self, kept: &[usize]) -> std::result::Result<Self, Fault> {
        let channels = check(kept, self.up.dims()[0])?;
        let part = |t: &Tensor| pick(t, channels, 1);
        let optional = |t: &Option<Tensor>| t.as_ref().map(part).transpose();
        let (gate, gate_bias, up_bias) = (optional(&self.gate)?, optional(&self.gate_bias)?, optional(&self.up_bias)?);
        Ok(Self { gate, up: part(&self.up)?, down: part(&self.down)?, gate_bias, up_bias, ..self.clone() })
    }
}

fn check(units: &[usize], of: usize) -> std::result::Result<&[usize], Fault> {
    let mut seen = vec![false; of];
    for unit in units {
        match seen.get_mut(*unit) {
            None => return Err(Fault::Reason(format!("unit {unit} is not there: the model has {of}"))),
            Some(true) => return Err(Fault::Reason(format!("unit {unit} is selected twice"))),
            Some(seen) => *seen = true,
        }
    }
    if units.is_empty() { Err(Fault::Reason("no unit is selected".to_owned())) } else { Ok(units) }
}

/// Rows of `tensor` that belong to `units`, `width` rows each: a view if they are the first ones in order.
fn pick(tensor: &Tensor, units: &[usize], width: usize) -> taper_kernels::Result<Tensor> {
    if units.iter().enumerate().all(|(at, unit)| at == *unit) {
        return tensor.rows(0, units.len() * width);
    }
    let rows: Vec<u32> =
        units.iter().flat_map(|unit| (unit * width..(unit + 1) * width).map(|row| row as u32)).collect();
    tensor.pick(&rows)
}
