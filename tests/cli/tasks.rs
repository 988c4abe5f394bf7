//! `taper eval --tasks`: answers are kept, a killed evaluation goes on to the same document, and what is wrong is named.

use std::fmt::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use taper_base::rng::{RngExt, stream};

use crate::support::{Place, text};

pub const TASK: &str = "task: endings
summary: How a line of the demo's text ends
dataset_path: nobody/endings
dataset_revision: main
licence: MIT
dataset_files: { test: [test.jsonl] }
output_type: multiple_choice
test_split: test
doc_to_text: \"{{start}}\"
doc_to_choice: \"{{endings}}\"
doc_to_target: right
target_delimiter: \"\"
metric_list: [{ metric: acc }, { metric: acc_norm }]
metadata: { version: 1.0 }
";

/// A place with the task `endings` of so many documents, in `tasks` and `data`.
pub fn place(documents: usize) -> Place {
    filled(Place::new(), documents)
}

pub fn filled(place: Place, documents: usize) -> Place {
    for folder in ["tasks", "data", "data/endings"] {
        std::fs::create_dir(place.path(folder)).unwrap();
    }
    place.write("tasks/task.yaml", TASK.as_bytes());
    let source = std::fs::read_to_string(place.path("text.txt")).unwrap();
    let words: Vec<&str> = source.split_whitespace().collect();
    let mut lines = String::new();
    for document in 0..documents {
        let at = document * 7 % (words.len() - 40);
        let start = words[at..at + 20].join(" ");
        let endings = [20, 30].map(|from| format!(" {}", words[at + from..at + from + 4].join(" ")));
        let line = serde_json::json!({ "start": start, "endings": endings, "right": document % 2 });
        let _ = writeln!(lines, "{line}");
    }
    place.write("data/endings/test.jsonl", lines.as_bytes());
    place
}

fn args<'a>(store: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let own = ["eval", "model", "--tasks", "endings", "--task-path", "tasks", "--data", "data", "--json", "--answers"];
    own.into_iter().chain([store]).chain(more.iter().copied()).collect()
}

/// The document of a run, its effort apart.
fn report(place: &Place, store: &str, more: &[&str]) -> (Value, Value) {
    let output = place.done(&args(store, more));
    let mut report: Value = serde_json::from_slice(&output.stdout).unwrap();
    report.as_object_mut().unwrap().remove("total_evaluation_time_seconds").unwrap();
    let effort = report["taper"].as_object_mut().unwrap().remove("effort").unwrap();
    (report, effort)
}

#[test]
fn a_second_evaluation_asks_nothing_and_says_the_same() {
    let place = place(12);
    let (first, effort) = report(&place, "a.db", &["--log-samples"]);
    assert_eq!((&effort["requests"], &effort["known"]), (&24.into(), &0.into()));
    let (again, effort) = report(&place, "a.db", &["--log-samples"]);
    assert_eq!((&effort["known"], &effort["tokens"]), (&24.into(), &0.into()));
    assert_eq!(first, again);
    let (fresh, effort) = report(&place, "a.db", &["--log-samples", "--fresh"]);
    assert_eq!(effort["known"], 0);
    assert_eq!(first, fresh);
    assert_eq!(first["n-samples"]["endings"], serde_json::json!({ "original": 12, "effective": 12 }));
    let samples = first["samples"]["endings"].as_array().unwrap();
    assert_eq!(samples.len(), 12);
    let (against, _) = report(&place, "a.db", &["--against", "model"]);
    for row in against["taper"]["against"].as_array().unwrap() {
        assert_eq!((&row["difference"], &row["flipped"]), (&0.0.into(), &0.into()));
    }
}

#[test]
fn a_chat_template_is_another_question_and_a_model_without_one_is_refused() {
    let place = filled(Place::with_own_model(), 4);
    let chat = ["--log-samples", "--apply-chat-template", "--system-instruction", "Be brief."];
    let output = place.output(&args("a.db", &chat));
    assert_eq!(output.status.code(), Some(2));
    let refused = text(&output.stderr);
    assert!(refused.contains("model: no chat template, neither `chat_template` in tokenizer_config.json"), "{refused}");
    let (plain, _) = report(&place, "a.db", &["--log-samples"]);
    assert_eq!((&plain["chat_template"], &plain["system_instruction"]), (&Value::Null, &Value::Null));
    let template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<answer>";
    place.write("model/chat_template.jinja", template.as_bytes());
    let (told, effort) = report(&place, "a.db", &chat);
    assert_eq!(effort["known"], 0);
    assert_eq!(told["chat_template"], template);
    assert_eq!((&told["system_instruction"], &told["fewshot_as_multiturn"]), (&"Be brief.".into(), &true.into()));
    let asked = |report: &Value| {
        let asked = &report["samples"]["endings"][3]["arguments"][1];
        [&asked[0], &asked[1]].map(|text| text.as_str().unwrap().to_owned())
    };
    let ([start, ending], question) = (asked(&plain), asked(&told));
    assert_eq!(question, [format!("<system>Be brief.\n<user>{start}\n<answer>"), ending]);
    let (one, _) = report(&place, "a.db", &["--apply-chat-template=any", "--fewshot-as-multiturn=false"]);
    assert_eq!(one["fewshot_as_multiturn"], false);
    let lone = place.output(&args("a.db", &["--fewshot-as-multiturn"]));
    assert!(text(&lone.stderr).contains("--apply-chat-template"), "{}", text(&lone.stderr));
}

#[test]
fn killed_at_any_moment_it_goes_on_to_the_same_document() {
    let place = place(600);
    let start = Instant::now();
    let (wanted, _) = report(&place, "whole.db", &["--log-samples"]);
    let whole = start.elapsed();
    let mut rng = stream(11, "kills of tasks", 0, 0);
    let mut went_on = 0;
    for kill in 0..20 {
        let store = format!("killed{kill}.db");
        let mut child = place.taper(&args(&store, &[])).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(whole.mul_f64(rng.random_range(0.0..1.0)).max(Duration::from_millis(1)));
        child.kill().unwrap();
        child.wait().unwrap();
        let (found, effort) = report(&place, &store, &["--log-samples"]);
        assert!(found == wanted, "kill {kill}: another document");
        let known = effort["known"].as_u64().unwrap();
        went_on += usize::from(known > 0 && known < effort["requests"].as_u64().unwrap());
    }
    assert!(went_on > 2, "{went_on} of 20 kills were in the middle");
}

#[test]
fn what_is_wrong_is_named_by_task_document_and_field() {
    let place = place(3);
    let refused = |more: &[&str]| {
        let output = place.output(&args("a.db", more));
        assert_eq!(output.status.code(), Some(2));
        text(&output.stderr)
    };
    assert!(refused(&["--tasks", "ending"]).contains("unknown task `ending`, did you mean `endings`?"));
    assert!(refused(&["--shots", "4"]).contains("task endings: 4 shots"));
    let lines = std::fs::read_to_string(place.path("data/endings/test.jsonl")).unwrap();
    let good = lines.lines().next().unwrap();
    for (line, want) in [
        (r#"{"start": "a", "endings": ["b", ""], "right": 0}"#, "task endings, document 1 of test, doc_to_choice: "),
        (
            r#"{"start": "a", "endings": ["b", "c"], "right": 2}"#,
            "document 1 of test, doc_to_target: the answer 2 is none",
        ),
        (r#"{"endings": ["b", "c"], "right": 0}"#, "document 1 of test, doc_to_text: "),
        ("{", "test.jsonl:2:1: EOF"),
    ] {
        place.write("data/endings/test.jsonl", format!("{good}\n{line}\n").as_bytes());
        let got = refused(&["--progress", "silent"]);
        assert!(got.contains(want), "{line}: {got}");
    }
    place.write("data/endings/test.jsonl", b"{\"start\": \"\xff\"}\n");
    assert!(refused(&[]).contains("invalid UTF-8"));
    place.write("data/endings/test.jsonl", b"");
    assert!(refused(&[]).contains("task endings, split test: no document in it"));
    let output = place.output(&["tasks", "check", "tasks"]);
    assert_eq!(text(&output.stdout), "1 task, nothing wrong\n");
    place.write("tasks/task.yaml", TASK.replace("doc_to_target: right", "doc_to_targt: right").as_bytes());
    let output = place.output(&["tasks", "check", "tasks"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("tasks/task.yaml:11"), "{}", text(&output.stderr));
}
