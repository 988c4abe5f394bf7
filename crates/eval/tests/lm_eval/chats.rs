//! Requests and answers under chat templates, and texts made together.

use std::path::Path;

use serde_json::Value;
use taper_base::progress::Silent;
use taper_data::TextTokenizer;
use taper_eval::harness::{self, Answer, AnswerStore, Chat, ChatTemplate, Fields, Options, Subject, Task};
use taper_model::{Checkpoint, Model};

use super::{LIKELIHOOD, changed, documents, hash, options, suite};

/// Each document alone is a batch of one.
pub(super) fn texts_made_together_are_those_made_alone(data: &Path) {
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
pub(super) fn chats_are_those_of_lm_eval(data: &Path) {
    let golden: Value = serde_json::from_str(include_str!("../../golden/chats.json")).unwrap();
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
