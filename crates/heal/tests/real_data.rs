//! Trainings of a real model from end to end.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a failing test panics")]

use std::path::Path;

use serde_json::{Value, json};
use taper_arch::{Architecture, select};
use taper_base::{Fingerprint, progress::Silent};
use taper_data::{Documents, FeedText, Pack, Shares, Split, TextSource, TextTokenizer, pack};
use taper_heal::{AdapterSettings, Aim, HealError, Healed, Job, Material, Plan, Training, heal, objectives};
use taper_model::{Checkpoint, Model};

const STEPS: u64 = 12;

struct Scene {
    teacher: Model,
    student: Model,
    tokenizer: TextTokenizer,
    documents: Documents,
}

impl Scene {
    /// stories260k, and it with half of its channels.
    fn new(data: &Path) -> Self {
        let folder = data.join("models/stories260k");
        let teacher = Model::load(&Checkpoint::open(&folder).unwrap()).unwrap();
        let mut architecture = Architecture::whole(teacher.spec());
        for mlp in architecture.blocks.iter_mut().filter_map(|block| block.mlp.as_mut()) {
            mlp.channels /= 2;
        }
        let kept = select::prefixes(teacher.spec(), &architecture).unwrap();
        let student = teacher.cut(&kept.blocks).unwrap();
        let mut text = TextSource::new(data.join("text/tinystories_train.txt"));
        text.separator = Some("<|endoftext|>".to_owned());
        let documents = Documents::read(&text).unwrap();
        Self { teacher, student, tokenizer: TextTokenizer::load(&folder).unwrap(), documents }
    }

    fn heal(&self, folder: &Path, plan: &Plan) -> Healed {
        self.heal_on(folder, plan, self.documents.of_split(&Shares::default(), Split::Calibration))
    }

    fn heal_on(&self, folder: &Path, plan: &Plan, documents: Vec<&str>) -> Healed {
        self.tried(folder, plan, documents).unwrap()
    }

    fn tried(&self, folder: &Path, plan: &Plan, documents: Vec<&str>) -> Result<Healed, HealError> {
        let job = Job {
            student: &|| Ok(self.student.clone()),
            teacher: Some(self.teacher.clone()),
            machine: None,
            origin: (0..self.student.spec().blocks.len()).collect(),
            material: Material::Text {
                tokenizer: &self.tokenizer,
                texts: vec![FeedText { name: "stories".to_owned(), documents, weight: 1.0 }],
                validation: pack(&self.documents, &self.tokenizer, &Pack::new(Split::Validation, 4, plan.length, 0))
                    .unwrap(),
            },
            folder,
            identity: Fingerprint::of_bytes(b"test"),
            memory: 1 << 30,
            progress: &Silent,
        };
        heal(&job, plan)
    }
}

fn aim(name: &str, params: &serde_json::Value) -> Aim {
    Aim { name: name.to_owned(), weight: 1.0, objective: objectives::build(name, params).unwrap() }
}

fn plan(aims: Vec<Aim>) -> Plan {
    Plan {
        steps: STEPS,
        local_steps: 0,
        sequences: 4,
        length: 128,
        seed: 5,
        aims,
        training: Training::Parameters(vec!["*".to_owned()]),
        optimizer: taper_heal::optimizers::build("adamw", &json!({})).unwrap(),
        rate: 2e-3,
        local_rate: 2e-3,
        schedule: taper_heal::schedules::build("cosine", &json!({})).unwrap(),
        corruptor: taper_heal::corruptors::build("causal", &json!({})).unwrap(),
        apart: true,
        clip: Some(1.0),
        noise: None,
        drop_path: 0.0,
        validate_every: 5,
        checkpoint_every: 5,
        checkpoint_minutes: None,
        keep: 9,
        best: false,
        cache: false,
    }
}

fn bits(model: &Model) -> Vec<Vec<u32>> {
    let all = model.tensors();
    all.iter().map(|(_, tensor)| tensor.to_vec().unwrap().iter().map(|x| x.to_bits()).collect()).collect()
}

/// Puts what a training killed after its checkpoint at step 5 would have left of `from` into `to`.
fn killed(from: &Path, to: &Path, phase: &str) {
    for name in ["training.json", "metrics.jsonl"] {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
    let step = Path::new("checkpoints").join(phase).join("step-00000005");
    std::fs::create_dir_all(to.join(&step)).unwrap();
    for entry in std::fs::read_dir(from.join(&step)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(&step).join(entry.file_name())).unwrap();
    }
}

fn lora(dora: bool) -> Training {
    let targets = ["*_proj.weight"].map(str::to_owned).to_vec();
    Training::Adapters(AdapterSettings { rank: 8, alpha: 32.0, targets, dora })
}

/// The plans that are tried, each with what brings its loss down.
fn plans() -> Vec<(&'static str, Plan)> {
    let ce = || aim("cross-entropy", &json!({}));
    let kl = || aim("logit-kl", &json!({}));
    let noise = Some(taper_heal::Noise { eta: 1e-6, gamma: 0.55 });
    let voters = aim("self-distill", &json!({"every": 3, "voters": 2}));
    let inner = ["hidden-mse", "cka", "qkv-relations"].map(|name| aim(name, &json!({})));
    vec![
        ("whole", Plan { noise, drop_path: 0.1, ..plan(vec![kl(), ce()]) }),
        ("adapters", Plan { training: lora(false), ..plan(vec![kl()]) }),
        ("magnitudes", Plan { training: lora(true), ..plan(vec![ce()]) }),
        ("voters", plan(vec![ce(), voters])),
        ("inner", plan(inner.into_iter().collect())),
        ("local", Plan { local_steps: 8, steps: 6, ..plan(vec![kl()]) }),
    ]
}

fn healing_brings_the_loss_down_and_goes_on_bit_for_bit(data: &Path) {
    let scene = Scene::new(data);
    for (name, plan) in plans() {
        let [whole, part, alone] = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let healed = scene.heal(whole.path(), &plan);
        let summary = &healed.summary;
        assert!(summary.after < summary.before - 0.1, "{name}: {summary:?}");
        assert!(summary.teacher.unwrap() < summary.after, "{name}: {summary:?}");
        killed(whole.path(), part.path(), if plan.local_steps > 0 { "local" } else { "global" });
        let resumed = scene.heal(part.path(), &plan);
        assert!(bits(&resumed.model) == bits(&healed.model), "{name}: resumed");
        assert_eq!(resumed.summary, healed.summary, "{name}");
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let one = pool.install(|| scene.heal(alone.path(), &plan));
        assert!(bits(&one.model) == bits(&healed.model), "{name}: one thread");
        let steps = |folder: &Path| -> Vec<_> {
            let all = taper_heal::read_metrics(&folder.join("metrics.jsonl")).unwrap();
            all.into_iter().map(|metric| taper_heal::Metric { seconds: None, ..metric }).collect()
        };
        assert_eq!(steps(part.path()), steps(whole.path()), "{name}");
    }
}

/// `golden/runs.json`, made by `scripts/reference_heal.py`: the same student, teacher, tokens and beginning.
fn trainings_are_those_of_pytorch(data: &Path) {
    let scene = Scene::new(data);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/runs.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let number = |name: &str| golden["shape"][name].as_u64().unwrap();
    let text = std::fs::read_to_string(data.join("text/tinystories_valid.txt")).unwrap();
    let text: String = text.chars().take(number("characters") as usize).collect();
    for run in golden["runs"].as_array().unwrap() {
        let named = |value: &Value| {
            let (name, params) = value.as_object().unwrap().iter().next().unwrap();
            (name.clone(), params.clone())
        };
        let aims = run["objectives"].as_array().unwrap().iter().map(|objective| {
            let (name, mut params) = named(objective);
            let weight =
                params.as_object_mut().unwrap().remove("weight").map_or(1.0, |weight| weight.as_f64().unwrap());
            Aim { weight, ..aim(&name, &params) }
        });
        let (optimizer, params) = named(&run["optimizer"]);
        let training = run.get("lora").map(|lora| {
            Training::Adapters(AdapterSettings {
                rank: lora["rank"].as_u64().unwrap() as usize,
                alpha: lora["alpha"].as_f64().unwrap(),
                targets: vec!["*_proj.weight".to_owned()],
                dora: lora["dora"].as_bool().unwrap(),
            })
        });
        let base = plan(aims.collect());
        let plan = Plan {
            steps: number("steps"),
            sequences: number("sequences") as usize,
            length: number("length") as usize,
            seed: number("seed"),
            rate: run["rate"].as_f64().unwrap(),
            optimizer: taper_heal::optimizers::build(&optimizer, &params).unwrap(),
            training: training.unwrap_or(base.training.clone()),
            ..base
        };
        let folder = tempfile::tempdir().unwrap();
        scene.heal_on(folder.path(), &plan, vec![&text]);
        let metrics = taper_heal::read_metrics(&folder.path().join("metrics.jsonl")).unwrap();
        let steps: Vec<_> = metrics.into_iter().filter(|metric| metric.loss.is_some()).collect();
        let mut worst = [0.0_f64; 2];
        for (at, metric) in steps.iter().enumerate() {
            let off = |found: Option<f64>, wanted: &Value| (found.unwrap() / wanted[at].as_f64().unwrap() - 1.0).abs();
            worst = [worst[0].max(off(metric.loss, &run["losses"])), worst[1].max(off(metric.norm, &run["norms"]))];
        }
        println!("{}: losses {:.1e}, norms {:.1e}", run["name"], worst[0], worst[1]);
        assert!(steps.len() == number("steps") as usize && worst[0] <= 1e-3, "{}: {worst:?}", run["name"]);
    }
}

fn a_training_that_only_harms_gives_back_what_there_was(data: &Path) {
    let scene = Scene::new(data);
    for training in [Training::Parameters(vec!["*".to_owned()]), lora(true)] {
        let folder = tempfile::tempdir().unwrap();
        let harm = Plan {
            rate: 0.5,
            steps: 4,
            validate_every: 1,
            best: true,
            training,
            ..plan(vec![aim("cross-entropy", &json!({}))])
        };
        let healed = scene.heal(folder.path(), &harm);
        let summary = &healed.summary;
        assert!(summary.result == 0 && (summary.after / summary.before - 1.0).abs() < 1e-6, "{summary:?}");
        assert!(healed.write_adapters(folder.path(), "").unwrap() == matches!(harm.training, Training::Adapters(_)));
        let [found, wanted] = [bits(&healed.model), bits(&scene.student)];
        assert!(matches!(harm.training, Training::Adapters(_)) || found == wanted); // with DoRA norms are rounded
    }
}

fn a_training_that_bursts_stops_with_its_last_good_checkpoint(data: &Path) {
    let scene = Scene::new(data);
    let folder = tempfile::tempdir().unwrap();
    let steady = taper_heal::schedules::build("constant", &json!({"warmup": 0.0})).unwrap();
    let bursts =
        Plan { rate: 3.0, schedule: steady, checkpoint_every: 2, ..plan(vec![aim("cross-entropy", &json!({}))]) };
    let documents = scene.documents.of_split(&Shares::default(), Split::Calibration);
    let refusal = scene.tried(folder.path(), &bursts, documents).map(|_| ()).unwrap_err();
    let HealError::Diverged { step, norm, checkpoint, .. } = &refusal else { panic!("{refusal}") };
    assert!(*step >= 5 && *norm > 0.0, "{refusal}");
    let last =
        std::fs::read_dir(folder.path().join("checkpoints/global")).unwrap().map(|entry| entry.unwrap().path()).max();
    assert!(checkpoint.ends_with(&last.unwrap().display().to_string()), "{refusal}");
}

fn a_cached_teacher_is_the_living_one(data: &Path) {
    let scene = Scene::new(data);
    let [live, cached] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let made = |cache| Plan { cache, ..plan(vec![aim("logit-kl", &json!({"top": 16, "temperature": 2.0}))]) };
    let [wanted, found] = [scene.heal(live.path(), &made(false)), scene.heal(cached.path(), &made(true))];
    assert!(bits(&found.model) == bits(&wanted.model));
    let written = std::fs::metadata(cached.path().join("teacher.bin")).unwrap().len();
    assert_eq!(written, STEPS * 4 * 128 * 16 * 8);
}

testkit::real_data_tests!(
    trainings_are_those_of_pytorch,
    healing_brings_the_loss_down_and_goes_on_bit_for_bit,
    a_training_that_only_harms_gives_back_what_there_was,
    a_training_that_bursts_stops_with_its_last_good_checkpoint,
    a_cached_teacher_is_the_living_one
);
