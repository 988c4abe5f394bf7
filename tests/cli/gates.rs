//! Tasks and gates of a recipe: what is measured, what is kept, the exit code, and what is done again.

use std::collections::BTreeMap;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use insta_cmd::assert_cmd_snapshot;
use rusqlite::Connection;
use serde_json::{Value, json};
use taper_base::rng::{RngExt, stream};

use crate::support::{Place, RECIPE, text};
use crate::tasks;

/// What a line of the demo's text is worth, and a group of all.
const OTHERS: &str = "task: lines
summary: Lines of the demo's text
dataset_path: nobody/lines
dataset_revision: main
licence: MIT
dataset_files: { test: [test.jsonl] }
dataset_folder: endings
output_type: loglikelihood_rolling
test_split: test
doc_to_target: \"{{start}}\"
metric_list: [{ metric: byte_perplexity }, { metric: word_perplexity }]
metadata: { version: 1.0 }
";
const GROUP: &str = "group: all\ntask: [endings, lines, halves]\nmetadata: { version: 1.0 }\n";

/// A place whose recipe has the tasks `endings` and `lines`, `halves` of two kinds, and the group `all`; `eval` is added to the section.
fn place(documents: usize, eval: &str) -> Place {
    let place = tasks::place(documents);
    for folder in ["own", "own/endings", "own/lines", "own/halves", "own/all"] {
        std::fs::create_dir(place.path(folder)).unwrap();
    }
    place.write("own/endings/task.yaml", tasks::TASK.as_bytes());
    place.write("own/lines/task.yaml", OTHERS.as_bytes());
    let halves = tasks::TASK.replace("task: endings", "task: halves\ndataset_folder: endings");
    let variants = "variants: { field: kind, groups: { halves_all: [even, third] } }\n";
    place.write("own/halves/task.yaml", format!("{halves}{variants}").as_bytes());
    place.write("own/all/task.yaml", GROUP.as_bytes());
    let lines = std::fs::read_to_string(place.path("data/endings/test.jsonl")).unwrap();
    let kind = |index: usize| if index.is_multiple_of(3) { "third" } else { "even" };
    let lines: String = lines
        .lines()
        .enumerate()
        .map(|(index, line)| line.replacen('{', &format!("{{\"kind\": \"{}\", ", kind(index)), 1) + "\n")
        .collect();
    place.write("data/endings/test.jsonl", lines.as_bytes());
    set(&place, eval);
    place
}

fn set(place: &Place, eval: &str) {
    place.change("random: 1 }", &format!("random: 1, data: ./data, task_path: [own], {eval} }}"));
}

fn run(place: &Place) -> (Output, Value) {
    let output = place.output(&["run", "tiny.yaml", "--json", "--progress", "silent"]);
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
    (output, report)
}

/// Files of the eval stage.
fn eval(place: &Place) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(place.path("runs/tiny/eval")).unwrap();
    let file = |path: std::path::PathBuf| {
        (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap())
    };
    entries.map(|entry| file(entry.unwrap().path())).collect()
}

fn recovery(report: &Value, name: &str) -> f64 {
    let all = report["eval"]["tasks"]["recoveries"].as_array().unwrap();
    all.iter().find(|one| one["name"] == name).unwrap()["recovery"].as_f64().unwrap()
}

#[test]
fn a_run_measures_what_eval_against_does_and_asks_nothing_twice() {
    let place = place(40, "tasks: [all]");
    let (output, report) = run(&place);
    assert_eq!(output.status.code(), Some(0));
    let files = eval(&place);
    let names: Vec<_> = files.keys().collect();
    assert_eq!(names, ["eval.json", "key.json", "tasks_original.json", "tasks_pruned.json"]);

    let args = ["eval", "runs/tiny/materialise", "--against", "model", "--tasks", "all"];
    let more = ["--task-path", "own", "--data", "data", "--json"];
    let by_hand = place.done(&[&args[..], &more].concat());
    let by_hand: Value = serde_json::from_slice(&by_hand.stdout).unwrap();
    assert_eq!(by_hand["taper"]["against"], report["eval"]["tasks"]["against"]);
    assert_eq!(by_hand["taper"]["effort"]["known"], by_hand["taper"]["effort"]["requests"]);
    let pruned: Value = serde_json::from_slice(&files["tasks_pruned.json"]).unwrap();
    assert_eq!(pruned["results"], by_hand["results"]);
    let original: Value = serde_json::from_slice(&files["tasks_original.json"]).unwrap();

    let of = |of: &Value, task: &str, metric: &str| of["results"][task][format!("{metric},none")].as_f64().unwrap();
    let kept = |better: &Value, worse: &Value, task, metric| of(better, task, metric) / of(worse, task, metric);
    assert_eq!(recovery(&report, "endings"), kept(&pruned, &original, "endings", "acc_norm"));
    assert_eq!(recovery(&report, "lines"), kept(&original, &pruned, "lines", "word_perplexity"));
    let pooled = |results: &Value| {
        let [third, even] = ["halves_third", "halves_even"].map(|task| of(results, task, "acc_norm"));
        (third * 14.0 + even * 26.0) / 40.0
    };
    assert_eq!(recovery(&report, "halves"), pooled(&pruned) / pooled(&original));
    assert!((pooled(&pruned) - of(&pruned, "endings", "acc_norm")).abs() < 1e-12, "all documents, however parted");
    let mean = ["endings", "lines", "halves"].map(|name| recovery(&report, name)).iter().sum::<f64>() / 3.0;
    assert_eq!(recovery(&report, "all"), mean);
    assert!(recovery(&report, "lines") < 1.0, "a pruned model predicts the text worse");

    let (_, again) = run(&place);
    assert_eq!(again["worked"], json!([]));
    assert_eq!(again["eval"], report["eval"]);
    std::fs::remove_dir_all(place.path("runs/tiny/eval")).unwrap();
    run(&place);
    assert!(eval(&place) == files, "done again, the same bytes");
}

#[test]
fn a_gate_that_is_missed_is_exit_code_1_and_says_by_how_much() {
    let place = place(20, "tasks: [lines]");
    let (_, report) = run(&place);
    assert_eq!(report["gates"], json!([]));
    let kept = recovery(&report, "lines");
    let rows = &report["eval"]["rows"];
    let perplexity = |row: usize| rows[row]["measured"]["perplexity"].as_f64().unwrap();
    let text_kept = perplexity(0) / perplexity(1);
    assert!(0.1 < kept && kept < 1.0 && 0.1 < text_kept && text_kept < 1.0, "{kept} {text_kept}");

    for (slack, met, code) in [(-1e-6, true, 0), (1e-6, false, 1)] {
        let gates = [("lines", kept), ("perplexity", text_kept)].map(|(name, kept)| (name, kept + slack));
        let wanted: Vec<String> = gates.iter().map(|(name, kept)| format!("{name}: {kept}")).collect();
        set(&place, &format!("tasks: [lines], recovery: {{ {} }}", wanted.join(", ")));
        let (output, report) = run(&place);
        assert_eq!(output.status.code(), Some(code));
        assert_eq!(report["worked"], json!([]), "gates are judged, not measured");
        for ((name, wanted), gate) in gates.iter().zip(report["gates"].as_array().unwrap()) {
            let found = if *name == "lines" { kept } else { text_kept };
            assert_eq!(*gate, json!({ "name": name, "wanted": wanted, "found": found, "met": met }));
        }
    }
    set(&place, "tasks: [lines], recovery: { lines: 100%, perplexity: 1% }");
    let output = place.output(&["run", "tiny.yaml", "--progress", "silent"]);
    assert_eq!(output.status.code(), Some(1));
    let (page, error) = (text(&output.stdout), text(&output.stderr));
    let shortfall = format!("recovery of lines is {kept:.4}, wanted at least 1: {:.4} too little", 1.0 - kept);
    assert_eq!(error, format!("error: 1 of 2 gates missed\n  cause: {shortfall}\n"));
    let line = |start: &str| page.lines().find(|line| line.starts_with(start)).unwrap().to_owned();
    let gates: Vec<String> = page.lines().skip_while(|line| !line.starts_with("gate")).map(str::to_owned).collect();
    assert_eq!(gates[1].split_whitespace().collect::<Vec<_>>(), ["lines", "1.0000", &format!("{kept:.4}"), "missed"]);
    assert!(gates[2].starts_with("perplexity") && gates[2].ends_with("met"), "{}", gates[2]);
    assert!(line("task").contains("recovery") && line("checkpoint").ends_with("materialise"));
}

#[test]
fn wrong_names_ranges_and_gates_are_pointed_at() {
    for (eval, at, want) in [
        ("tasks: [lines, endigs]", 50, "unknown task `endigs`, did you mean `endings`?; `taper tasks` lists them"),
        ("tasks: [lines], recovery: { line: 0.9 }", 70, "`line` is not among `eval.tasks`, did you mean `lines`?"),
        ("tasks: [lines], recovery: { arc_easy: 0.9 }", 70, "`arc_easy` is not among `eval.tasks`, so nothing is"),
        (
            "tasks: [lines], recovery: { lines: 95 }",
            70,
            "a recovery of 95 is not in 0 to 1, 0 excluded; did you mean `95%`?",
        ),
        ("tasks: [lines], recovery: { lines: 0 }", 70, "a recovery of 0 is not in 0 to 1, 0 excluded"),
        ("tasks: [lines], recovery: { lines: most }", 70, "`most` is not a share such as 95% or 0.95"),
        ("tasks: [lines], limit: 1.5", 70, "limit is 1.5, wanted a number of documents, or a share of them below 1"),
        ("shots: 3", 1, "`shots` belongs to `tasks`, and there are none"),
        ("tasks: [lines], task_paths: [x]", 1, "unknown field `task_paths`, did you mean `task_path`?"),
    ] {
        let place = place(1, eval);
        for command in ["check", "run"] {
            let output = place.output(&[command, "tiny.yaml"]);
            let error = text(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{eval}: {error}");
            let place = error.strip_prefix("error: tiny.yaml:13:").unwrap_or_else(|| panic!("{eval}: {error}"));
            let column: usize = place.split(':').next().unwrap().parse().unwrap();
            assert!(column >= at && error.contains(want), "{eval}: {error}");
        }
    }
}

#[test]
fn an_unknown_task_is_shown_in_its_line() {
    let place = Place::new();
    place.change("random: 1 }", "random: 1, tasks: [arc_easy, arc_esay] }");
    assert_cmd_snapshot!(place.taper(&["check", "tiny.yaml"]), @"
    success: false
    exit_code: 2
    ----- stdout -----

    ----- stderr -----
    error: tiny.yaml:13:50: not a valid recipe
      cause: unknown task `arc_esay`, did you mean `arc_easy`?; `taper tasks` lists them
                |
             13 | eval: { window: 64, random: 1, tasks: [arc_easy, arc_esay] }
                |                                                  ^
    ");
}

#[test]
fn what_is_not_there_is_named_before_anything_takes_long() {
    let place = place(2, "tasks: [lines, arc_easy]");
    let output = place.done(&["check", "tiny.yaml"]);
    assert!(
        text(&output.stdout).contains("note: eval.data: ./data/arc_easy/test is not on this machine"),
        "{}",
        text(&output.stdout)
    );
    let output = place.output(&["run", "tiny.yaml"]);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(error.contains("data/arc_easy/test: cannot be read") && !error.contains("calibrate"), "{error}");
    set(&place, "tasks: [lines]");
    place.write("own/lines/task.yaml", OTHERS.replace("metric_list", "metrics").as_bytes());
    let output = place.output(&["check", "tiny.yaml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).starts_with("error: tiny.yaml:13:"), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("own/lines/task.yaml:11: "), "{}", text(&output.stderr));
}

#[test]
fn eval_is_done_again_if_anything_that_counts_has_changed() {
    let place = place(12, "tasks: [endings]");
    let worked = || run(&place).1["worked"].clone();
    assert_eq!(worked(), json!(["calibrate", "search", "materialise", "eval"]));
    for eval in
        ["tasks: [endings, lines]", "tasks: [all]", "tasks: [all], limit: 10", "tasks: [endings], limit: 10, shots: 1"]
    {
        set(&place, eval);
        assert_eq!(worked(), json!(["eval"]), "{eval}");
        assert_eq!(worked(), json!([]), "{eval}");
    }
    set(&place, "tasks: [endings], limit: 10, shots: 1, fewshot_seed: 7");
    assert_eq!(worked(), json!(["eval"]));
    place.write("own/endings/task.yaml", tasks::TASK.replace("version: 1.0", "version: 2.0").as_bytes());
    assert_eq!(worked(), json!(["eval"]), "another version of the task");
    let mut lines = std::fs::read(place.path("data/endings/test.jsonl")).unwrap();
    lines.extend(br#"{"start": "One more", "endings": [" a", " b"], "right": 1}"#);
    place.write("data/endings/test.jsonl", &lines);
    assert_eq!(worked(), json!(["eval"]), "another document");
    std::fs::rename(place.path("data"), place.path("moved")).unwrap();
    let recipe = std::fs::read_to_string(place.path("tiny.yaml")).unwrap();
    place.write("tiny.yaml", recipe.replace("data: ./data", "data: ./moved").as_bytes());
    assert_eq!(worked(), json!([]), "the same documents elsewhere");
    place.write("tiny.yaml", RECIPE.as_bytes());
    assert_eq!(worked(), json!(["eval"]));
}

#[test]
fn a_killed_eval_goes_on_from_its_answers_to_the_same_bytes() {
    let place = place(300, "tasks: [endings, lines]");
    place.done(&["prune", "tiny.yaml"]);
    let start = Instant::now();
    place.done(&["run", "tiny.yaml"]);
    let (whole, wanted) = (start.elapsed(), eval(&place));
    let mut rng = stream(5, "kills of gates", 0, 0);
    let mut went_on = 0;
    for kill in 0..8 {
        std::fs::remove_dir_all(place.path("runs/tiny/eval")).unwrap();
        let store = format!("killed{kill}.db");
        let mut command = place.taper(&["run", "tiny.yaml"]);
        let mut child =
            command.env("TAPER_EVAL_STORE", &store).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(whole.mul_f64(rng.random_range(0.2..1.0)).max(Duration::from_millis(1)));
        child.kill().unwrap();
        child.wait().unwrap();
        let known = answers(&place, &store);
        let again = place.taper(&["run", "tiny.yaml"]).env("TAPER_EVAL_STORE", &store).output().unwrap();
        assert!(again.status.success(), "{}", text(&again.stderr));
        assert!(eval(&place) == wanted, "kill {kill}: other bytes");
        went_on += usize::from(0 < known && known < answers(&place, &store));
    }
    assert!(went_on > 0, "no kill was in the middle of the tasks");
}

/// Answers in a store; none if there is none yet.
fn answers(place: &Place, store: &str) -> u32 {
    let Ok(db) = Connection::open(place.path(store)) else { return 0 };
    db.query_row("SELECT count(*) FROM answers_1", (), |row| row.get(0)).unwrap_or(0)
}
