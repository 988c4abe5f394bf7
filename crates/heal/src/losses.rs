//! All objectives over a piece of a batch: losses forward, slopes backward.
//!
//! `L = Σ_objectives weight · mean`: over the tokens that are learnt for objectives of logits; over the pairs of blocks, or
//! over queries, keys and values, for the others, which are then averaged over the pieces of the batch by their sequences.
//! Logits exist for a piece of the tokens alone; whatever objectives want of them is added to one gradient, which goes
//! through the head once.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor as Host};
use rayon::prelude::*;
use taper_kernels::{HeadGradients, KernelError, Pending, Tensor, cpu, predictions, through_head};
use taper_model::{Batch, Branches, Model, ModelError, Pass, PassOptions, Recompute, Sink, Slopes};

use crate::error::Result;
use crate::guide::{Guides, Rows};
use crate::objectives::{Objective, OfLogits, Pair, View};
use crate::own::Own;

/// An objective and how much of it counts.
#[derive(Debug)]
pub struct Aim {
    /// The method's name.
    pub name: String,
    /// What it is multiplied with.
    pub weight: f64,
    /// The method.
    pub objective: Box<dyn Objective>,
}

/// Some whole sequences of a batch.
#[derive(Clone, Copy)]
pub(crate) struct Piece<'a> {
    pub(crate) batch: Batch<'a>,
    /// For each token what it is to predict, if that is to be learnt.
    pub(crate) targets: &'a [Option<u32>],
    /// What else is to be predicted of each image, and the first one's share, where images are mixed: a loss is then that mean of
    /// both targets' losses. Otherwise empty.
    pub(crate) mixed: &'a [(u32, f32)],
    /// Tokens of the whole batch that are learnt.
    pub(crate) learnt: usize,
    /// Share of the batch's sequences.
    pub(crate) share: f64,
    /// Number of its first sequence in the run.
    pub(crate) first: u64,
    /// Predictions a sequence: its tokens, or 1 of an image.
    pub(crate) rows: usize,
}

/// What losses are made of.
pub(crate) struct Losses<'a> {
    pub(crate) aims: &'a [Aim],
    pub(crate) guides: Guides<'a>,
    /// Which block of the teacher each block of the student was.
    pub(crate) origin: &'a [usize],
    pub(crate) recompute: Recompute,
}

impl Losses<'_> {
    fn wants(&self, what: fn(&View<'_>) -> bool) -> bool {
        self.aims.iter().any(|aim| what(&aim.objective.view()))
    }

    /// Losses of a piece, one an objective, each before its weight: their sum over all pieces is the batch's. Gradients of
    /// the weighted sum go to `sink`; that of the head only if it is wanted.
    pub(crate) fn piece(
        &self,
        model: &Model,
        piece: Piece<'_>,
        (sink, head): (&mut dyn Sink, bool),
        branches: Option<&Branches<'_>>,
    ) -> Result<Vec<f64>> {
        let relations = self.wants(|view| matches!(view, View::Relations(_)));
        let inner = relations || self.wants(|view| matches!(view, View::Streams(_)));
        let options = PassOptions { recompute: self.recompute, branches, projections: relations, whole: inner };
        let guide = self.guides.of(piece, inner, relations)?;
        let pass = model.pass(piece.batch, options)?;
        let mut losses = vec![0.0; self.aims.len()];
        let (mut slopes, mut coming) = (Slopes::default(), None);
        if let (Some(teacher), true) = (&guide.pass, inner) {
            self.streams((model, &pass), teacher, piece, (&mut losses, &mut slopes))?;
            self.relations((model, &pass), teacher, piece, (&mut losses, &mut slopes))?;
        }
        if self.wants(|view| matches!(view, View::Logits(_))) {
            let hidden = model.read(&pass)?;
            let mut take = |input: &Tensor, slopes: &Tensor| model.head_gradients(input, slopes, sink);
            let take: Option<&mut HeadGradients<'_>> = if head { Some(&mut take) } else { None };
            let original = guide.rows.original();
            let own = Own::of(self.aims, piece.learnt, original.is_some());
            let dy = match own.filter(|_| hidden.machine().is_some() && piece.mixed.is_empty()) {
                Some(own) => {
                    let (found, dy) = own_kernel(&own, (model, &hidden), original, (piece.targets, take))?;
                    coming = Some((own, found));
                    dy
                }
                None => self.logits((model, &hidden), piece, &guide.rows, (take, &mut losses))?,
            };
            slopes.end = Some(model.read_backward(&pass, &dy, sink)?);
        }
        drop(guide);
        if let Some(g) = pass.backward(model, slopes, sink)? {
            model.embed_backward(piece.batch, &g, sink)?;
        }
        if let Some((own, found)) = coming {
            own.add(&found.wait()?, &mut losses); // a machine is not waited for before
        }
        Ok(losses)
    }

    /// Losses of objectives of logits, without a gradient.
    pub(crate) fn logits(
        &self,
        (model, hidden): (&Model, &Tensor),
        piece: Piece<'_>,
        rows: &Rows<'_>,
        (take, losses): (Option<&mut HeadGradients<'_>>, &mut [f64]),
    ) -> Result<Tensor> {
        let of_logits: Vec<(usize, f64, &dyn OfLogits)> = self
            .aims
            .iter()
            .enumerate()
            .filter_map(|(index, aim)| match aim.objective.view() {
                View::Logits(objective) => Some((index, aim.weight, objective)),
                _ => None,
            })
            .collect();
        let vocab = model.spec().vocab;
        let each = 1.0 / piece.learnt.max(1) as f64;
        let head = model.output_head()?;
        let dy = through_head(hidden, &head, take, |start, logits| {
            let guides = rows.of(start, logits.len() / vocab).map_err(into_kernel)?;
            let places = logits.par_chunks_mut(vocab).enumerate();
            let found: Vec<Vec<f32>> = places
                .map_init(
                    || vec![0.0_f32; vocab],
                    |slopes, (row, logits)| {
                        let Some(target) = piece.targets[start + row] else {
                            logits.fill(0.0);
                            return vec![0.0; of_logits.len()];
                        };
                        let mixed = piece.mixed.get(start + row);
                        if let ([(_, weight, objective)], None) = (&of_logits[..], mixed)
                            && let Some(loss) = objective.in_place(logits, target, (weight * each) as f32)
                        {
                            return vec![loss];
                        }
                        slopes.fill(0.0);
                        let parts = mixed.map_or([(target, 1.0), (target, 0.0)], |(other, share)| {
                            [(target, *share), (*other, 1.0 - share)]
                        });
                        let one = |(_, weight, objective): &(usize, f64, &dyn OfLogits)| {
                            let guide = guides.row(objective.teacher(), row);
                            let there = parts.iter().filter(|(_, share)| *share > 0.0);
                            let of = |(target, share): &(u32, f32)| {
                                let scale = (weight * each) as f32 * share;
                                share * objective.loss(logits, *target, guide, scale, slopes)
                            };
                            there.map(of).sum()
                        };
                        let losses = of_logits.iter().map(one).collect();
                        logits.copy_from_slice(slopes);
                        losses
                    },
                )
                .collect();
            for row in found {
                for ((index, _, _), loss) in of_logits.iter().zip(row) {
                    losses[*index] += f64::from(loss) * each;
                }
            }
            Ok(())
        })?;
        Ok(dy)
    }

    fn streams(
        &self,
        (model, pass): (&Model, &Pass<'_>),
        teacher: &Pass<'_>,
        piece: Piece<'_>,
        (losses, slopes): (&mut [f64], &mut Slopes),
    ) -> Result<()> {
        let mut sums: BTreeMap<usize, Vec<f32>> = BTreeMap::new();
        for (aim, loss) in self.aims.iter().zip(losses) {
            let View::Streams(objective) = aim.objective.view() else { continue };
            let pairs = objective.pairs(self.origin, self.guides.blocks());
            let share = piece.share / pairs.len().max(1) as f64;
            for [own, other] in &pairs {
                let (found, gradient) =
                    pair(pass.stream(*own), teacher.stream(*other), piece, |pair| objective.loss(pair))?;
                *loss += found * share;
                let scale = (aim.weight * share) as f32;
                let sum = sums.entry(*own).or_insert_with(|| vec![0.0; gradient.len()]);
                sum.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += scale * g);
            }
        }
        for (block, sum) in sums {
            slopes.streams.insert(block, model.beside(&tensor(sum, pass.stream(block).dims())?)?);
        }
        Ok(())
    }

    fn relations(
        &self,
        (model, pass): (&Model, &Pass<'_>),
        teacher: &Pass<'_>,
        piece: Piece<'_>,
        (losses, slopes): (&mut [f64], &mut Slopes),
    ) -> Result<()> {
        let (Some(own), Some(other)) = (pass.projections(), teacher.projections()) else { return Ok(()) };
        let mut sums: Option<[Vec<f32>; 3]> = None;
        for (aim, loss) in self.aims.iter().zip(losses) {
            let View::Relations(objective) = aim.objective.view() else { continue };
            let share = piece.share / 3.0;
            for (kind, (own, other)) in own.into_iter().zip(other).enumerate() {
                let (found, gradient) = pair(own, other, piece, |pair| objective.loss(pair))?;
                *loss += found * share;
                let scale = (aim.weight * share) as f32;
                let sums = sums.get_or_insert_with(Default::default);
                sums[kind].resize(gradient.len(), 0.0);
                sums[kind].iter_mut().zip(gradient).for_each(|(sum, g)| *sum += scale * g);
            }
        }
        if let Some([q, k, v]) = sums {
            let slope = |values, of: &Tensor| -> Result<Tensor> { Ok(model.beside(&tensor(values, of.dims())?)?) };
            slopes.projections = Some([slope(q, own[0])?, slope(k, own[1])?, slope(v, own[2])?]);
        }
        Ok(())
    }
}

/// What a machine's own kernel finds, and the gradient of what the head saw.
fn own_kernel(
    own: &Own,
    (model, hidden): (&Model, &Tensor),
    original: Option<(&Model, &Tensor)>,
    (targets, take): (&[Option<u32>], Option<&mut HeadGradients<'_>>),
) -> Result<(Pending<Vec<f32>>, Tensor)> {
    let head = model.output_head()?;
    let original = original.filter(|_| own.compares());
    let original = original.map(|(teacher, seen)| Ok::<_, ModelError>((seen, teacher.output_head()?))).transpose()?;
    let teacher = original.as_ref().map(|(seen, head)| [*seen, head]);
    Ok(predictions([hidden, &head], teacher, targets, own.aims, take)?)
}

/// `loss` of the values of two tensors of rows.
fn pair(
    own: &Tensor,
    other: &Tensor,
    piece: Piece<'_>,
    loss: impl FnOnce(Pair<'_>) -> Result<(f64, Vec<f32>)>,
) -> Result<(f64, Vec<f32>)> {
    const OP: &str = "objectives";
    let widths = [own.dims()[1], other.dims()[1]];
    let (own, other) = (own.to_host()?, other.to_host()?);
    let (student, teacher) = (cpu::Values::of(OP, &own)?, cpu::Values::of(OP, &other)?);
    loss(Pair { student: &student, teacher: &teacher, shape: [piece.batch.sequences(), piece.batch.length()], widths })
}

fn tensor(values: Vec<f32>, shape: &[usize]) -> Result<Tensor> {
    let tensor = Host::from_vec(values, shape, &Device::Cpu);
    Ok(tensor.map_err(|cause| KernelError::Tensor { op: "objectives", cause })?.into())
}

/// An error on its way through the head's loop.
fn into_kernel(cause: crate::HealError) -> KernelError {
    match cause {
        crate::HealError::Kernel(cause) => cause,
        other => KernelError::Tensor { op: "objectives", cause: candle_core::Error::wrap(other) },
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use taper_model::{Checkpoint, Gradients};

    use super::*;

    /// Losses and gradients of mixed labels are the mean of those of either, in their shares; alone, and beside another objective.
    #[test]
    fn mixed_labels_are_learnt_in_their_shares() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/golden-vit/vit-plain");
        let model = Model::load(&Checkpoint::open(&folder).unwrap()).unwrap();
        let image = model.spec().image.unwrap();
        let pixels: Vec<f32> = (0..2 * image.pixels()).map(|i| (i as f32 * 0.7).sin()).collect();
        let batch = Batch::images(&pixels, &[0, 0], image).unwrap();
        for names in [&["cross-entropy"][..], &["cross-entropy", "cross-entropy"]] {
            let aim = |(at, name): (usize, &&str)| Aim {
                name: (*name).to_owned(),
                weight: 1.0 + at as f64,
                objective: crate::objectives::build(name, &serde_json::json!({"label_smoothing": 0.1 * at as f64}))
                    .unwrap(),
            };
            let aims: Vec<Aim> = names.iter().enumerate().map(aim).collect();
            let guides = Guides { teacher: None, cache: None, voters: &[], wanted: &[], logits: false };
            let losses = Losses { aims: &aims, guides, origin: &[0, 1], recompute: Recompute::Nothing };
            let of = |targets: [u32; 2], mixed: &[(u32, f32)]| {
                let (targets, mut sink) = (targets.map(Some), Gradients::default());
                let piece = Piece { batch, targets: &targets, mixed, learnt: 2, share: 1.0, first: 0, rows: 1 };
                let found = losses.piece(&model, piece, (&mut sink, true), None).unwrap();
                let gradients = sink.by_place.into_values().flat_map(|gradient| gradient.to_vec().unwrap());
                (found, gradients.collect::<Vec<f32>>())
            };
            let (one, other) = (of([1, 2], &[]), of([3, 2], &[])); // the second image is mixed with one of its own class
            let (found, gradients) = of([1, 2], &[(3, 0.25), (2, 0.5)]);
            for ((found, a), b) in found.iter().zip(&one.0).zip(&other.0) {
                assert!((found - (0.25 * a + 0.75 * b)).abs() < 1e-6, "{found} of {a} and {b}");
            }
            for ((found, a), b) in gradients.iter().zip(&one.1).zip(&other.1) {
                assert!((found - (0.25 * a + 0.75 * b)).abs() < 1e-6, "{found} of {a} and {b}");
            }
        }
    }
}
