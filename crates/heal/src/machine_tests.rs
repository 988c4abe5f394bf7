//! Trainings whose passes run on a machine, the emulated one, against the same on the CPU, which the references hold to PyTorch.
//! Once more on a GPU where there is one (`--features cuda`, `--ignored`).

use std::sync::Arc;

use serde_json::{Value, json};
use taper_arch::{SelectedBlock, Selection, SubBlock};
use taper_kernels::cuda::{Machine, Storage};
use taper_model::{Batch, Checkpoint, Model, Recompute};

use crate::guide::Guides;
use crate::losses::{Losses, Piece};
use crate::objectives::{self, Teacher, View};
use crate::trained::Trained;
use crate::{AdapterSettings, Aim, Training, local, optimizers};

/// Of losses and of the norm of each gradient. f32: sums in other orders. bf16: weights and activations have 8 bits.
const F32: f64 = 1e-5;
const BF16: [f64; 2] = [3e-2, 1e-1];
const STEPS: u64 = 3;

type At = Option<(Arc<dyn Machine>, Storage)>;

/// A golden model as the teacher, and what is left of it: half of all channels, and no attention in the last block.
struct Pair {
    teacher: Model,
    student: Model,
    ids: Vec<u32>,
    length: usize,
}

impl Pair {
    fn open(name: &str) -> Self {
        let folder = testkit::golden().join(name);
        let golden =
            candle_core::safetensors::load(folder.join("golden.safetensors"), &candle_core::Device::Cpu).unwrap();
        let ids = golden["input_ids"].to_dtype(candle_core::DType::U32).unwrap().to_vec2::<u32>().unwrap();
        let teacher = Model::load(&Checkpoint::open(&folder).unwrap()).unwrap();
        let mut kept: Vec<SelectedBlock> = Selection::whole(teacher.spec()).blocks;
        kept.iter_mut().filter_map(|block| block.mlp.as_mut()).for_each(|all| all.truncate(all.len() / 2));
        kept.last_mut().unwrap().attention = None;
        let student = teacher.cut(&kept).unwrap();
        Self { teacher, student, length: ids[0].len(), ids: ids.concat() }
    }

    fn piece<'a>(&'a self, targets: &'a [Option<u32>], first: Option<&'a [u32]>) -> Piece<'a> {
        let batch = Batch::new(&self.ids, self.length).unwrap();
        let batch = first.map_or(batch, |first| batch.seeing_from(first));
        let learnt = targets.iter().flatten().count();
        Piece { batch, targets, mixed: &[], learnt, share: 1.0, first: 0, rows: self.length }
    }

    /// Losses of some steps, and the first one's gradients.
    fn train(&self, case: &Case, at: &At) -> (Vec<f64>, Vec<Vec<f32>>) {
        let optimizer = optimizers::build("adamw", &Value::Null).unwrap();
        let on = |model: &Model| match at {
            Some((machine, storage)) => model.to_machine(machine, *storage).unwrap(),
            None => model.clone(),
        };
        let teacher = on(&self.teacher);
        let mut trained = Trained::new(self.student.clone(), &case.training, (&*optimizer, 0), at.as_ref()).unwrap();
        let targets: Vec<Option<u32>> =
            self.ids.iter().skip(1).chain([&0]).enumerate().map(|(t, id)| (t % 5 != 4).then_some(*id)).collect();
        let starts: Vec<u32> = (0..self.ids.len()).map(|t| (t % self.length / 5 * 5) as u32).collect();
        let piece = self.piece(&targets, case.apart.then_some(&starts));
        let origin = (0..self.student.spec().blocks.len()).collect::<Vec<_>>();
        let teacher_of = |aim: &Aim| match aim.objective.view() {
            View::Logits(objective) => Some(objective.teacher()),
            _ => None,
        };
        let wanted: Vec<Teacher> = case.aims.iter().filter_map(teacher_of).collect();
        let (mut losses, mut gradients) = (Vec::new(), Vec::new());
        let mut voters = Vec::new();
        for step in 0..STEPS {
            trained.clear().unwrap();
            let mut sink = trained.sink();
            let found = if case.local {
                let models = (trained.running(), Some(&teacher), &origin[..]);
                local::piece(models, piece, Recompute::Insides, &mut sink).unwrap()
            } else {
                let guides =
                    Guides { teacher: Some(&teacher), cache: None, voters: &voters, wanted: &wanted, logits: true };
                let running = Losses { aims: &case.aims, guides, origin: &origin, recompute: Recompute::Cheap };
                let dropped = |block: usize, _: SubBlock| {
                    (0..piece.batch.sequences()).map(|sequence| [0.0, 2.0][(block + sequence) % 2]).collect()
                };
                let branches: Option<&taper_model::Branches<'_>> = case.drops.then_some(&dropped);
                running.piece(trained.running(), piece, (&mut sink, trained.wants_head()), branches).unwrap()
            };
            losses.extend(found);
            trained.gather().unwrap();
            if step == 0 {
                trained.each_gradient(&mut |_, gradient| gradients.push(gradient.to_vec())).unwrap();
            }
            trained.update(&*optimizer, (step + 1, 1e-3, 1.0)).unwrap();
            voters = vec![trained.with_values(&trained.snapshot().unwrap()).unwrap()];
        }
        (losses, gradients)
    }
}

struct Case {
    what: &'static str,
    aims: Vec<Aim>,
    training: Training,
    local: bool,
    drops: bool,
    apart: bool, // documents of five tokens
}

fn case(what: &'static str, aims: &[(&str, Value)]) -> Case {
    let aim = |(name, params): &(&str, Value)| Aim {
        name: (*name).to_owned(),
        weight: 0.5,
        objective: objectives::build(name, params).unwrap(),
    };
    let training = Training::Parameters(vec!["*".to_owned()]);
    Case { what, aims: aims.iter().map(aim).collect(), training, local: false, drops: false, apart: false }
}

fn adapted(dora: bool) -> Training {
    Training::Adapters(AdapterSettings { rank: 4, alpha: 8.0, targets: vec!["*".to_owned()], dora })
}

fn cases() -> Vec<Case> {
    let none = || json!({});
    vec![
        case("cross-entropy", &[("cross-entropy", none())]),
        case("two of a kind", &[("cross-entropy", none()), ("cross-entropy", none())]),
        case("smoothed, and divergence", &[("cross-entropy", json!({"label_smoothing": 0.1})), ("logit-kl", none())]),
        case("reverse, hot", &[("logit-kl", json!({"direction": "reverse", "temperature": 2.0}))]),
        case("between", &[("logit-kl", json!({"direction": "jensen-shannon", "beta": 0.3, "temperature": 0.7}))]),
        case("likeliest, between", &[("logit-kl", json!({"direction": "jensen-shannon", "top": 4}))]),
        case("insides", &[("hidden-mse", none()), ("qkv-relations", none()), ("cka", none())]),
        case("own past", &[("self-distill", none()), ("cross-entropy", none())]),
        Case { drops: true, ..case("dropped paths", &[("logit-kl", none())]) },
        Case { apart: true, ..case("documents apart", &[("logit-kl", none())]) },
        Case { local: true, ..case("local", &[]) },
        Case { training: adapted(false), ..case("LoRA", &[("logit-kl", none())]) },
        Case { training: adapted(true), ..case("DoRA", &[("cross-entropy", none())]) },
    ]
}

fn trainings_are_those_of_the_cpu(machine: impl Fn() -> Arc<dyn Machine>, models: &[&str]) {
    for name in models {
        let pair = Pair::open(name);
        for case in cases() {
            let (wanted, wanted_gradients) = pair.train(&case, &None);
            for (storage, most) in [(Storage::F32, [F32; 2]), (Storage::Bf16, BF16)] {
                let what = format!("{name}, {}, {storage}", case.what);
                let (losses, gradients) = pair.train(&case, &Some((machine(), storage)));
                let lost = testkit::relative_difference(&losses, &wanted);
                assert!(lost <= most[0], "{what}: losses {losses:?}, wanted {wanted:?}");
                let square = |all: &[Vec<f32>]| all.iter().flatten().map(|x| f64::from(*x).powi(2)).sum::<f64>();
                assert!(square(&gradients) > 0.0, "{what}");
                let differences: Vec<Vec<f32>> = gradients
                    .iter()
                    .zip(&wanted_gradients)
                    .map(|(a, b)| a.iter().zip(b).map(|(a, b)| a - b).collect())
                    .collect();
                let away = (square(&differences) / square(&wanted_gradients)).sqrt();
                assert!(away <= most[1], "{what}: gradients {away:e}");
                println!("{what:<60} losses {lost:.1e}, gradients {away:.1e}");
            }
        }
    }
}

#[test]
fn trainings_emulated() {
    trainings_are_those_of_the_cpu(|| emulation::Host::quick(), &["llama-gqa-rope3"]);
}

#[cfg(feature = "cuda")]
mod on_a_gpu {
    use std::sync::Arc;

    #[test]
    #[ignore = "needs a GPU"]
    fn trainings() {
        let gpu =
            || -> Arc<dyn taper_kernels::cuda::Machine> { Arc::new(taper_kernels::cuda::Device::open(0).unwrap()) };
        super::trainings_are_those_of_the_cpu(gpu, &["llama-gqa-rope3", "qwen3-gqa", "llama-bias"]);
    }
}
