//! The sinks of the backward pass: the whole model's gradients are kept, a candidate's are compared and dropped.

use std::collections::BTreeMap;

use taper_arch::{SelectedBlock, SubBlock};
use taper_kernels::{Moments, Pending, Result, Tensor, abs_product_sum, add, moments, square_sum};
use taper_model::{Gradient, Parameter, Place, Sink};

use crate::Seen;
use crate::sketch::{Projected, Sketch};

/// What is formed of a matrix's gradient.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Form<'a> {
    /// Compare gradients; by sketches if there are any.
    pub(crate) trace: bool,
    pub(crate) sketch: Option<&'a Sketch>,
    pub(crate) magnitudes: bool,
}

/// A matrix's gradient, as far as it was wanted: units as rows.
#[derive(Debug, Clone, Default)]
struct Formed {
    dense: Option<Tensor>,
    sketch: Option<Tensor>,
}

impl Formed {
    fn compared(&self) -> Option<&Tensor> {
        self.sketch.as_ref().or(self.dense.as_ref())
    }

    fn plus(self, other: Self) -> Result<Self> {
        let sum = |a: Option<Tensor>, b: Option<Tensor>| match (a, b) {
            (Some(a), Some(b)) => add(&a, &b).map(Some),
            (a, b) => Ok(a.or(b)),
        };
        Ok(Self { dense: sum(self.dense, other.dense)?, sketch: sum(self.sketch, other.sketch)? })
    }
}

/// Gradients of the whole model, and their own moments.
#[derive(Debug, Default)]
pub(crate) struct BaseTrace {
    gradients: BTreeMap<Place, (Tensor, Moments)>,
}

impl BaseTrace {
    /// The whole against itself.
    pub(crate) fn whole(&self, place: Place) -> Option<&(Tensor, Moments)> {
        self.gradients.get(&place)
    }
}

/// Sums the gradients of the pieces of a batch; with the last piece of each part the sums so far are handed to `done`.
pub(crate) struct TraceSink<'a> {
    form: Form<'a>,
    pending: BTreeMap<Place, Formed>,
    projected: Projected,
    /// Which part ends with the next piece, if one does.
    pub(crate) ends: Option<usize>,
    done: Done<'a>,
}

enum Done<'a> {
    Keep(Vec<BaseTrace>),
    Compare { base: &'a [BaseTrace], kept: &'a [SelectedBlock], d_head: usize, waiting: Vec<Waiting> },
}

/// Numbers of a sub-block that a machine may still be computing: waited for at the end of a part, all at once.
struct Waiting {
    block: usize,
    half: SubBlock,
    number: Number,
}

enum Number {
    Square(Pending<f64>),
    Saliency(Pending<f64>),
    /// Against the whole model's, with the latter's own.
    Trace(Pending<Moments>, Moments),
}

impl Waiting {
    fn add_to(self, seen: &mut Seen) -> Result<()> {
        match self.number {
            Number::Square(square) => *seen.gradient_square.get_or_insert(0.0) += square.wait()?,
            Number::Saliency(saliency) => *seen.saliency.get_or_insert(0.0) += saliency.wait()?,
            Number::Trace(moments, whole) => {
                let moments = moments.wait()?;
                let add = |sum: &mut Option<Moments>, m| *sum = Some(sum.unwrap_or_default().plus(m));
                add(&mut seen.trace, moments);
                add(&mut seen.trace_with_removed, moments.zeros_beside(whole));
            }
        }
        Ok(())
    }
}

impl<'a> TraceSink<'a> {
    /// Keeps the gradients of each of `parts` parts.
    pub(crate) fn keep(form: Form<'a>, parts: usize) -> Self {
        Self::new(form, Done::Keep((0..parts).map(|_| BaseTrace::default()).collect()))
    }

    /// Compares with `base`, one for each part.
    pub(crate) fn compare(form: Form<'a>, base: &'a [BaseTrace], kept: &'a [SelectedBlock], d_head: usize) -> Self {
        Self::new(form, Done::Compare { base, kept, d_head, waiting: Vec::new() })
    }

    fn new(form: Form<'a>, done: Done<'a>) -> Self {
        Self { form, pending: BTreeMap::new(), projected: Projected::default(), ends: None, done }
    }

    pub(crate) fn into_base(self) -> Vec<BaseTrace> {
        match self.done {
            Done::Keep(base) => base,
            Done::Compare { .. } => Vec::new(),
        }
    }

    /// What the part that has just ended saw.
    pub(crate) fn take_seen(&mut self) -> Result<Vec<[Seen; 2]>> {
        let Done::Compare { waiting, kept, .. } = &mut self.done else { return Ok(Vec::new()) };
        let mut seen = vec![[Seen::default(); 2]; kept.len()];
        for number in waiting.drain(..) {
            let (block, half) = (number.block, number.half as usize);
            number.add_to(&mut seen[block][half])?;
        }
        Ok(seen)
    }
}

impl Sink for TraceSink<'_> {
    fn take(&mut self, place: Place, gradient: Gradient<'_>) -> Result<()> {
        let (Some(half), Some(block)) = (place.parameter.traced(), place.block) else { return Ok(()) };
        let Gradient::Matrix { units, other, weight } = &gradient else { return Ok(()) };
        let dense = self.form.magnitudes || (self.form.trace && self.form.sketch.is_none());
        let mut formed = Formed { dense: dense.then(|| gradient.form()).transpose()?, sketch: None };
        if let (true, Some(sketch)) = (self.form.trace, self.form.sketch) {
            formed.sketch = Some(self.projected.form(sketch, place, units, other)?);
        }
        if let Some(before) = self.pending.remove(&place) {
            formed = before.plus(formed)?;
        }
        if let Some(part) = self.ends {
            self.hand_over(part, (place, block, half), (&formed, weight))?;
        }
        if self.ends.is_none_or(|part| part + 1 < self.parts()) {
            self.pending.insert(place, formed);
        }
        Ok(())
    }
}

impl TraceSink<'_> {
    fn parts(&self) -> usize {
        match &self.done {
            Done::Keep(base) => base.len(),
            Done::Compare { base, .. } => base.len(),
        }
    }

    /// The sum over all that `part` holds of one matrix's gradient.
    fn hand_over(
        &mut self,
        part: usize,
        (place, block, half): (Place, usize, SubBlock),
        (formed, weight): (&Formed, &Tensor),
    ) -> Result<()> {
        match &mut self.done {
            Done::Keep(base) => base[part].put(place, formed),
            Done::Compare { base, kept, d_head, waiting } => {
                let mut wait = |number| waiting.push(Waiting { block, half, number });
                if self.form.magnitudes
                    && let Some(dense) = &formed.dense
                {
                    wait(Number::Square(square_sum(dense)?));
                    wait(Number::Saliency(abs_product_sum(weight, dense)?));
                }
                match (self.form.trace, formed.compared(), base[part].whole(place)) {
                    (true, Some(ours), Some((theirs, whole))) => {
                        let moments = moments(ours, theirs, &rows(&kept[block], place.parameter, *d_head))?;
                        wait(Number::Trace(moments, *whole));
                        Ok(())
                    }
                    _ => Ok(()),
                }
            }
        }
    }
}

impl BaseTrace {
    fn put(&mut self, place: Place, formed: &Formed) -> Result<()> {
        if let Some(gradient) = formed.compared() {
            let all: Vec<usize> = (0..gradient.dims()[0]).collect();
            let moments = moments(gradient, gradient, &all)?.wait()?;
            self.gradients.insert(place, (gradient.clone(), moments));
        }
        Ok(())
    }
}

/// The rows of the whole model's matrix that `kept` keeps, in the order of the cut matrix.
fn rows(kept: &SelectedBlock, parameter: Parameter, d_head: usize) -> Vec<usize> {
    let wide = |units: &[usize]| units.iter().flat_map(|unit| unit * d_head..(unit + 1) * d_head).collect();
    match (parameter.traced(), &kept.attention, &kept.mlp) {
        (Some(SubBlock::Attention), Some(attention), _) => match parameter {
            Parameter::K | Parameter::V => wide(&attention.groups),
            _ => wide(&attention.heads),
        },
        (Some(SubBlock::Mlp), _, Some(channels)) => channels.clone(),
        _ => Vec::new(),
    }
}
