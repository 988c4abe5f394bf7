use std::collections::BTreeMap;

use taper_arch::{Architecture, Costs, Provenance};
use taper_base::{Bytes, Flops, Parameters, files, rng};

use super::*;

fn trial(genome: &str, scores: &[(&str, f64)]) -> Trial {
    Trial {
        architecture: genome.parse().unwrap(),
        scores: scores.iter().map(|(name, score)| ((*name).to_owned(), *score)).collect(),
        costs: Costs {
            latency: None,
            parameters: Parameters(u64::MAX),
            non_embedding: Parameters(1),
            bytes: Bytes(2),
            flops: Flops(u128::from(u64::MAX) * 3),
            kv_bytes: Bytes(0),
        },
        provenance: Provenance { strategy: "random".to_owned(), generation: 1, child: 2, origin: "é'\"".to_owned() },
    }
}

fn scoring(text: &str) -> Fingerprint {
    Fingerprint::of_bytes(text.as_bytes())
}

fn new() -> (tempfile::TempDir, PathBuf, TrialStore) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trials.db");
    let store = TrialStore::open(&path).unwrap();
    (dir, path, store)
}

#[test]
fn what_is_put_is_got_to_the_last_bit_also_after_reopening() {
    let (_dir, path, store) = new();
    let odd = f64::from_bits(0xfff8_0000_dead_beef); // a NaN with a payload
    let values = [odd, f64::NEG_INFINITY, f64::INFINITY, -0.0, 5e-324, 0.1 + 0.2, f64::MAX];
    let names: Vec<String> = (0..values.len()).map(|n| format!("p{n}")).collect();
    let scores: Vec<(&str, f64)> = names.iter().map(String::as_str).zip(values).collect();
    let put = trial("2x2@4/64 -/32 1x2/- e@8", &scores);
    store.put(&scoring("a"), &put, 0.25).unwrap();
    let check = |store: &TrialStore| {
        let got = store.get(&scoring("a"), &put.architecture.fingerprint()).unwrap().unwrap();
        let bits = |scores: &BTreeMap<String, f64>| scores.values().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&got.trial.scores), bits(&put.scores));
        assert_eq!((&got.trial.architecture, got.trial.costs), (&put.architecture, put.costs));
        assert_eq!((got.trial.provenance, got.failure, got.seconds), (put.provenance.clone(), None, 0.25));
    };
    check(&store);
    drop(store);
    check(&TrialStore::open(&path).unwrap());
}

#[test]
fn a_trial_is_stored_once_for_each_scoring() {
    let (_dir, _, store) = new();
    let (first, again) = (trial("2x2/64", &[("loss", 1.0)]), trial("2x2/64", &[("loss", 2.0)]));
    store.put(&scoring("a"), &first, 1.0).unwrap();
    for error in [store.put(&scoring("a"), &again, 1.0), store.put_failed(&scoring("a"), &again, "NaN", 1.0)] {
        let error = error.unwrap_err();
        assert!(matches!(error, StoreError::AlreadyScored { .. }), "{error}");
        assert!(error.to_string().starts_with("architecture 2x2/64 has been scored under "), "{error}");
    }
    store.put(&scoring("b"), &again, 1.0).unwrap();
    let print = first.architecture.fingerprint();
    assert_eq!(store.get(&scoring("a"), &print).unwrap().unwrap().trial, first);
    assert_eq!(store.get(&scoring("b"), &print).unwrap().unwrap().trial, again);
    assert_eq!(store.get(&scoring("c"), &print).unwrap(), None);
    assert_eq!(["a", "b", "c"].map(|name| store.count(&scoring(name)).unwrap()), [1, 1, 0]);
}

#[test]
fn a_trial_that_could_not_be_scored_keeps_the_reason() {
    let (_dir, _, store) = new();
    let put = trial("2x2/64", &[]);
    store.put_failed(&scoring("a"), &put, "loss is not finite", f64::NAN).unwrap();
    let got = store.get(&scoring("a"), &put.architecture.fingerprint()).unwrap().unwrap();
    assert_eq!(got.failure.as_deref(), Some("loss is not finite"));
    assert!(got.trial.scores.is_empty() && got.seconds.is_nan());
}

#[test]
fn an_extended_trial_keeps_what_it_had_and_gains_the_rest() {
    let (_dir, _, store) = new();
    let (part, more) = (trial("2x2/64", &[("loss@2", 1.0)]), trial("2x2/64", &[("loss@2", 9.0), ("loss", 2.0)]));
    let error = store.extend(&scoring("a"), &part, None, 1.0).unwrap_err().to_string();
    assert!(error.starts_with("architecture 2x2/64 has not been scored under "), "{error}");
    store.put(&scoring("a"), &part, 1.0).unwrap();
    store.put(&scoring("b"), &part, 1.0).unwrap();
    store.extend(&scoring("a"), &more, None, 0.5).unwrap();
    let got = |name| store.get(&scoring(name), &part.architecture.fingerprint()).unwrap().unwrap();
    assert_eq!(got("a").trial, trial("2x2/64", &[("loss@2", 1.0), ("loss", 2.0)]));
    assert_eq!((got("a").seconds, got("b").seconds, &got("b").trial), (1.5, 1.0, &part));
    store.extend(&scoring("b"), &part, Some("not a number"), 0.0).unwrap();
    assert_eq!((got("b").failure.as_deref(), got("a").failure), (Some("not a number"), None));
}

#[test]
fn all_come_in_the_order_in_which_they_were_put() {
    let (_dir, _, store) = new();
    let order = [7, 3, 9, 1, 5];
    for channels in order {
        store.put(&scoring("a"), &trial(&format!("2x2/{channels}"), &[]), 0.0).unwrap();
        store.put(&scoring("b"), &trial(&format!("1x2/{channels}"), &[]), 0.0).unwrap();
    }
    let got = store.all(&scoring("a")).unwrap();
    let channels = |arch: &Architecture| arch.blocks[0].mlp.as_ref().unwrap().channels;
    assert_eq!(got.iter().map(|stored| channels(&stored.trial.architecture)).collect::<Vec<_>>(), order);
}

#[test]
fn threads_share_a_store_and_one_of_them_wins_each_trial() {
    let (_dir, _, store) = new();
    let (a, n) = (scoring("a"), 40);
    let wins: usize = std::thread::scope(|scope| {
        let work = || (1..=n).filter(|k| store.put(&a, &trial(&format!("1x1/{k}"), &[]), 0.0).is_ok()).count();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!((wins, store.count(&a).unwrap()), (n, n));
}

#[test]
fn files_that_are_no_store_are_refused_with_a_cure() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trials.db");
    files::write(&path, &[b'x'; 5000]).unwrap();
    let error = TrialStore::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("trials.db: damaged") && error.to_string().contains("move it away"), "{error}");

    std::fs::remove_file(&path).unwrap();
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE x (y)").unwrap();
    assert!(matches!(TrialStore::open(&path), Err(StoreError::Foreign { .. })));
    std::fs::remove_file(&path).unwrap();
    drop(TrialStore::open(&path).unwrap());
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 7).unwrap();
    let error = TrialStore::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 7, .. }), "{error}");
    let error = TrialStore::open(&dir.path().join("no/such/folder.db")).unwrap_err();
    assert!(matches!(error, StoreError::Sql { what: "open", .. }), "{error}");
}

#[test]
fn a_genome_that_was_changed_by_hand_is_found() {
    let (_dir, path, store) = new();
    store.put(&scoring("a"), &trial("2x2/64", &[]), 0.0).unwrap();
    let other = Connection::open(&path).unwrap();
    for (change, reason) in [("2x2/65", "fingerprint"), ("junk", "the genome of trial 1")] {
        other.execute("UPDATE trials SET genome = ?1", [change]).unwrap();
        let error = store.all(&scoring("a")).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }) && error.to_string().contains(reason), "{error}");
    }
}

#[test]
fn damaged_bytes_never_panic_and_never_give_back_a_wrong_genome() {
    use rng::RngExt;
    let (dir, path, store) = new();
    for channels in 1..200 {
        store.put(&scoring("a"), &trial(&format!("2x2/{channels}"), &[("loss", 1.0)]), 0.0).unwrap();
    }
    drop(store); // the last connection folds the WAL into the file
    let good = std::fs::read(&path).unwrap();
    let mut refused = 0;
    for case in 0..60 {
        let mut random = rng::stream(case, "damage", 0, 0);
        let (mut bytes, at) = (good.clone(), random.random_range(0..good.len()));
        if case % 3 == 0 {
            bytes.truncate(at);
        } else {
            let end = (at + 64).min(bytes.len());
            bytes[at..end].fill(random.random());
        }
        let copy = dir.path().join(format!("copy{case}.db"));
        files::write(&copy, &bytes).unwrap();
        match TrialStore::open(&copy).and_then(|store| store.all(&scoring("a"))) {
            Ok(trials) => assert!(trials.iter().all(|t| t.trial.architecture.to_string().starts_with("2x2/"))),
            Err(error) => {
                assert!(error.to_string().contains("copy"), "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 10, "{refused}");
}

/// Not a test of its own: the process that [`a_kill_loses_no_trial_that_was_put`] kills.
#[test]
fn child_that_is_killed() {
    let Ok(path) = std::env::var("TAPER_TEST_KILLED_STORE") else { return };
    let path = Path::new(&path);
    let store = TrialStore::open(path).unwrap();
    for channels in store.count(&scoring("a")).unwrap() + 1.. {
        store.put(&scoring("a"), &trial(&format!("1x1/{channels}"), &[("loss", channels as f64)]), 0.0).unwrap();
        files::write(&path.with_extension("count"), channels.to_string().as_bytes()).unwrap();
    }
}

#[test]
fn a_kill_loses_no_trial_that_was_put() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trials.db");
    let reported = || std::fs::read_to_string(path.with_extension("count")).map_or(0, |text| text.parse().unwrap());
    let mut before = 0_usize;
    for moment in 0..10 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::tests::child_that_is_killed"])
            .env("TAPER_TEST_KILLED_STORE", &path)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let start = std::time::Instant::now();
        while reported() <= before {
            assert!(start.elapsed() < Duration::from_secs(60), "the child put no trial");
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(Duration::from_millis(moment));
        child.kill().unwrap();
        child.wait().unwrap();
        let store = TrialStore::open(&path).unwrap();
        let stored = store.all(&scoring("a")).unwrap();
        assert!(stored.len() >= reported() && stored.len() > before, "{} {} {before}", stored.len(), reported());
        assert!(stored.iter().enumerate().all(|(n, s)| s.trial.scores["loss"] == (n + 1) as f64), "whole and in order");
        before = stored.len();
    }
}
