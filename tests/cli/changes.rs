//! What is done again, and what is not.

use insta::with_settings;
use insta_cmd::assert_cmd_snapshot;
use serde_json::Value;

use crate::support::Place;

/// Scores, losses and the architecture found depend on the CPU's way to round.
fn filters() -> Vec<(&'static str, &'static str)> {
    vec![
        (r"(?m)^  [\dx/ -]+$", "  [ARCHITECTURE]"),
        (r"(?m)^ +parameters +size +FLOPs +KV cache +loss +perplexity$", "[HEADER]"),
        (r"(?m)^original +(\S+) +(\S+ MiB) +(\S+ GFLOP) +(\S+ MiB) +", "original $1 $2 $3 $4 "),
        (r"(?m)^(pruned|uniform|random) .*$", "$1 [COSTS AND LOSS]"),
        (r"\d+\.\d{4}", "[N]"),
        (r"\[N\] ±\[N\] +\d+\.\d\d", "[LOSS AND PERPLEXITY]"),
        (r"\((importance|crossover|mutation|random|start)[^)]*\)", "([ORIGIN])"),
        (r"\d[\d.]*[kM] parameters, [\d.]+ KiB in", "[SIZE] in"),
    ]
}

/// Stages that worked in a run with `--json`.
fn worked(place: &Place, command: &str) -> Vec<String> {
    let output = place.done(&[command, "tiny.yaml", "--json", "--progress", "silent"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let stages = report["worked"].as_array().unwrap().iter();
    stages.map(|stage| stage.as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_run_shows_its_stages_and_ends_with_a_table() {
    let place = Place::new();
    with_settings!({filters => filters()}, {
        assert_cmd_snapshot!(place.taper(&["run", "tiny.yaml"]), @"
        success: true
        exit_code: 0
        ----- stdout -----
        best of 18 trials, gradient-trace [N]:
          [ARCHITECTURE]

        [HEADER]
        original 713.95k 1.36 MiB 9.36 GFLOP 3.00 MiB [LOSS AND PERPLEXITY]
        pruned [COSTS AND LOSS]
        uniform [COSTS AND LOSS]
        random [COSTS AND LOSS]
        855 tokens, test split of ./text.txt. FLOPs and KV cache: one sequence of 2048 tokens.

        checkpoint: runs/tiny/materialise

        ----- stderr -----
        load         ./model
        load         done       llama, 6 blocks, 713.95k parameters, 1.37 MiB on disk, ea4071ef328d; on the CPU
        calibrate    2 x 32 tokens of ./text.txt
        calibrate    done       loss [N] nats per token
        search       evolution by gradient-trace
        search       done       best of 18 trials: [N] ([ORIGIN])
        materialise  runs/tiny/materialise
        materialise  done       [SIZE] in runs/tiny/materialise
        eval         test split of ./text.txt
        eval         done       original [N], pruned [N], uniform [N], random [N]
        ");
    });
}

#[test]
fn a_second_run_has_nothing_to_do_and_says_so() {
    let place = Place::new();
    place.done(&["run", "tiny.yaml"]);
    with_settings!({filters => filters()}, {
        assert_cmd_snapshot!(place.taper(&["run", "tiny.yaml"]), @"
        success: true
        exit_code: 0
        ----- stdout -----
        best of 18 trials, gradient-trace [N]:
          [ARCHITECTURE]

        [HEADER]
        original 713.95k 1.36 MiB 9.36 GFLOP 3.00 MiB [LOSS AND PERPLEXITY]
        pruned [COSTS AND LOSS]
        uniform [COSTS AND LOSS]
        random [COSTS AND LOSS]
        855 tokens, test split of ./text.txt. FLOPs and KV cache: one sequence of 2048 tokens.

        Nothing to do: every stage is as the recipe wants it.
        checkpoint: runs/tiny/materialise

        ----- stderr -----
        load         ./model
        load         unchanged  llama, 6 blocks, 713.95k parameters, 1.37 MiB on disk, ea4071ef328d; on the CPU
        calibrate    2 x 32 tokens of ./text.txt
        calibrate    unchanged  loss [N] nats per token
        search       evolution by gradient-trace
        search       unchanged  best of 18 trials: [N] ([ORIGIN])
        materialise  runs/tiny/materialise
        materialise  unchanged  [SIZE] in runs/tiny/materialise
        eval         test split of ./text.txt
        eval         unchanged  original [N], pruned [N], uniform [N], random [N]
        ");
    });
}

#[test]
fn only_what_depends_on_a_change_is_done_again() {
    let place = Place::new();
    assert_eq!(worked(&place, "search"), ["calibrate", "search"]);
    assert_eq!(worked(&place, "prune"), ["materialise"]);
    assert_eq!(worked(&place, "run"), ["eval"]);
    assert_eq!(worked(&place, "run"), [""; 0]);
    place.change("window: 64", "window: 48");
    assert_eq!(worked(&place, "run"), ["eval"]);
    place.change("generations: 3", "generations: 2");
    assert_eq!(worked(&place, "run"), ["search", "materialise", "eval"]);
    place.change("version: 1", "version: 1\nmaterialise: { dtype: f32 }");
    assert_eq!(worked(&place, "run"), ["search", "materialise", "eval"]);
    place.change("version: 1", "version: 1\nseed: 1");
    assert_eq!(worked(&place, "run"), ["calibrate", "search", "materialise", "eval"]);
}

#[test]
fn another_text_is_another_calibration() {
    let place = Place::new();
    assert_eq!(worked(&place, "search"), ["calibrate", "search"]);
    let mut text = std::fs::read(place.path("text.txt")).unwrap();
    text.extend_from_slice(b"\n\nOne document more.");
    place.write("text.txt", &text);
    assert_eq!(worked(&place, "search"), ["calibrate", "search"]);
}

#[test]
fn comments_threads_and_the_run_folder_change_nothing() {
    let place = Place::new();
    place.done(&["run", "tiny.yaml"]);
    place.change("version: 1", "# a remark\nversion: 1");
    assert_eq!(worked(&place, "run"), [""; 0]);
    place.change("  proxy:", "  threads: 1\n  proxy:");
    assert_eq!(worked(&place, "run"), [""; 0]);
    std::fs::rename(place.path("runs"), place.path("moved")).unwrap();
    place.change("version: 1", "version: 1\nruns: moved");
    assert_eq!(worked(&place, "run"), [""; 0]);
}
