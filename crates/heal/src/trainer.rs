//! The loop of a training: steps, looks at the validation text, checkpoints.

use std::time::{Duration, Instant};

use taper_base::rng::{RngExt, stream};
use taper_model::{Model, PassMemory, Recompute};

use crate::cache::Cache;
use crate::checkpoint::{Checkpoints, State, Values};
use crate::error::{HealError, Result};
use crate::guide::Guides;
use crate::heal::TOKENS;
use crate::losses::{Losses, Piece};
use crate::material::{Examples, Source, loss_of};
use crate::metrics::{Metric, Metrics};
use crate::objectives::Teacher;
use crate::plan::{Job, Plan};
use crate::trained::Trained;

/// Steps in a row with a loss of more than twice the first one's, after which a training has failed.
const HIGH: u64 = 5;

/// What the first loss counts as, at least: one that begins near 0, as local ones may, does not burst by rising a little.
const LEAST: f64 = 0.5;

/// What is trained for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Blocks, each for itself.
    Local,
    /// The whole model.
    Global,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Global => "global",
        }
    }
}

/// A training in one of its phases.
pub(crate) struct Trainer<'a> {
    job: &'a Job<'a>,
    plan: &'a Plan,
    phase: Phase,
    trained: Trained,
    cache: Option<&'a Cache>,
    source: Source<'a>,
    checkpoints: Checkpoints,
    metrics: Metrics,
    state: State,
    voters: Vec<Values>,
    voting: Vec<Model>,
    recompute: Recompute,
    started: Instant,
    seen: Option<(u64, f64)>, // the last look at the validation text
}

impl<'a> Trainer<'a> {
    /// Ready to go on from the last checkpoint, if there is one.
    pub(crate) fn new(
        job: &'a Job<'a>,
        plan: &'a Plan,
        (phase, mut trained): (Phase, Trained),
        cache: Option<&'a Cache>,
    ) -> Result<Self> {
        let checkpoints = Checkpoints::new(job.folder.join("checkpoints").join(phase.name()), plan.keep)?;
        let last = checkpoints.steps()?.pop();
        let loaded = last.map(|step| checkpoints.load(step, &mut trained)).transpose()?;
        let (state, voters) = loaded.map_or_else(Default::default, |loaded| (Some(loaded.state), loaded.voters));
        let stood =
            state.as_ref().map_or((None, 0), |state| (Some(state.cursors.clone()), state.step * plan.sequences as u64));
        let source = Source::new(job, plan, trained.model().spec().vocab, stood)?;
        let state = match state {
            Some(state) => state,
            None => State {
                step: 0,
                tokens: 0,
                first: 0.0,
                high: 0,
                best: (0, loss_of(trained.running(), job)?),
                cursors: source.cursors(),
                voters: Vec::new(),
            },
        };
        let metrics = Metrics::open(job.folder, phase.name(), state.step)?;
        let voting = voters.iter().map(|values| trained.with_values(values)).collect::<Result<_>>()?;
        let recompute = recompute(trained.running(), plan, job.memory);
        let started = Instant::now();
        Ok(Self {
            job,
            plan,
            phase,
            trained,
            cache,
            source,
            checkpoints,
            metrics,
            state,
            voters,
            voting,
            recompute,
            started,
            seen: None,
        })
    }

    fn steps(&self) -> u64 {
        if self.phase == Phase::Local { self.plan.local_steps } else { self.plan.steps }
    }

    /// All steps that are left.
    pub(crate) fn run(&mut self) -> Result<()> {
        let steps = self.steps();
        let what = if self.phase == Phase::Local { "blocks, each for itself" } else { "training" };
        self.job.progress.begin(what, steps);
        self.job.progress.advance(self.state.step, "");
        let (mut saved, minutes) = (Instant::now(), self.plan.checkpoint_minutes);
        let (start, known) = (Instant::now(), self.state.tokens);
        while self.state.step < steps {
            let (loss, rate) = self.step()?;
            let step = self.state.step;
            let pace = (self.state.tokens - known) as f64 / start.elapsed().as_secs_f64().max(1e-9);
            let mut note = format!("loss {loss:.4}, rate {rate:.1e}, {pace:.0} tokens/s");
            if let Some((step, found)) = self.seen {
                note = format!("{note}, validation {found:.4} at step {step}");
            }
            let last = step == steps;
            let mut save = last || step.is_multiple_of(self.plan.checkpoint_every);
            if last || step.is_multiple_of(self.plan.validate_every) {
                let found = loss_of(self.trained.running(), self.job)?;
                self.metrics.put(Metric {
                    step,
                    tokens: self.state.tokens,
                    validation: Some(found),
                    ..Metric::default()
                })?;
                if found < self.state.best.1 {
                    self.state.best = (step, found);
                    save = true;
                }
                self.seen = Some((step, found));
            }
            let long = minutes.is_some_and(|minutes| saved.elapsed() > Duration::from_secs_f64(60.0 * minutes));
            if save || long {
                self.state.cursors = self.source.cursors();
                self.checkpoints.save(&self.trained, &self.state, &self.voters)?;
                saved = Instant::now();
            }
            self.job.progress.advance(1, &note);
        }
        self.job.progress.end();
        Ok(())
    }

    /// One step: its loss and the learning rate.
    fn step(&mut self) -> Result<(f64, f64)> {
        let (step, plan) = (self.state.step, self.plan);
        let rate = plan.schedule.factor(step, self.steps());
        let rate = rate * if self.phase == Phase::Local { plan.local_rate } else { plan.rate };
        self.trained.clear()?;
        let from = step * plan.sequences as u64;
        let examples = self.source.examples(from, plan.sequences as u64)?;
        let losses = self.gradients(&examples, from)?;
        self.trained.gather()?;
        let norm = self.trained.norm()?;
        let weighted = |(aim, loss): (&crate::Aim, &f64)| aim.weight * loss;
        let loss = match self.phase {
            Phase::Local => losses.iter().sum(),
            Phase::Global => plan.aims.iter().zip(&losses).map(weighted).sum(),
        };
        self.check(loss, norm)?;
        let scale = self.transform(norm, step)?;
        self.trained.update(&*plan.optimizer, (step + 1, rate, scale))?;
        self.state.step += 1;
        self.state.tokens += (plan.sequences * plan.length) as u64;
        self.vote()?;
        let names = plan.aims.iter().map(|aim| aim.name.clone());
        let objectives = if self.phase == Phase::Local { Vec::new() } else { names.zip(losses).collect() };
        self.metrics.put(Metric {
            step: self.state.step,
            tokens: self.state.tokens,
            loss: Some(loss),
            objectives,
            norm: Some(norm),
            rate: Some(rate),
            seconds: Some(self.started.elapsed().as_secs_f64()),
            ..Metric::default()
        })?;
        Ok((loss, rate))
    }

    /// Gradients of a batch, in pieces of whole sequences; losses, one an objective.
    fn gradients(&self, examples: &Examples, from: u64) -> Result<Vec<f64>> {
        let plan = self.plan;
        let wanted = plan.teachers();
        let logits = wanted.iter().any(|teacher| matches!(teacher, Teacher::Original { .. }));
        let guides = Guides {
            teacher: self.job.teacher.as_ref().filter(|_| plan.wants_teacher()),
            cache: self.cache,
            voters: &self.voting,
            wanted: &wanted,
            logits,
        };
        let losses = Losses { aims: &plan.aims, guides, origin: &self.job.origin, recompute: self.recompute };
        let learnt = examples.targets.iter().flatten().count();
        let (mut sums, head, whole) = (Vec::new(), self.trained.wants_head(), examples.batch()?);
        let (rows, mut at) = (examples.targets.len() / whole.sequences(), 0);
        for batch in whole.pieces(TOKENS) {
            let sequences = batch.sequences();
            let piece = Piece {
                batch,
                targets: &examples.targets[at * rows..(at + sequences) * rows],
                mixed: examples.mixed.get(at..at + sequences).unwrap_or_default(),
                learnt,
                share: sequences as f64 / plan.sequences as f64,
                first: from + at as u64,
                rows,
            };
            at += sequences;
            let mut sink = self.trained.sink();
            let found = match self.phase {
                Phase::Local => {
                    let models = (self.trained.running(), self.job.teacher.as_ref(), &self.job.origin[..]);
                    crate::local::piece(models, piece, self.recompute, &mut sink)?
                }
                Phase::Global => {
                    let branches = |block: usize, half: taper_arch::SubBlock| self.branches(piece, block, half);
                    let branches: Option<&taper_model::Branches<'_>> =
                        if plan.drop_path > 0.0 { Some(&branches) } else { None };
                    losses.piece(self.trained.running(), piece, (&mut sink, head), branches)?
                }
            };
            sums.resize(found.len(), 0.0);
            sums.iter_mut().zip(found).for_each(|(sum, loss)| *sum += loss);
        }
        Ok(sums)
    }

    /// ScheduledDropPath (arXiv:1707.07012): a branch of a sequence is dropped with probability `p · t / T` in step `t` of
    /// `T`, else divided by what is left, so that its mean stays.
    fn branches(&self, piece: Piece<'_>, block: usize, half: taper_arch::SubBlock) -> Vec<f32> {
        let (step, steps) = (self.state.step, self.steps());
        let drop = self.plan.drop_path * step as f64 / steps.max(1) as f64;
        let place = 2 * block as u64 + u64::from(half == taper_arch::SubBlock::Mlp);
        let one = |sequence: u64| {
            let kept = stream(self.plan.seed, "drop-path", sequence, place).random::<f64>() >= drop;
            if kept { (1.0 / (1.0 - drop)) as f32 } else { 0.0 }
        };
        (piece.first..piece.first + piece.batch.sequences() as u64).map(one).collect()
    }

    /// Adds noise to the gradient, of norm `norm`, clipped; what it is still to be multiplied with is returned.
    fn transform(&self, norm: f64, step: u64) -> Result<f32> {
        let scale = self.plan.clip.map_or(1.0, |clip| (clip / (norm + 1e-6)).min(1.0)) as f32; // torch's clip_grad_norm_
        let (Some(noise), seed) = (&self.plan.noise, self.plan.seed) else { return Ok(scale) };
        self.trained.each_gradient(&mut |index, gradient| {
            gradient.iter_mut().for_each(|g| *g *= scale);
            noise.add(gradient, step, (seed, index as u64));
        })?;
        Ok(1.0)
    }

    /// Stops a training that has failed.
    fn check(&mut self, loss: f64, norm: f64) -> Result<()> {
        let step = self.state.step;
        if step == 0 {
            self.state.first = loss;
        }
        self.state.high = if loss > 2.0 * self.state.first.max(LEAST) { self.state.high + 1 } else { 0 };
        let what = if !loss.is_finite() || !norm.is_finite() {
            format!("the loss is {loss}")
        } else if self.state.high == HIGH {
            format!(
                "the loss is {loss:.4}, and was above twice the first one, {:.4}, for {HIGH} steps",
                self.state.first.max(LEAST)
            )
        } else {
            return Ok(());
        };
        let last = self.checkpoints.steps()?.pop().map(|step| self.checkpoints.folder(step));
        let checkpoint =
            last.map_or_else(String::new, |path| format!("; the last good checkpoint is {}", path.display()));
        Err(HealError::Diverged { step, what, norm, checkpoint })
    }

    /// Lets the model of now vote from here on, if it is time.
    fn vote(&mut self) -> Result<()> {
        let voters = self.plan.teachers().into_iter().find_map(|teacher| match teacher {
            Teacher::Voters { count, every, .. } => Some((count, every)),
            _ => None,
        });
        let Some((count, every)) = voters.filter(|_| self.phase == Phase::Global) else { return Ok(()) };
        if !self.state.step.is_multiple_of(every.max(1)) {
            return Ok(());
        }
        let values = self.trained.snapshot()?;
        self.voting.push(self.trained.with_values(&values)?);
        self.voters.push(values);
        self.state.voters.push(self.state.step);
        while self.voters.len() > count.max(1) {
            self.voters.remove(0);
            self.voting.remove(0);
            self.state.voters.remove(0);
        }
        Ok(())
    }

    /// Tokens seen, and times that each text was read through.
    pub(crate) fn progress(&self) -> (u64, Vec<u64>) {
        (self.state.tokens, self.source.epochs())
    }

    /// What was trained, as it was after the step that is returned too; `begun` is as it was before the first.
    pub(crate) fn finish(mut self, begun: impl FnOnce() -> Result<Trained>) -> Result<(u64, Trained)> {
        let step = if self.plan.best { self.state.best.0 } else { self.state.step };
        if step == 0 && self.state.step > 0 {
            return Ok((0, begun()?));
        }
        self.trained.rest()?;
        if step != self.state.step {
            self.checkpoints.read(step, &mut self.trained, false)?;
        }
        Ok((step, self.trained))
    }
}

/// Whether activations fit half of the memory that is free; the result is the same.
fn recompute(model: &Model, plan: &Plan, memory: u64) -> Recompute {
    let tokens = TOKENS.max(plan.length).min(plan.sequences * plan.length);
    let memory_of = match model.machine() {
        None => PassMemory::of(model.spec(), tokens),
        Some(_) => PassMemory::on_machine(model.spec(), tokens, model.storage()),
    };
    let need = memory_of.backward(Recompute::Cheap);
    if need <= memory / 2 { Recompute::Cheap } else { Recompute::Insides }
}
