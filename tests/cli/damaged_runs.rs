//! A result that is no longer what was written is made again; a database that cannot be read is not guessed at.

use std::fs;

use crate::support::{Place, Results, text, undisturbed};

#[test]
fn a_damaged_result_is_made_again() {
    let place = Place::new();
    place.done(&["run", "tiny.yaml"]);
    for (name, good) in &undisturbed().files {
        let path = format!("runs/tiny/{name}");
        let mut bad = good.clone();
        bad[good.len() / 2] ^= 0x20;
        place.write(&path, &bad);
        let output = place.output(&["run", "tiny.yaml", "--progress", "silent"]);
        assert_eq!(output.status.code(), Some(0), "{name}: {}", text(&output.stderr));
        Results::of(&place.path("runs/tiny")).assert_same(undisturbed(), name);
        fs::remove_file(place.path(&path)).unwrap();
        place.done(&["run", "tiny.yaml"]);
        Results::of(&place.path("runs/tiny")).assert_same(undisturbed(), name);
    }
}

#[test]
fn a_damaged_note_of_the_model_is_written_again() {
    let place = Place::new();
    place.done(&["search", "tiny.yaml"]);
    for damage in [&b""[..], b"{", b"[]", b"{\"seen\": 1}", b"\xff"] {
        place.write("runs/tiny/load.json", damage);
        place.done(&["search", "tiny.yaml"]);
    }
}

#[test]
fn a_damaged_database_ends_the_run_and_names_it() {
    let place = Place::new();
    place.done(&["prune", "tiny.yaml"]);
    let database = fs::read(place.path("runs/tiny/trials.db")).unwrap();
    place.change("generations: 3", "generations: 4"); // so that the search has to open it
    let garbage = vec![0x5a; 8192];
    let text_file = b"these are not the trials you are looking for".repeat(200);
    for damaged in [&garbage[..], &text_file, &database[..database.len() / 2], &database[100..]] {
        place.write("runs/tiny/trials.db", damaged);
        let output = place.output(&["run", "tiny.yaml", "--progress", "silent"]);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains("runs/tiny/trials.db"), "{stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
    place.write("runs/tiny/trials.db", b"");
    place.done(&["run", "tiny.yaml"]);
}
