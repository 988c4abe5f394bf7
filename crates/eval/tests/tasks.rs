//! Tasks and documents that are not as they should be, each refused by name; never scored as something else.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use serde_json::{Value, json};
use taper_eval::harness::{self, Chat, FEWSHOT_SEED, Fields, Gold, Options, Suite, Task};

const GOOD: &str = "task: quiz
summary: A quiz
dataset_path: nobody/quiz
dataset_revision: main
licence: MIT
dataset_files:
  test: [test.jsonl]
output_type: multiple_choice
test_split: test
doc_to_text: \"Q: {{q}}\\nA:\"
doc_to_choice: \"{{choices}}\"
doc_to_target: \"{{right}}\"
metric_list:
  - { metric: acc }
metadata: { version: 1.0 }
";

fn refusal(change: (&str, &str)) -> String {
    assert!(GOOD.contains(change.0), "{}", change.0);
    Suite::default().add(&GOOD.replacen(change.0, change.1, 1), "quiz/task.yaml").unwrap_err().to_string()
}

#[test]
fn a_wrong_task_file_is_refused_by_file_line_and_key() {
    Suite::default().add(GOOD, "quiz/task.yaml").unwrap();
    for (change, want) in [
        (("licence: MIT", "license: MIT"), "quiz/task.yaml:5"),
        (("output_type: multiple_choice", "output_type: multiple"), "quiz/task.yaml:8"),
        (("version: 1.0", "version: one"), "quiz/task.yaml:15"),
        (("test_split: test", "test_split: dev"), "quiz/task.yaml:9: test_split: dataset_files has no split `dev`"),
        (("test_split: test\n", ""), "test_split: no split to evaluate"),
        (("[test.jsonl]", "[]"), "quiz/task.yaml:6: dataset_files: split `test` has no file"),
        (("{{q}}", "{{q"), "quiz/task.yaml:10: doc_to_text: "),
        (("\"{{choices}}\"", "\"{{choices[}}\""), "quiz/task.yaml:11: doc_to_choice: "),
        (("metric: acc", "metric: exact_match"), "quiz/task.yaml:13: metric_list: exact_match does not fit"),
        (("metric: acc", "metric: acc, aggregation: perplexity"), "metric_list: acc has another aggregation"),
        (("metric: acc", "metric: acc, higher_is_better: false"), "metric_list: higher_is_better of acc is the other"),
        (("task: quiz", "task: qu/iz"), "quiz/task.yaml:1: task: `qu/iz` is no name"),
        (("doc_to_choice: \"{{choices}}\"\n", ""), "doc_to_choice: multiple_choice needs choices"),
        (("multiple_choice", "generate_until"), "metric_list: acc does not fit this output_type"),
    ] {
        let got = refusal(change);
        assert!(got.contains(want), "{change:?}: {got}");
    }
}

fn ask(document: Value, shots: usize, pool: usize) -> Result<harness::Prompt, String> {
    let mut suite = Suite::default();
    suite.add(GOOD, "quiz/task.yaml").unwrap();
    let Value::Object(fields) = document else { panic!("{document} is no document") };
    let source = |_: &Task, _: &str| Ok(vec![fields.clone(); pool] as Vec<Fields>);
    let options = Options { shots: Some(shots), limit: None, seed: FEWSHOT_SEED, fresh: false, chat: Chat::default() };
    let prompts = harness::prompts(suite.tasks().next().unwrap(), &source, options);
    prompts.map(|(_, mut prompts)| prompts.remove(0).1).map_err(|error| error.to_string())
}

#[test]
fn a_wrong_document_is_refused_by_task_document_and_field() {
    let good = json!({"q": "1 + 1?", "choices": ["1", "2"], "right": 1});
    let prompt = ask(good.clone(), 0, 1).unwrap();
    assert_eq!(prompt.requests[1], ("Q: 1 + 1?\nA:".to_owned(), " 2".to_owned()));
    assert_eq!(prompt.gold, Gold::Choice(1));
    for (document, want) in [
        (json!({"choices": ["1"], "right": 0}), "task quiz, document 0 of test, doc_to_text: "),
        (json!({"q": "", "choices": "12", "right": 0}), "doc_to_choice: 12, wanted a list of texts"),
        (json!({"q": "", "choices": [1, 2], "right": 0}), "doc_to_choice: [1, 2], wanted a list of texts"),
        (json!({"q": "", "choices": [], "right": 0}), "doc_to_choice: [], wanted a list of texts"),
        (json!({"q": "", "choices": ["a"], "right": 1}), "doc_to_target: the answer 1 is none of the 1 choices"),
        (json!({"q": "", "choices": ["a"], "right": ""}), "doc_to_target: the answer `` is none of the 1 choices"),
        (json!({"q": ["x"], "choices": ["a"], "right": 0}), "doc_to_text: "),
    ] {
        let got = ask(document.clone(), 0, 1).unwrap_err();
        assert!(got.contains(want), "{document}: {got}");
    }
    assert_eq!(ask(good.clone(), 0, 0).unwrap_err(), "task quiz, split test: no document in it");
    let few = "task quiz: 3 shots, but the split test has 2 documents to choose from";
    assert_eq!(ask(good, 3, 2).unwrap_err(), few);
}

#[test]
fn unknown_names_have_a_hint_and_groups_end() {
    let mut suite = Suite::builtin().unwrap();
    let error = suite.select(&["arc_eesy".to_owned()]).unwrap_err().to_string();
    assert_eq!(error, "unknown task `arc_eesy`, did you mean `arc_easy`?; `taper tasks` lists them");
    let standard = suite.select(&["standard".to_owned(), "arc_easy".to_owned()]).unwrap();
    assert_eq!((standard.tasks.len(), standard.groups.len()), (70, 6));
    suite.add("group: a\ntask: [a]\nmetadata: { version: 1.0 }\n", "a").unwrap();
    assert!(suite.select(&["a".to_owned()]).unwrap_err().to_string().contains("the group is inside itself"));
}

#[test]
fn every_folder_of_evals_is_built_in_and_has_its_page() {
    let root = testkit::workspace_root().join("evals");
    let folders = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let suite = Suite::builtin().unwrap();
    let mut count = 0;
    for folder in folders {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        assert!(suite.select(std::slice::from_ref(&name)).is_ok(), "{name}");
        let page = std::fs::read_to_string(folder.join("README.md")).unwrap();
        assert!(page.contains("icence") && page.contains("http"), "{name}: licence and source");
        count += 1;
    }
    assert_eq!(count, 15);
}
