//! Against lm-evaluation-harness 0.4.13: what it asks, and what it answers and scores, document by document.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a failing test panics, and says what it measured")]

mod chats;

use std::path::Path;

use serde_json::Value;
use taper_base::Fingerprint;
use taper_base::progress::Silent;
use taper_data::{TextTokenizer, read_records};
use taper_eval::harness::{
    self, AnswerStore, BOOTSTRAP, Chat, FEWSHOT_SEED, Fields, HarnessError, Options, Subject, Suite, Task, TaskRun,
};
use taper_model::{Checkpoint, Model};

/// Largest relative difference of a log-likelihood: sums of f32 in another order.
const LIKELIHOOD: f64 = 1e-4;
/// Difference that is excused near 0: a few steps of an f32 sum near 1, whose logarithm a log-likelihood there is.
const NEAR_ZERO: f64 = 3.0 * f32::EPSILON as f64;
/// Documents of each task that are compared, unless `TAPER_FULL` is set: then all of the reference.
const DOCUMENTS: usize = 16;
/// Largest relative difference of a perplexity, or of its standard error: sums of f32 in another order, once more.
const PERPLEXITY: f64 = 1e-5;
/// Largest relative difference of a value that both compute from the same whole numbers.
const COUNTED: f64 = 1e-12;

fn suite() -> Suite {
    let mut suite = Suite::builtin().unwrap();
    suite.add_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tasks")).unwrap();
    suite
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn documents(data: &Path, task: &Task, split: &str) -> Result<Vec<Fields>, HarnessError> {
    let path = match task.task.as_str() {
        "tinystories" => data.join("text/tinystories_valid.jsonl"),
        "sciq" => Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("golden/sciq/{split}.jsonl")),
        name => data.join(format!("tasks/{}/{split}.jsonl", task.dataset_folder.as_deref().unwrap_or(name))),
    };
    let mut all = read_records(&path).unwrap();
    all.retain(|document| task.dataset_where.iter().all(|(field, value)| document.get(field) == Some(value)));
    Ok(all)
}

fn options(shots: Option<usize>, limit: usize) -> Options<'static> {
    Options { shots, limit: Some(limit as f64), seed: FEWSHOT_SEED, fresh: false, chat: Chat::default() }
}

/// The task that a golden case names, with the splits that the data has and what is changed in it.
fn changed(suite: &Suite, case: &Value) -> Task {
    let name = case["task"].as_str().unwrap();
    let mut task = suite.tasks().find(|task| task.task == name).unwrap().clone();
    let there: Vec<&str> = case["splits"].as_array().unwrap().iter().map(|split| split.as_str().unwrap()).collect();
    for split in [&mut task.training_split, &mut task.validation_split, &mut task.test_split] {
        if split.as_deref().is_some_and(|split| !there.contains(&split)) {
            *split = None;
        }
    }
    let change = &case["change"];
    task.num_fewshot = change["num_fewshot"].as_u64().map(|shots| shots as usize).or(task.num_fewshot);
    task.gen_prefix = change["gen_prefix"].as_str().map(str::to_owned);
    if let Some(kwargs) = change.get("generation_kwargs") {
        task.generation_kwargs = serde_json::from_value(kwargs.clone()).unwrap();
    }
    task
}

fn hash(requests: &[(String, String)]) -> String {
    let texts: Vec<String> = requests.iter().map(|(context, end)| format!("{context}\0{end}")).collect();
    Fingerprint::of_bytes(texts.join("\0").as_bytes()).to_string()
}

/// `golden/prompts.json` (`scripts/reference_lm_eval.py`): SHA-256 of each request of 20 documents of 15 tasks.
fn prompts_are_those_of_lm_eval_to_the_byte(data: &Path) {
    let golden: Value = serde_json::from_str(include_str!("../../golden/prompts.json")).unwrap();
    let suite = suite();
    let (mut texts, tasks) = (0, golden["tasks"].as_array().unwrap());
    for wanted in tasks {
        let name = wanted["task"].as_str().unwrap();
        let task = changed(&suite, wanted);
        let shots = wanted["shots"].as_u64().map(|shots| shots as usize);
        let source = |task: &Task, split: &str| documents(data, task, split);
        let (_, prompts) = harness::prompts(&task, &source, options(shots, 20)).unwrap();
        assert_eq!(prompts.len(), 20);
        for (number, ((_, prompt), wanted)) in prompts.iter().zip(wanted["documents"].as_array().unwrap()).enumerate() {
            let got: Vec<String> = prompt.requests.iter().map(|request| hash(std::slice::from_ref(request))).collect();
            assert_eq!(Value::from(got), *wanted, "{name}, document {number}: {:?}", prompt.requests);
            texts += prompt.requests.len();
        }
    }
    println!("{texts} requests of {} tasks are identical", tasks.len());
}

/// A model of the data folder, and where it answers.
struct Place {
    name: &'static str,
    model: Model,
    tokenizer: TextTokenizer,
    store: AnswerStore,
    _dir: tempfile::TempDir,
}

impl Place {
    fn new(data: &Path, name: &'static str) -> Self {
        let (folder, dir) = (data.join("models").join(name), tempfile::tempdir().unwrap());
        let model = Model::load(&Checkpoint::open(&folder).unwrap()).unwrap();
        let tokenizer = TextTokenizer::load(&folder).unwrap();
        let store = AnswerStore::open(&dir.path().join("answers.db")).unwrap();
        Self { name, model, tokenizer, store, _dir: dir }
    }

    fn evaluate(&mut self, data: &Path, tasks: &[&Task], limit: usize) -> Vec<TaskRun> {
        let subject = Subject { model: &self.model, tokenizer: &self.tokenizer, fingerprint: self.name };
        let source = |task: &Task, split: &str| documents(data, task, split);
        harness::evaluate(subject, tasks, &source, options(None, limit), (&mut self.store, &Silent)).unwrap()
    }
}

/// What a comparison has seen.
#[derive(Default)]
struct Seen {
    documents: usize,
    answers: usize,
    /// Largest relative difference of a log-likelihood.
    worst: f64,
    /// Log-likelihoods further apart than [`LIKELIHOOD`], of which [`NEAR_ZERO`] excuses some.
    far: Vec<String>,
    /// Largest relative difference of a task's metric.
    metrics: f64,
    /// Answers that are others.
    differing: Vec<String>,
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.documents += other.documents;
        self.answers += other.answers;
        self.worst = self.worst.max(other.worst);
        self.metrics = self.metrics.max(other.metrics);
        self.far.extend(other.far);
        self.differing.extend(other.differing);
    }

    fn likelihood(&mut self, wanted: &Value, own: &Value, what: &str) {
        let (wanted, own) = (wanted.as_f64().unwrap(), own.as_f64().unwrap());
        let (apart, off) = ((wanted - own).abs(), (own / wanted - 1.0).abs());
        self.worst = self.worst.max(off);
        self.answers += 1;
        if off > LIKELIHOOD {
            self.far.push(format!("{what}: {own}, wanted {wanted}, {apart:.1e} apart"));
        }
        assert!(off <= LIKELIHOOD || apart <= NEAR_ZERO, "{what}: {own}, wanted {wanted}, {apart:.1e} apart");
    }

    fn equal(&mut self, wanted: &Value, own: &Value, what: &str) {
        if wanted != own {
            self.differing.push(format!("{what}: {own}, wanted {wanted}"));
        }
    }

    /// A document's sample against its reference.
    fn document(&mut self, wanted: &Value, own: &Value, what: &str) {
        let what = format!("{what}, document {}", wanted["doc_id"]);
        self.documents += 1;
        if let Some(answers) = wanted["resps"].as_array() {
            let resps = own["resps"].as_array().unwrap();
            assert_eq!(answers.len(), resps.len(), "{what}");
            for (answer, own) in answers.iter().zip(resps) {
                self.likelihood(&answer[0], &own[0][0], &what);
                self.equal(&answer[1], &own[0][1], &format!("{what}, is_greedy"));
            }
        }
        if !wanted["ll"].is_null() {
            self.likelihood(&wanted["ll"], &own["resps"][0][0], &what);
        }
        if !wanted["generation"].is_null() {
            self.answers += 1;
            self.equal(&wanted["generation"], &own["resps"][0][0], &format!("{what}, generation"));
            self.equal(&wanted["filtered"], &own["filtered_resps"], &format!("{what}, filtered"));
        }
        for metric in ["acc", "acc_norm", "exact_match"] {
            if let (Some(wanted), Some(own)) = (wanted[metric].as_f64(), own[metric].as_f64()) {
                self.equal(&wanted.into(), &own.into(), &format!("{what}, {metric}"));
            }
        }
        if wanted["requests"].is_array() {
            assert_eq!(wanted["requests"], own["arguments"], "{what}");
        }
    }

    /// A task's or group's metrics against those of its reference.
    fn results(&mut self, wanted: &Value, own: &Value, what: &str) {
        for (key, wanted) in wanted.as_object().unwrap() {
            let (Some(wanted), Some(value)) = (wanted.as_f64(), own[key].as_f64()) else {
                assert_eq!(*wanted, own[key], "{what}, {key}");
                continue;
            };
            let most = if key.contains("perplexity") || key.contains("bits") { PERPLEXITY } else { COUNTED };
            let off = if wanted == value { 0.0 } else { (value / wanted - 1.0).abs() };
            assert!(off <= most, "{what}, {key}: {value}, wanted {wanted}, off by {off:.1e}");
            self.metrics = self.metrics.max(off);
        }
    }
}

/// `reference_lm_eval.json` of each model: likelihoods, greedy flags, generated text, each document's scores, and with
/// `TAPER_FULL` also the metrics of all documents.
fn answers_and_scores_are_those_of_lm_eval(data: &Path) {
    let (suite, full) = (suite(), std::env::var_os("TAPER_FULL").is_some());
    for name in testkit::models() {
        let reference = json(&data.join("models").join(name).join("reference_lm_eval.json"));
        let (mut place, mut all) = (Place::new(data, name), Seen::default());
        for (key, wanted) in reference["tasks"].as_object().unwrap() {
            let own = match key.as_str() {
                "mmlu" => "mmlu_local",
                "gsm8k" => "gsm8k_short",
                other => other,
            };
            let task = suite.tasks().find(|task| task.task == own).unwrap();
            let limit = match wanted["n"].as_u64().unwrap() as usize {
                every if full => every,
                _ if key == "wikitext" => 2,
                every => every.min(DOCUMENTS),
            };
            let runs = place.evaluate(data, &[task], limit);
            let report = harness::report(&suite, &runs, &[], 0, true);
            let (mut seen, documents) = (Seen::default(), wanted["docs"].as_array().unwrap());
            for sample in report["samples"][own].as_array().unwrap() {
                let filter = sample["filter"].as_str().unwrap();
                let same = |document: &&Value| {
                    document["doc_id"] == sample["doc_id"] && document["filter"].as_str().unwrap_or("none") == filter
                };
                seen.document(documents.iter().find(same).unwrap(), sample, &format!("{name} {key}"));
            }
            if full {
                assert_eq!(seen.documents, documents.len(), "{name} {key}");
                seen.results(&wanted["results"], &report["results"][own], &format!("{name} {key}"));
                println!("{name} {key}: {}", shown(&seen));
            }
            all.add(seen);
        }
        assert!(all.documents > 200, "{}", all.documents);
        println!("{name}: {}", shown(&all));
        assert!(all.differing.is_empty(), "{name}: {:#?}", all.differing);
        all.far.iter().for_each(|far| println!("  near 0: {far}"));
    }
}

fn shown(seen: &Seen) -> String {
    format!(
        "{} documents, {} answers, largest relative difference {:.1e}, of a metric {:.1e}, {} differ",
        seen.documents,
        seen.answers,
        seen.worst,
        seen.metrics,
        seen.differing.len()
    )
}

/// `golden/results.json` (`scripts/reference_lm_eval.py`): values and standard errors of tasks and of MMLU's groups.
fn standard_errors_and_groups_are_those_of_lm_eval(data: &Path) {
    let golden: Value = serde_json::from_str(include_str!("../../golden/results.json")).unwrap();
    let (suite, mut seen, mut names) = (suite(), Seen::default(), 0);
    let model = testkit::models().into_iter().find(|name| golden["model"] == **name).unwrap();
    let mut place = Place::new(data, model);
    for wanted in golden["runs"].as_array().unwrap() {
        let selection = suite.select(&[wanted["task"].as_str().unwrap().to_owned()]).unwrap();
        let runs = place.evaluate(data, &selection.tasks, wanted["limit"].as_u64().unwrap() as usize);
        let report = harness::report(&suite, &runs, &selection.groups, BOOTSTRAP, false);
        for (name, wanted) in wanted["results"].as_object().unwrap() {
            assert!(wanted.as_object().unwrap().keys().any(|key| key.contains("_stderr,")), "{name}");
            seen.results(wanted, &report["results"][name], name);
            names += 1;
        }
    }
    assert!(names >= 70, "{names} tasks and groups");
    println!("{names} tasks and groups, largest relative difference of a value or standard error {:.1e}", seen.metrics);
}

testkit::real_data_tests!(
    prompts_are_those_of_lm_eval_to_the_byte,
    answers_and_scores_are_those_of_lm_eval,
    standard_errors_and_groups_are_those_of_lm_eval,
    chats::chats_are_those_of_lm_eval,
    chats::texts_made_together_are_those_made_alone,
);
