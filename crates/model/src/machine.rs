//! A model on a GPU, or on a machine that stands in for one.

use std::sync::Arc;

use taper_arch::SubBlock;
use taper_kernels::Tensor;
use taper_kernels::cuda::{Kind, Machine, Storage};

use crate::error::at;
use crate::model::{Attention, Block, Mlp};
use crate::{Model, Result};

impl Model {
    /// The type that values have on the machine it lies on; of a model on the CPU what they would best have there: f32 if
    /// the weights are, else bf16, to which f16 is rounded.
    pub fn storage(&self) -> Storage {
        match &self.embedding {
            Tensor::Cuda(array) if array.kind() == Kind::F32 => Storage::F32,
            Tensor::Cuda(_) => Storage::Bf16,
            Tensor::Host(_) => Storage::of_bytes(self.spec.dtype_bytes),
        }
    }

    /// The same model on `machine`, where from then on its passes run: all weights, norms and biases among them, and all
    /// activations in `storage`, sums and gradients of parameters in f32. Cutting it gives models there.
    ///
    /// # Errors
    /// If it lies on a machine already, or there is no room for it.
    pub fn to_machine(&self, machine: &Arc<dyn Machine>, storage: Storage) -> Result<Self> {
        let to = |tensor: &Tensor| tensor.to_machine(machine, storage);
        let block = |(index, block): (usize, &Block)| -> Result<Block> {
            let place = |half: SubBlock| at(format!("block {index}, {half}"));
            let attention = block.attention.as_ref().map(|attention| attention.each(&to));
            let mlp = block.mlp.as_ref().map(|mlp| mlp.each(&to));
            Ok(Block {
                attention: attention.transpose().map_err(place(SubBlock::Attention))?,
                mlp: mlp.transpose().map_err(place(SubBlock::Mlp))?,
            })
        };
        Ok(Self {
            spec: self.spec.clone(),
            embedding: to(&self.embedding).map_err(at("embedding"))?,
            blocks: self.blocks.iter().enumerate().map(block).collect::<Result<_>>()?,
            images: self.images.as_ref().map(|images| images.each(&to)).transpose().map_err(at("embedding"))?,
            norm: self.norm.each(&to).map_err(at("final norm"))?,
            head: self.head.as_ref().map(to).transpose().map_err(at("head"))?,
        })
    }

    /// `tensor` where the model's weights lie, in the type that values have there.
    ///
    /// # Errors
    /// If it lies on another machine, or there is no room.
    pub fn beside(&self, tensor: &Tensor) -> taper_kernels::Result<Tensor> {
        tensor.beside(&self.embedding)
    }

    /// The machine it lies on; none is the CPU.
    pub fn machine(&self) -> Option<&Arc<dyn Machine>> {
        self.embedding.machine()
    }
}

/// What becomes of a tensor.
type To<'a> = dyn Fn(&Tensor) -> taper_kernels::Result<Tensor> + 'a;

fn each<const N: usize>(tensors: &Option<[Tensor; N]>, to: &To<'_>) -> taper_kernels::Result<Option<[Tensor; N]>> {
    let Some(tensors) = tensors else { return Ok(None) };
    let mut moved = tensors.clone();
    moved.iter_mut().try_for_each(|tensor| to(tensor).map(|there| *tensor = there))?;
    Ok(Some(moved))
}

impl Attention {
    fn each(&self, to: &To<'_>) -> taper_kernels::Result<Self> {
        Ok(Self {
            norm: self.norm.each(to)?,
            q: to(&self.q)?,
            k: to(&self.k)?,
            v: to(&self.v)?,
            o: to(&self.o)?,
            qkv_bias: each(&self.qkv_bias, to)?,
            o_bias: self.o_bias.as_ref().map(to).transpose()?,
            qk_norm: each(&self.qk_norm, to)?,
            scale: self.scale.as_ref().map(to).transpose()?,
            kv_of: self.kv_of.clone(),
            ..*self
        })
    }
}

impl Mlp {
    fn each(&self, to: &To<'_>) -> taper_kernels::Result<Self> {
        let optional = |tensor: &Option<Tensor>| tensor.as_ref().map(to).transpose();
        Ok(Self {
            norm: self.norm.each(to)?,
            activation: self.activation,
            gate: optional(&self.gate)?,
            up: to(&self.up)?,
            down: to(&self.down)?,
            gate_bias: optional(&self.gate_bias)?,
            up_bias: optional(&self.up_bias)?,
            down_bias: optional(&self.down_bias)?,
            scale: optional(&self.scale)?,
        })
    }
}
