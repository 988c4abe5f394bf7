use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use taper_base::{Fingerprint, files};

use super::*;

fn key(seed: u64) -> StageKey {
    StageKey::new("search").with("model", &Fingerprint::of_bytes(b"m")).with_json("seed", &seed).unwrap()
}

/// Runs the stage; its result has a file at the top and one in a folder.
fn run(dir: &RunDir, key: &StageKey) -> Result<Outcome, RunDirError> {
    dir.run(key, |folder| {
        std::fs::create_dir(folder.join("sub")).unwrap();
        files::write(&folder.join("a.txt"), b"aaaa").unwrap();
        files::write(&folder.join("sub/b.txt"), b"b").unwrap();
        Ok(())
    })
}

fn new() -> (tempfile::TempDir, RunDir) {
    let runs = tempfile::tempdir().unwrap();
    let dir = RunDir::open(runs.path(), "demo").unwrap();
    (runs, dir)
}

#[test]
fn a_stage_runs_once_for_a_key_and_again_for_another() {
    let (_runs, dir) = new();
    assert!(!dir.done(&key(0)).unwrap());
    assert_eq!(run(&dir, &key(0)).unwrap(), Outcome::Done);
    assert_eq!(run(&dir, &key(0)).unwrap(), Outcome::Skipped);
    assert!(dir.done(&key(0)).unwrap() && !dir.done(&key(1)).unwrap() && !dir.done(&key(0).version(2)).unwrap());
    assert_eq!(run(&dir, &key(1)).unwrap(), Outcome::Done);
    assert!(!dir.done(&key(0)).unwrap(), "only the newest result is kept");
    let json = std::fs::read_to_string(dir.path("search").join("key.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["key"], key(1).fingerprint().as_str());
    assert_eq!((&json["stage"], &json["version"]), (&"search".into(), &1.into()));
    assert_eq!(json["files"]["sub/b.txt"]["sha256"], Fingerprint::of_bytes(b"b").as_str());
    assert_eq!(json["files"].as_object().unwrap().len(), 2);
}

#[test]
fn every_damage_to_a_result_is_found_and_mended() {
    let (_runs, dir) = new();
    let folder = dir.path("search");
    let damages: [(&str, &dyn Fn()); 7] = [
        ("deleted", &|| std::fs::remove_file(folder.join("a.txt")).unwrap()),
        ("deleted below", &|| std::fs::remove_dir_all(folder.join("sub")).unwrap()),
        ("altered", &|| files::write(&folder.join("a.txt"), b"aaab").unwrap()),
        ("longer", &|| files::write(&folder.join("sub/b.txt"), b"bb").unwrap()),
        ("a folder now", &|| {
            std::fs::remove_file(folder.join("a.txt")).unwrap();
            std::fs::create_dir(folder.join("a.txt")).unwrap();
        }),
        ("half a key", &|| files::write(&folder.join("key.json"), b"{\"key\": \"12").unwrap()),
        ("no key", &|| std::fs::remove_file(folder.join("key.json")).unwrap()),
    ];
    run(&dir, &key(0)).unwrap();
    for (what, damage) in damages {
        assert!(dir.done(&key(0)).unwrap(), "before {what}");
        damage();
        assert!(!dir.done(&key(0)).unwrap(), "{what}");
        assert_eq!(run(&dir, &key(0)).unwrap(), Outcome::Done, "{what}");
    }
    assert_eq!(std::fs::read(folder.join("a.txt")).unwrap(), b"aaaa");
}

#[test]
fn large_files_are_checked_by_size() {
    let (_runs, dir) = new();
    let key = key(0);
    let path = dir.path("search").join("large");
    let made: Result<_, RunDirError> = dir.run(&key, |folder| {
        let file = OpenOptions::new().write(true).create_new(true).open(folder.join("large")).unwrap();
        file.set_len((64 << 20) + 1).unwrap(); // sparse
        Ok(())
    });
    assert_eq!(made.unwrap(), Outcome::Done);
    let open = || OpenOptions::new().write(true).open(&path).unwrap();
    open().write_all(b"x").unwrap();
    assert!(dir.done(&key).unwrap(), "same size");
    open().set_len(5).unwrap();
    assert!(!dir.done(&key).unwrap());
}

#[test]
fn failed_work_leaves_what_was_there() {
    let (_runs, dir) = new();
    let fail = |key: &StageKey| {
        dir.run(key, |folder| {
            files::write(&folder.join("half"), b"x").unwrap();
            Err(RunDirError::Name { name: "boom".to_owned() })
        })
    };
    assert!(fail(&key(0)).is_err());
    assert!(!dir.path("search").exists());
    run(&dir, &key(0)).unwrap();
    assert!(fail(&key(1)).is_err());
    assert!(dir.done(&key(0)).unwrap());
    assert_eq!(std::fs::read_dir(dir.root()).unwrap().count(), 2, "the result and the lock");
}

#[test]
fn what_a_kill_leaves_is_cleared_by_the_next_attempt() {
    let (_runs, dir) = new();
    for leftover in [".search.partial", ".search.old"] {
        std::fs::create_dir_all(dir.path(leftover).join("sub")).unwrap();
        files::write(&dir.path(leftover).join("a.txt"), b"stale").unwrap();
    }
    std::fs::create_dir(dir.path("search")).unwrap(); // a folder without a key is no result
    assert!(!dir.done(&key(0)).unwrap());
    assert_eq!(run(&dir, &key(0)).unwrap(), Outcome::Done);
    assert!(!dir.path(".search.partial").exists() && !dir.path(".search.old").exists());
}

#[test]
fn a_result_may_not_hold_links_or_a_key() {
    let (_runs, dir) = new();
    let error = dir
        .run(&key(0), |folder| {
            files::write(&folder.join("key.json"), b"{}").unwrap();
            Ok::<_, RunDirError>(())
        })
        .unwrap_err();
    assert!(error.to_string().ends_with("key.json: this name is taken by the stage's key"), "{error}");
    #[cfg(unix)]
    {
        let linked = dir.run(&key(0), |folder| {
            std::os::unix::fs::symlink("/etc/hosts", folder.join("link")).unwrap();
            Ok::<_, RunDirError>(())
        });
        assert!(matches!(linked, Err(RunDirError::Result { .. })));
    }
    assert!(!dir.path("search").exists());
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let (runs, dir) = new();
    for bad in ["", ".", "..", "a/b", "../x", ".hidden", "a b", "é"] {
        assert!(matches!(RunDir::open(runs.path(), bad), Err(RunDirError::Name { .. })), "{bad}");
        assert!(matches!(run(&dir, &StageKey::new(bad)), Err(RunDirError::Name { .. })), "{bad}");
    }
}

#[test]
fn a_second_opening_says_which_process_holds_the_run() {
    let (runs, dir) = new();
    let error = RunDir::open(runs.path(), "demo").unwrap_err();
    let holder = format!("in use by another taper (process {})", std::process::id());
    assert!(error.to_string().contains(&holder), "{error}");
    RunDir::open(runs.path(), "other").unwrap();
    drop(dir);
    RunDir::open(runs.path(), "demo").unwrap();
}

/// Not a test of its own: the process that [`a_kill_at_any_moment_leaves_no_result_or_a_whole_one`] kills.
#[test]
fn child_that_is_killed() {
    let Ok(runs) = std::env::var("TAPER_TEST_KILLED_RUN") else { return };
    let dir = RunDir::open(Path::new(&runs), "demo").unwrap();
    for seed in 0.. {
        run(&dir, &key(seed)).unwrap();
    }
}

#[test]
fn a_kill_at_any_moment_leaves_no_result_or_a_whole_one() {
    let runs = tempfile::tempdir().unwrap();
    let root = runs.path().join("demo");
    let mut whole = 0;
    for moment in 0..20 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "run_dir::tests::child_that_is_killed"])
            .env("TAPER_TEST_KILLED_RUN", runs.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // Half of the kills come around the first result, half among the replacements of it.
        let holder = format!("{}\n", child.id());
        wait_until(|| std::fs::read_to_string(root.join(".lock")).is_ok_and(|text| text == holder));
        if moment % 2 == 1 {
            wait_until(|| root.join("search").join("key.json").exists());
        }
        std::thread::sleep(Duration::from_millis(moment));
        child.kill().unwrap();
        child.wait().unwrap();
        let dir = RunDir::open(runs.path(), "demo").unwrap(); // the lock died with its holder
        if let Some(manifest) = Manifest::read(&dir.path("search")).unwrap() {
            assert_eq!(manifest.damage(&dir.path("search")).unwrap(), None);
            whole += 1;
        }
        assert_eq!(run(&dir, &key(u64::MAX)).unwrap(), Outcome::Done);
        std::fs::remove_dir_all(dir.path("search")).unwrap();
    }
    assert!(whole > 0, "no child was killed with a result in place");
}

fn wait_until(happened: impl Fn() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < Duration::from_secs(60), "the child did not get that far");
        std::thread::sleep(Duration::from_micros(200));
    }
}
