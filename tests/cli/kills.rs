//! `kill -9` at any moment loses at most the work of that moment: the next run goes on, and ends with the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;
use taper_base::rng::{RngExt, stream};

use crate::support::{Place, Results, Row, text, trials, undisturbed};

const STAGES: [&str; 5] = ["load", "calibrate", "search", "materialise", "eval"];
const SIGKILL: i32 = 9;

/// When to kill: this share of a stage's usual time after it began.
#[derive(Debug, Clone, Copy)]
struct Moment {
    stage: &'static str,
    share: f64,
}

/// How long each stage of an undisturbed run takes.
type Durations = BTreeMap<&'static str, Duration>;

/// One run into `runs`. With a moment, `true` if it was killed then; `false` if it had ended before.
fn run(place: &Place, runs: &str, kill: Option<(Moment, &Durations)>) -> bool {
    let mut command = place.taper(&["run", "tiny.yaml", "--progress", "json", "--runs", runs]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let (send, started) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut other = String::new();
        for line in stderr.lines() {
            let line = line.unwrap();
            match serde_json::from_str::<Value>(&line) {
                Ok(event) if event["event"] == "started" => drop(send.send(event["stage"].clone())),
                Ok(_) => {}
                Err(_) => other.push_str(&line),
            }
        }
        other
    });
    if let Some((moment, durations)) = kill {
        if started.iter().any(|stage| stage == moment.stage) {
            std::thread::sleep(durations[moment.stage].mul_f64(moment.share));
        }
        child.kill().unwrap();
    }
    let (status, other) = (child.wait().unwrap(), reader.join().unwrap());
    let killed = kill.is_some() && status.signal() == Some(SIGKILL);
    assert!(killed || status.success(), "{kill:?}: {status}: {other}");
    killed
}

/// The times of the stages, from the second of two runs: the first has caches to fill.
fn durations(place: &Place) -> Durations {
    let mut found = Durations::new();
    for _ in 0..2 {
        let runs = tempfile::tempdir_in(place.dir()).unwrap();
        let mut command = place.taper(&["run", "tiny.yaml", "--progress", "json", "--runs"]);
        let mut child = command.arg(runs.path()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut start = Instant::now();
        for line in BufReader::new(child.stderr.take().unwrap()).lines() {
            let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
            match event["event"].as_str() {
                Some("started") => start = Instant::now(),
                Some("finished") => {
                    let stage = STAGES.into_iter().find(|stage| event["stage"] == *stage).unwrap();
                    found.insert(stage, start.elapsed());
                }
                _ => {}
            }
        }
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(found.len(), STAGES.len());
    found
}

/// Trials so far, by what they are, with the seconds that scoring took: a second scoring would take others. Read from a
/// copy, so that the next run finds the database as the kill left it.
fn so_far(folder: &Path) -> BTreeMap<Row, f64> {
    let copy = tempfile::tempdir().unwrap();
    for name in ["trials.db", "trials.db-wal"] {
        if folder.join(name).exists() {
            fs::copy(folder.join(name), copy.path().join(name)).unwrap();
        }
    }
    trials(&copy.path().join("trials.db"))
}

/// Kills at `moments` in turn, then lets it finish, and compares. Returns the kills that hit a running process.
fn kill_and_finish(place: &Place, durations: &Durations, moments: &[Moment], name: &str) -> usize {
    let folder = place.path(name).join("tiny");
    let mut kills = 0;
    for moment in moments {
        kills += usize::from(run(place, name, Some((*moment, durations))));
        let before = so_far(&folder);
        assert!(before.len() <= undisturbed().trials.len(), "{name}");
        nothing_is_half_made(&folder, &before, name);
    }
    let before = so_far(&folder);
    run(place, name, None);
    let results = Results::of(&folder);
    for (row, seconds) in &before {
        assert_eq!(results.trials.get(row), Some(seconds), "{name}: a trial was scored twice: {row:?}");
    }
    results.assert_same(undisturbed(), &format!("{name}, killed at {moments:?}"));
    fs::remove_dir_all(place.path(name)).unwrap();
    kills
}

/// What stands at a kill is part of the undisturbed run.
fn nothing_is_half_made(folder: &Path, before: &BTreeMap<Row, f64>, name: &str) {
    for row in before.keys() {
        assert!(undisturbed().trials.contains_key(row), "{name}: a trial that the undisturbed run has not: {row:?}");
    }
    for stage in STAGES {
        let Ok(entries) = fs::read_dir(folder.join(stage)) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            let file = path.strip_prefix(folder).unwrap().display().to_string();
            assert!(undisturbed().files.get(&file) == Some(&fs::read(&path).unwrap()), "{name}: half-made {file}");
        }
    }
}

#[test]
fn one_kill_at_any_moment_changes_no_byte() {
    let place = Place::new();
    let durations = durations(&place);
    let mut rng = stream(0, "kills", 0, 0);
    let mut kills = 0;
    for attempt in 0..15 {
        let moment = Moment { stage: STAGES[attempt % STAGES.len()], share: rng.random() };
        kills += kill_and_finish(&place, &durations, &[moment], &format!("one-{attempt}"));
    }
    assert!(kills >= 12, "only {kills} kills hit a running process");
}

#[test]
fn several_kills_in_a_row_change_no_byte() {
    let place = Place::new();
    let durations = durations(&place);
    let mut rng = stream(0, "kills", 1, 0);
    let mut kills = 0;
    for attempt in 0..3 {
        let stages = ["load", "calibrate", "search", "search", "search", "materialise", "eval"];
        let moments = stages.map(|stage| Moment { stage, share: rng.random_range(0.0..0.7) });
        kills += kill_and_finish(&place, &durations, &moments, &format!("row-{attempt}"));
    }
    assert!(kills >= 12, "only {kills} kills hit a running process");
}

#[test]
fn a_kill_between_the_renames_of_a_stage_is_repaired() {
    let place = Place::new();
    place.done(&["run", "tiny.yaml"]);
    let folder = place.path("runs/tiny");
    for stage in &STAGES[1..] {
        // as `PendingDir::commit` leaves it when it dies after the first rename, and before it removes the old result
        fs::rename(folder.join(stage), folder.join(format!(".{stage}.old"))).unwrap();
        let output = place.done(&["run", "tiny.yaml"]);
        assert!(text(&output.stderr).contains(&format!("{stage:<12} done")), "{stage}");
        Results::of(&folder).assert_same(undisturbed(), stage);
        fs::create_dir(folder.join(format!(".{stage}.partial"))).unwrap();
        place.write(&format!("runs/tiny/.{stage}.partial/junk"), b"x");
        fs::remove_dir_all(folder.join(stage)).unwrap();
        place.done(&["run", "tiny.yaml"]);
        Results::of(&folder).assert_same(undisturbed(), stage);
    }
}

#[test]
fn what_a_kill_in_the_middle_of_a_file_leaves_is_swept() {
    let place = Place::new();
    place.done(&["search", "tiny.yaml"]);
    place.write("runs/tiny/.taper-a1b2c3", b"half of load.json");
    place.done(&["run", "tiny.yaml"]);
    Results::of(&place.path("runs/tiny")).assert_same(undisturbed(), "swept");
}
