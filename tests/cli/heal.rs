//! Healing: by a recipe and by its own command, killed, on other threads, and with wrong settings.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use insta_cmd::assert_cmd_snapshot;
use serde_json::Value;
use taper_base::rng::{RngExt, stream};

use crate::support::{Place, Results, text};

const SECTION: &str = "heal: { steps: 12, sequences: 4, rate: 2e-4, validation: { every: 4, sequences: 2 } }\n";

/// A place with a pruned model in `runs/tiny/materialise`.
fn pruned() -> Place {
    let place = Place::new();
    place.done(&["prune", "tiny.yaml"]);
    place
}

/// All of a training but its name.
const TRAINING: [&str; 15] = [
    "heal",
    "runs/tiny/materialise",
    "--teacher",
    "model",
    "--data",
    "text.txt",
    "--length",
    "32",
    "--sequences",
    "4",
    "--rate",
    "2e-4",
    "--steps",
    "60",
    "--json",
];

fn training<'a>(more: &[&'a str]) -> Vec<&'a str> {
    TRAINING.iter().chain(more).copied().collect()
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// All files of a result.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            found.extend(files(&path).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else {
            found.insert(name, fs::read(&path).unwrap());
        }
    }
    found
}

/// Metrics of the one training in `out`, without times.
fn metrics(out: &Path) -> Vec<Value> {
    let mut works = fs::read_dir(out.join("heal.work")).unwrap();
    let work = works.next().unwrap().unwrap().path();
    assert!(works.next().is_none());
    assert!(!work.join("checkpoints").exists(), "checkpoints are no longer of use");
    let lines = fs::read_to_string(work.join("metrics.jsonl")).unwrap();
    let without = |line: &str| {
        let mut metric: Value = serde_json::from_str(line).unwrap();
        metric.as_object_mut().unwrap().remove("seconds");
        metric
    };
    lines.lines().map(without).collect()
}

#[test]
fn a_recipe_heals_what_it_has_pruned_and_judges_that() {
    let place = Place::new();
    place.change("eval: {", &format!("{SECTION}eval: {{"));
    let report = json(&place.output(&["run", "tiny.yaml", "--json"]));
    let summary = &report["heal"]["summary"];
    let number = |value: &Value| value.as_f64().unwrap();
    assert!(number(&summary["after"]) < number(&summary["before"]), "{summary}");
    assert!(number(&summary["teacher"]) < number(&summary["after"]), "{summary}");
    let lost = number(&summary["before"]) - number(&summary["teacher"]);
    let recovered = (number(&summary["before"]) - number(&summary["after"])) / lost;
    assert!((number(&report["heal"]["recovered"]) - recovered).abs() < 1e-12);
    let rows = report["eval"]["rows"].as_array().unwrap();
    let names: Vec<_> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["original", "pruned", "healed", "uniform", "random"]);
    assert!(number(&rows[2]["measured"]["loss"]) < number(&rows[1]["measured"]["loss"]));
    assert!(report["checkpoint"].as_str().unwrap().ends_with("heal"));
    let lock: Value = serde_json::from_slice(&fs::read(place.path("runs/tiny/heal/taper.lock")).unwrap()).unwrap();
    assert_eq!(lock["heal"]["settings"]["steps"], 12);
    let plot = fs::read_to_string(place.path("runs/tiny/heal/loss.svg")).unwrap();
    assert!(plot.starts_with("<svg") && plot.contains("original") && plot.contains("validation"));
    let again = json(&place.output(&["run", "tiny.yaml", "--json"]));
    assert_eq!(again["worked"], serde_json::json!([]));
    assert_eq!(again["heal"], report["heal"]);
    // what the result does not depend on makes nothing anew; what it does, healing and eval alone
    place.change("eval: {", &format!("{}eval: {{", SECTION.replace("heal: {", "heal: { checkpoints: { every: 5 },")));
    assert_eq!(json(&place.output(&["run", "tiny.yaml", "--json"]))["worked"], serde_json::json!([]));
    place.change("eval: {", &format!("{}eval: {{", SECTION.replace("rate: 2e-4", "rate: 1e-4")));
    let changed = json(&place.output(&["run", "tiny.yaml", "--json"]));
    assert_eq!(changed["worked"], serde_json::json!(["heal", "eval"]));
}

#[test]
fn threads_change_no_byte() {
    let place = Place::new();
    place.change("eval: {", &format!("{SECTION}eval: {{"));
    let of = |runs: &str, threads: &str| {
        place.done(&["run", "tiny.yaml", "--runs", runs, "--threads", threads]);
        files(&place.path(&format!("{runs}/tiny/heal")))
    };
    assert!(of("one", "1") == of("three", "3"));
}

#[test]
fn twenty_kills_change_no_byte() {
    let place = pruned();
    let settings = ["--set", "checkpoints={every: 3}", "--set", "local={steps: 8}", "--set", "lora={rank: 4}"];
    let run = |out: &str, more: &[&str], kill: Option<Duration>| {
        let args = training(&[&["--out", out], &settings[..], more].concat());
        let mut child = place.taper(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        if let Some(after) = kill {
            std::thread::sleep(after);
            child.kill().unwrap();
        }
        let output = child.wait_with_output().unwrap();
        assert!(kill.is_some() || output.status.success(), "{}", text(&output.stderr));
        output.status.code().is_none()
    };
    let start = Instant::now();
    run("undisturbed", &[], None);
    let usual = start.elapsed();
    let wanted = (files(&place.path("undisturbed/heal")), metrics(&place.path("undisturbed")));
    assert!(wanted.0.contains_key("adapter/adapter_model.safetensors"));
    let (mut rng, mut kills) = (stream(0, "heal-kills", 0, 0), 0);
    for folder in 0..5 {
        let out = format!("out-{folder}");
        for _ in 0..4 {
            kills += usize::from(run(&out, &[], Some(usual.mul_f64(0.35 * rng.random::<f64>())))); // each adds some steps
        }
        run(&out, &[], None);
        let found = (files(&place.path(&out).join("heal")), metrics(&place.path(&out)));
        assert!(found.0 == wanted.0, "{out}");
        assert_eq!(found.1, wanted.1, "{out}");
        run(&out, &["--resume"], None); // done, and nothing is done again
    }
    assert!(kills >= 14, "only {kills} kills hit a running process");
}

#[test]
fn a_result_is_not_overwritten_and_there_is_something_to_resume() {
    let place = pruned();
    let short = ["--out", "out", "--steps", "3", "--length", "16"];
    let args = |more: &[&'static str]| -> Vec<&str> {
        ["heal", "runs/tiny/materialise", "--data", "text.txt"].iter().chain(&short).chain(more).copied().collect()
    };
    assert_cmd_snapshot!(place.taper(&args(&["--resume", "--progress", "silent"])), @"
    success: false
    exit_code: 2
    ----- stdout -----

    ----- stderr -----
    error: out: no training with these models, texts and settings was begun here
      help: without `--resume` it begins anew
    ");
    place.done(&args(&[]));
    let first = files(&place.path("out/heal"));
    place.done(&args(&["--resume"]));
    assert_cmd_snapshot!(place.taper(&args(&["--seed", "1", "--progress", "silent"])), @"
    success: false
    exit_code: 2
    ----- stdout -----

    ----- stderr -----
    error: ./out/heal: the result of another training, with other models, texts or settings
      help: give another `--out`, or throw it away with `--fresh`
    ");
    assert!(files(&place.path("out/heal")) == first);
    place.done(&args(&["--seed", "1", "--fresh"]));
    assert!(files(&place.path("out/heal")) != first);
}

#[test]
fn wrong_settings_are_told_with_their_place() {
    let place = pruned();
    let with = |more: &[&'static str]| {
        let args = ["heal", "runs/tiny/materialise", "--progress", "silent"];
        place.taper(&args.iter().chain(more).copied().collect::<Vec<_>>())
    };
    place.write("settings.yaml", b"steps: 3\nobjectives: [logit-kl: {temprature: 2}]\noptimiser: lion\n");
    assert_cmd_snapshot!(with(&[]), @"
    success: false
    exit_code: 2
    ----- stdout -----

    ----- stderr -----
    error: nothing to train on: wanted --data PATH, --images PATH, or `texts` in the settings
    ");
    assert_cmd_snapshot!(with(&["--data", "text.txt", "--settings", "settings.yaml"]), @"
    success: false
    exit_code: 2
    ----- stdout -----

    ----- stderr -----
    error: settings.yaml:3:1: not a valid recipe
      cause: unknown field `optimiser`, did you mean `optimizer`?; known: steps, sequences, length, objectives, optimizer, rate, schedule, train, lora, local, texts, corruptor, augment, apart, clip, noise, drop_path, validation, checkpoints, best, cache
               |
             3 | optimiser: lion
               | ^
    ");
    assert_cmd_snapshot!(with(&["--data", "text.txt", "--set", "objectives=[{logit-kl: {temprature: 2}}]"]), @"
    success: false
    exit_code: 2
    ----- stdout -----

    ----- stderr -----
    error: logit-kl: unknown field `temprature`, did you mean `temperature`?; known: direction, temperature, top, beta
    ");
    assert_cmd_snapshot!(with(&["--data", "text.txt", "--set", "objectives=[logit-kl]"]), @"
    success: false
    exit_code: 2
    ----- stdout -----

    ----- stderr -----
    error: teacher: none, and an objective or `local` compares with it
    ");
    assert_cmd_snapshot!(with(&["--data", "text.txt", "--length", "32", "--set", "train=[model.layer.*]"]), @"
    success: false
    exit_code: 2
    ----- stdout -----

    ----- stderr -----
    error: train: `model.layer.*` names none of the model's parameters, such as `model.layers.0.input_layernorm.weight`
    ");
    assert_cmd_snapshot!(with(&["--data", "text.txt", "--length", "1000000"]), @"
    success: false
    exit_code: 2
    ----- stdout -----

    ----- stderr -----
    error: length: 1000000, the model knows positions of 512 tokens
    ");
    assert_cmd_snapshot!(with(&["--data", "text.txt", "--teacher", "model", "--origin", "0,1"]), @"
    success: false
    exit_code: 2
    ----- stdout -----

    ----- stderr -----
    error: origin: [0, 1], wanted 6 ascending numbers below 6: which of the teacher's blocks each was
    ");
}

#[test]
fn a_recipe_without_healing_is_what_it_was() {
    let place = Place::new();
    place.done(&["run", "tiny.yaml"]);
    assert!(Results::of(&place.path("runs/tiny")).files.keys().all(|name| !name.starts_with("heal")));
}
