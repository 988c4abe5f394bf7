//! Against lm-evaluation-harness 0.4.13: what it asks, and what it answers and scores, document by document.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a failing test panics, and says what it measured")]

use std::path::Path;

use serde_json::Value;
use taper_base::Fingerprint;
use taper_base::progress::Silent;
use taper_data::{TextTokenizer, read_records};
use taper_eval::harness::{
    self, Answer, AnswerStore, Chat, ChatTemplate, FEWSHOT_SEED, Fields, HarnessError, Options, Subject, Suite, Task,
};
use taper_model::{Checkpoint, Model};

/// Largest relative difference of a log-likelihood: sums of f32 in another order. The largest seen is 6.3e-5, of a
/// log-likelihood near 0.
const LIKELIHOOD: f64 = 1e-4;
/// Documents of each task that are compared here; all of a reference are by `docs/LOG.md`.
const DOCUMENTS: usize = 16;

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

/// `golden/prompts.json` (`scripts/reference_lm_eval.py`): SHA-256 of each request of 20 documents of 14 tasks.
fn prompts_are_those_of_lm_eval_to_the_byte(data: &Path) {
    let golden: Value = serde_json::from_str(include_str!("../golden/prompts.json")).unwrap();
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

/// `reference_lm_eval.json` of each model: likelihoods, greedy flags, generated text, and each document's scores.
fn answers_and_scores_are_those_of_lm_eval(data: &Path) {
    let suite = suite();
    for name in testkit::models() {
        let folder = data.join("models").join(name);
        let reference = json(&folder.join("reference_lm_eval.json"));
        let model = Model::load(&Checkpoint::open(&folder).unwrap()).unwrap();
        let tokenizer = TextTokenizer::load(&folder).unwrap();
        let subject = Subject { model: &model, tokenizer: &tokenizer, fingerprint: name };
        let dir = tempfile::tempdir().unwrap();
        let mut store = AnswerStore::open(&dir.path().join("answers.db")).unwrap();
        let (mut worst, mut compared) = (0.0_f64, 0);
        for (key, wanted) in reference["tasks"].as_object().unwrap() {
            let own = match key.as_str() {
                "mmlu" => "mmlu_local",
                "gsm8k" => "gsm8k_short",
                other => other,
            };
            let task = suite.tasks().find(|task| task.task == own).unwrap();
            let limit = if key == "wikitext" { 2 } else { DOCUMENTS };
            let source = |task: &Task, split: &str| documents(data, task, split);
            let runs =
                harness::evaluate(subject, &[task], &source, options(None, limit), (&mut store, &Silent)).unwrap();
            let report = harness::report(&suite, &runs, &[], 0, true);
            let samples = report["samples"][own].as_array().unwrap();
            for sample in samples {
                let filter = sample["filter"].as_str().unwrap();
                let same = |document: &&Value| {
                    document["doc_id"] == sample["doc_id"] && document["filter"].as_str().unwrap_or("none") == filter
                };
                let Some(document) = wanted["docs"].as_array().unwrap().iter().find(same) else { continue };
                worst = worst.max(compare(document, sample, &format!("{name} {key}")));
                compared += 1;
            }
        }
        assert!(compared > 200, "{compared}");
        println!("{name}: {compared} documents, largest relative difference {worst:.1e}");
    }
}

/// Asserts that a document's sample is its reference; returns the largest relative difference of its log-likelihoods.
fn compare(document: &Value, sample: &Value, what: &str) -> f64 {
    let what = format!("{what}, document {}", document["doc_id"]);
    let off =
        |a: &Value, b: &Value| (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() / a.as_f64().unwrap().abs().max(1e-3);
    let mut worst = 0.0_f64;
    if let Some(answers) = document["resps"].as_array() {
        let own = sample["resps"].as_array().unwrap();
        assert_eq!(answers.len(), own.len(), "{what}");
        for (answer, own) in answers.iter().zip(own) {
            worst = worst.max(off(&answer[0], &own[0][0]));
            assert_eq!(answer[1], own[0][1], "{what}: is_greedy");
        }
    }
    if !document["ll"].is_null() {
        worst = off(&document["ll"], &sample["resps"][0][0]).max(worst);
    }
    if !document["generation"].is_null() {
        assert_eq!(document["generation"], sample["resps"][0][0], "{what}");
        assert_eq!(document["filtered"], sample["filtered_resps"], "{what}");
    }
    for metric in ["acc", "acc_norm", "exact_match"] {
        if let (Some(wanted), Some(own)) = (document[metric].as_f64(), sample[metric].as_f64()) {
            assert_eq!(wanted, own, "{what}: {metric}");
        }
    }
    if let Some(requests) = document["requests"].as_array() {
        assert_eq!(Some(requests), sample["arguments"].as_array(), "{what}");
    }
    assert!(worst <= LIKELIHOOD, "{what}: {worst}");
    worst
}

/// Each document alone is a batch of one.
fn texts_made_together_are_those_made_alone(data: &Path) {
    let suite = suite();
    let mut task = suite.tasks().find(|task| task.task == "gsm8k").unwrap().clone();
    task.generation_kwargs.as_mut().unwrap().max_gen_toks = 40;
    for name in testkit::models() {
        let folder = data.join("models").join(name);
        let model = Model::load(&Checkpoint::open(&folder).unwrap()).unwrap();
        let tokenizer = TextTokenizer::load(&folder).unwrap();
        let subject = Subject { model: &model, tokenizer: &tokenizer, fingerprint: name };
        let all: Vec<Fields> = documents(data, &task, "test").unwrap().into_iter().take(37).collect();
        let made = |of: &[Fields]| {
            let dir = tempfile::tempdir().unwrap();
            let mut store = AnswerStore::open(&dir.path().join("answers.db")).unwrap();
            let source = |_: &Task, _: &str| Ok(of.to_vec());
            let all = options(Some(0), of.len());
            let runs = harness::evaluate(subject, &[&task], &source, all, (&mut store, &Silent)).unwrap();
            runs[0].evaluated.iter().map(|document| document.answers[0].clone()).collect::<Vec<_>>()
        };
        let together = made(&all);
        let lengths = together.iter().map(|answer| matches!(answer, Answer::Text(text) if text.len() > 40));
        assert!(lengths.filter(|long| *long).count() > 5, "{name}: {together:?}");
        for (document, together) in all.iter().zip(&together) {
            assert_eq!(made(std::slice::from_ref(document))[0], *together, "{name}: {document:?}");
        }
    }
}

/// A chat template of `golden/` with the special tokens of the tokenizer in `folder`.
fn template(folder: &Path, name: &str) -> ChatTemplate {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(folder.join("tokenizer_config.json"), dir.path().join("tokenizer_config.json")).unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name).with_extension("jinja");
    std::fs::copy(golden, dir.path().join("chat_template.jinja")).unwrap();
    ChatTemplate::load(dir.path(), None).unwrap()
}

/// `golden/chats.json`: hashes of requests, and answers, under chat templates, in one turn and in several, with and without a
/// system's text.
fn chats_are_those_of_lm_eval(data: &Path) {
    let golden: Value = serde_json::from_str(include_str!("../golden/chats.json")).unwrap();
    let folder = data.join("models").join(golden["model"].as_str().unwrap());
    let suite = suite();
    let source = |task: &Task, split: &str| documents(data, task, split);
    let chat = |template, case: &Value| {
        let (system, multiturn) = (case["system"].as_str().map(str::to_owned), case["multiturn"].as_bool().unwrap());
        (template, system, multiturn)
    };
    let cases = golden["requests"].as_array().unwrap();
    for case in cases {
        let (template, system, multiturn) = chat(template(&folder, case["template"].as_str().unwrap()), case);
        let chat = Chat { template: Some(&template), system: system.as_deref(), multiturn };
        let (_, prompts) =
            harness::prompts(&changed(&suite, case), &source, Options { chat, ..options(None, 20) }).unwrap();
        assert_eq!(prompts.len(), 20);
        for ((_, prompt), wanted) in prompts.iter().zip(case["documents"].as_array().unwrap()) {
            let what = ["template", "multiturn", "system", "task", "change"].map(|key| case[key].to_string());
            assert_eq!(Value::from(hash(&prompt.requests)), *wanted, "{what:?}: {:?}", prompt.requests);
        }
    }
    let model = Model::load(&Checkpoint::open(&folder).unwrap()).unwrap();
    let tokenizer = TextTokenizer::load(&folder).unwrap();
    let subject = Subject { model: &model, tokenizer: &tokenizer, fingerprint: "chats" };
    let (mut worst, answers) = (0.0_f64, golden["answers"].as_array().unwrap());
    for case in answers {
        let (template, system, multiturn) = chat(template(&folder, case["template"].as_str().unwrap()), case);
        let chat = Chat { template: Some(&template), system: system.as_deref(), multiturn };
        let wanted = case["resps"].as_array().unwrap();
        let options = Options { chat, ..options(None, wanted.len()) };
        let dir = tempfile::tempdir().unwrap();
        let mut store = AnswerStore::open(&dir.path().join("answers.db")).unwrap();
        let task = changed(&suite, case);
        let runs = harness::evaluate(subject, &[&task], &source, options, (&mut store, &Silent)).unwrap();
        for (document, wanted) in runs[0].evaluated.iter().zip(wanted) {
            let what = format!("{} under {}, document {}", case["task"], case["template"], document.number);
            for (answer, wanted) in document.answers.iter().zip(wanted.as_array().unwrap()) {
                match answer {
                    Answer::Text(text) => assert_eq!(Value::from(text.as_str()), *wanted, "{what}"),
                    Answer::Likelihood { log_likelihood, greedy } => {
                        let reference = wanted[0].as_f64().unwrap();
                        worst = worst.max((log_likelihood - reference).abs() / reference.abs());
                        assert_eq!(Value::from(*greedy), wanted[1], "{what}");
                    }
                }
            }
        }
    }
    assert!(worst <= LIKELIHOOD, "{worst}");
    println!("{} cases of prompts, {} of answers, largest relative difference {worst:.1e}", cases.len(), answers.len());
}

testkit::real_data_tests!(
    prompts_are_those_of_lm_eval_to_the_byte,
    answers_and_scores_are_those_of_lm_eval,
    chats_are_those_of_lm_eval,
    texts_made_together_are_those_made_alone
);
