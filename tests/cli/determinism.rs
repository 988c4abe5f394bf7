//! Same recipe, same seed: same bytes, whatever the number of threads.

use crate::support::{Place, Results, undisturbed};

#[test]
fn no_byte_depends_on_the_number_of_threads() {
    let place = Place::new();
    for round in 0..2 {
        for threads in ["1", "2", "4"] {
            let runs = format!("threads-{threads}-{round}");
            place.done(&["run", "tiny.yaml", "--runs", &runs, "--threads", threads]);
            Results::of(&place.path(&runs).join("tiny")).assert_same(undisturbed(), &runs);
        }
        for threads in ["1", "3"] {
            let runs = format!("rayon-{threads}-{round}");
            let mut command = place.taper(&["run", "tiny.yaml", "--runs", &runs]);
            assert!(command.env("RAYON_NUM_THREADS", threads).output().unwrap().status.success());
            Results::of(&place.path(&runs).join("tiny")).assert_same(undisturbed(), &runs);
        }
    }
}

#[test]
fn another_seed_is_another_result() {
    let place = Place::new();
    place.change("version: 1", "version: 1\nseed: 1");
    place.done(&["run", "tiny.yaml"]);
    let results = Results::of(&place.path("runs/tiny"));
    for name in ["calibrate/calibration.json", "search/search.json", "materialise/model.safetensors"] {
        assert!(results.files[name] != undisturbed().files[name], "{name}");
    }
}
