//! The forward pass through some blocks, and back.
//!
//! The forward keeps the input of each sub-block; the backward takes them last to first, and needs of each its inner
//! activations, which it has kept or computes again (`Recompute`). So the memory of a pass is `2 · blocks` residual streams
//! and, recomputing, the inside of one sub-block; a third more work. Frozen weights: no gradient is formed unless the
//! [`Sink`] forms it.

use std::collections::BTreeMap;
use std::ops::Range;

use taper_arch::SubBlock;
use taper_kernels::{Tensor, add, scale_sequences};

use crate::attention::{AttentionTape, Context, picked};
use crate::error::at;
use crate::mlp::MlpTape;
use crate::{Batch, Model, ModelError, Result, Sink};

/// What to keep between the passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recompute {
    /// All activations: fastest.
    Nothing,
    /// All but norms and what the MLP's activation makes: a third less, for hardly any work.
    Cheap,
    /// The inputs of sub-blocks; their insides are computed again.
    Insides,
}

/// What each sequence's branch is multiplied with in a sub-block before it joins the residual stream.
pub type Branches<'a> = dyn Fn(usize, SubBlock) -> Vec<f32> + 'a;

/// How to go forward.
#[derive(Clone, Copy)]
pub struct PassOptions<'a> {
    /// What to keep.
    pub recompute: Recompute,
    /// Factors of branches, if there are any: those of dropped paths are 0.
    pub branches: Option<&'a Branches<'a>>,
    /// Whether queries, keys and values of the last attention are kept.
    pub projections: bool,
    /// Whether all tokens go to the end, or from the last attention on only those that the head reads: a class token, say. What the
    /// head reads is the same.
    pub whole: bool,
}

impl PassOptions<'_> {
    /// Nothing but a pass of all tokens to the end.
    pub fn new(recompute: Recompute) -> Self {
        Self { recompute, branches: None, projections: false, whole: true }
    }

    /// Nothing but a pass to what the head reads.
    pub fn to_head(recompute: Recompute) -> Self {
        Self { whole: false, ..Self::new(recompute) }
    }
}

enum Tape {
    Attention(Box<AttentionTape>),
    Mlp(Box<MlpTape>),
}

impl Tape {
    fn slim(self) -> Self {
        match self {
            Self::Attention(tape) => Self::Attention(Box::new(tape.slim())),
            Self::Mlp(tape) => Self::Mlp(Box::new(tape.slim())),
        }
    }
}

/// One sub-block gone through.
pub(crate) struct Step {
    pub(crate) block: usize,
    pub(crate) half: SubBlock,
    input: Tensor,
    tape: Option<Tape>,
    branches: Option<Vec<f32>>, // a sequence
    last: bool,                 // from here on there are only the rows that the head reads
}

impl Step {
    fn place(&self) -> String {
        place(self.block, self.half)
    }

    /// The input of its output projection, if that was kept.
    pub(crate) fn units(&self) -> Option<&Tensor> {
        match &self.tape {
            Some(Tape::Attention(tape)) => Some(tape.units()),
            Some(Tape::Mlp(tape)) => tape.units(),
            None => None,
        }
    }
}

fn place(block: usize, half: SubBlock) -> String {
    format!("block {block}, {half}")
}

/// A sub-block's gradient on its way back: of its branch, and of the residual stream that passes by.
#[derive(Clone, Copy)]
pub(crate) struct Flow<'a> {
    pub(crate) branch: &'a Tensor,
    pub(crate) stream: &'a Tensor,
}

/// Gradients of a loss with respect to what a pass went through; what is not there is 0.
#[derive(Debug, Default)]
pub struct Slopes {
    /// Of the residual stream at the end.
    pub end: Option<Tensor>,
    /// Of the residual stream after a block, by its number.
    pub streams: BTreeMap<usize, Tensor>,
    /// Of queries, keys and values of the last attention, as [`Pass::projections`] has them.
    pub projections: Option<[Tensor; 3]>,
}

/// A forward pass that can be gone back.
pub struct Pass<'a> {
    context: Context<'a>,
    steps: Vec<Step>,
    end: Tensor,
}

impl Model {
    /// Runs `blocks` from the residual stream `x` on; `each` gets a step, its tape and what comes out.
    pub(crate) fn run(
        &self,
        context: &Context<'_>,
        (blocks, mut x): (Range<usize>, Tensor),
        branches: Option<&Branches<'_>>,
        each: &mut dyn FnMut(Step) -> taper_kernels::Result<()>,
    ) -> Result<Tensor> {
        let last = blocks.clone().rfind(|index| self.blocks[*index].attention.is_some());
        for index in blocks {
            let block = &self.blocks[index];
            for half in [SubBlock::Attention, SubBlock::Mlp] {
                let factors = branches.map(|branches| branches(index, half));
                let last = half == SubBlock::Attention && last == Some(index) && context.read.is_some();
                let look = context.look(last);
                let stream = picked(&x, look).map_err(at(place(index, half)))?;
                let base = Some(&stream).filter(|_| factors.is_none());
                let forward = match (half, &block.attention, &block.mlp) {
                    (SubBlock::Attention, Some(attention), _) => attention
                        .forward(context, (&x, look), base)
                        .map(|(y, tape)| (y, Tape::Attention(Box::new(tape)))),
                    (SubBlock::Mlp, _, Some(mlp)) => {
                        mlp.forward(context, &x, base).map(|(y, tape)| (y, Tape::Mlp(Box::new(tape))))
                    }
                    _ => continue,
                };
                let (mut y, tape) = forward.map_err(at(place(index, half)))?;
                if let Some(factors) = &factors {
                    let joined = scale_sequences(&y, factors).and_then(|branch| add(&stream, &branch));
                    y = joined.map_err(at(place(index, half)))?;
                }
                drop(stream);
                let step = Step { block: index, half, input: x, tape: Some(tape), branches: factors, last };
                each(step).map_err(at(place(index, half)))?;
                x = y;
            }
        }
        Ok(x)
    }

    /// Goes forward through all blocks from the embedding on.
    ///
    /// # Errors
    /// If an id is outside the vocabulary, or an operation fails.
    pub fn pass<'a>(&self, batch: Batch<'a>, options: PassOptions<'_>) -> Result<Pass<'a>> {
        self.pass_over(batch, (0..self.blocks.len(), self.embedded(batch)?), options)
    }

    /// Goes forward through `blocks` from the residual stream `x` before them.
    ///
    /// # Errors
    /// If there are no such blocks, or an operation fails.
    pub fn pass_over<'a>(
        &self,
        batch: Batch<'a>,
        (blocks, x): (Range<usize>, Tensor),
        options: PassOptions<'_>,
    ) -> Result<Pass<'a>> {
        if blocks.end > self.blocks.len() {
            let reason = format!("{blocks:?} are to be run, the model has {}", self.blocks.len());
            return Err(ModelError::Selection { place: "blocks".to_owned(), reason });
        }
        let whole = options.whole || blocks != (0..self.blocks.len());
        let context = self.context(batch, whole)?;
        let mut steps: Vec<Step> = Vec::with_capacity(2 * blocks.len());
        let end = self.run(&context, (blocks, x), options.branches, &mut |mut step| {
            step.tape = match (options.recompute, step.tape) {
                (Recompute::Nothing, tape) => tape,
                (Recompute::Cheap, tape) => tape.map(Tape::slim),
                (Recompute::Insides, _) => None,
            };
            steps.push(step);
            Ok(())
        })?;
        let mut pass = Pass { context, steps, end };
        if options.projections
            && let Some(step) = pass.steps.iter_mut().rfind(|step| step.half == SubBlock::Attention)
            && step.tape.is_none()
        {
            step.tape = self.tape(&pass.context, step).map_err(at(step.place()))?;
        }
        Ok(pass)
    }

    /// The insides of a step, computed again.
    fn tape(&self, context: &Context<'_>, step: &Step) -> taper_kernels::Result<Option<Tape>> {
        let block = &self.blocks[step.block];
        Ok(match (step.half, &block.attention, &block.mlp) {
            (SubBlock::Attention, Some(attention), _) => {
                let look = context.look(step.last);
                Some(Tape::Attention(Box::new(attention.tape(context, &step.input, look)?)))
            }
            (SubBlock::Mlp, _, Some(mlp)) => Some(Tape::Mlp(Box::new(mlp.tape(context, &step.input)?))),
            _ => None, // a step is only made of a half that is there
        })
    }

    fn step_backward(
        &self,
        context: &Context<'_>,
        mut step: Step,
        g: &Tensor,
        (projections, sink): (Option<[Tensor; 3]>, &mut dyn Sink),
    ) -> taper_kernels::Result<Tensor> {
        let tape = match step.tape.take() {
            Some(tape) => Some(tape),
            None => self.tape(context, &step)?,
        };
        let scaled = step.branches.as_ref().map(|factors| scale_sequences(g, factors)).transpose()?;
        let flow = Flow { branch: scaled.as_ref().unwrap_or(g), stream: g };
        let (block, input) = (&self.blocks[step.block], &step.input);
        match (tape, &block.attention, &block.mlp) {
            (Some(Tape::Attention(tape)), Some(attention), _) => {
                let look = context.look(step.last);
                attention.backward(context, (step.block, input, look), (*tape, projections), flow, sink)
            }
            (Some(Tape::Mlp(tape)), _, Some(mlp)) => mlp.backward(context, (step.block, input), *tape, flow, sink),
            _ => Ok(g.clone()),
        }
    }
}

impl Pass<'_> {
    /// The residual stream after the last block, before the final norm: `[tokens, d_model]`, of all tokens or those that the head
    /// reads.
    pub fn end(&self) -> &Tensor {
        &self.end
    }

    /// Whether the end is of those tokens alone that the head reads.
    pub(crate) fn ends_at_head(&self) -> bool {
        self.context.read.is_some()
    }

    /// The residual stream after block `block`: `[tokens, d_model]`, as long as all go to the end.
    pub fn stream(&self, block: usize) -> &Tensor {
        self.steps.iter().find(|step| step.block > block).map_or(&self.end, |step| &step.input)
    }

    /// Queries, keys and values of the last attention as they are attended, `[tokens, heads · d_head]`, if they were to be
    /// kept and there is one.
    pub fn projections(&self) -> Option<[&Tensor; 3]> {
        self.steps.iter().rev().find_map(|step| match &step.tape {
            Some(Tape::Attention(tape)) => Some(tape.projections()),
            _ => None,
        })
    }

    /// Goes back: the gradient of the residual stream that the pass began with, those of parameters to `sink`. `None` if no
    /// slope is given, so that all is 0.
    ///
    /// # Errors
    /// If an operation fails, or what the sink returns.
    pub fn backward(self, model: &Model, slopes: Slopes, sink: &mut dyn Sink) -> Result<Option<Tensor>> {
        let Pass { context, mut steps, end } = self;
        let Slopes { end: mut g, mut streams, mut projections } = slopes;
        let shape = end.dims().to_vec();
        drop(end);
        while let Some(step) = steps.pop() {
            join(&mut g, &mut streams, step.block)?;
            let own = projections.take_if(|_| step.half == SubBlock::Attention);
            if g.is_none() && own.is_some() {
                let zero = candle_core::Tensor::zeros(&shape[..], candle_core::DType::F32, &candle_core::Device::Cpu);
                let zero = zero.map_err(crate::error::candle("zeros"));
                g = Some(zero.and_then(|zero| model.beside(&zero.into())).map_err(at(step.place()))?);
            }
            let Some(slope) = &g else { continue };
            let place = step.place();
            let before = model.step_backward(&context, step, slope, (own, sink)).map_err(at(place))?;
            g = Some(before);
        }
        join(&mut g, &mut streams, 0)?;
        Ok(g)
    }
}

/// Adds what is left of `streams` from block `block` on.
fn join(g: &mut Option<Tensor>, streams: &mut BTreeMap<usize, Tensor>, block: usize) -> Result<()> {
    for (number, slope) in streams.split_off(&block) {
        *g = Some(match g.take() {
            Some(g) => add(&g, &slope).map_err(at(format!("stream after block {number}")))?,
            None => slope,
        });
    }
    Ok(())
}
