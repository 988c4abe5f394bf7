//! What a user reads of a recipe: exit code, stdout and stderr, word for word.

use insta_cmd::assert_cmd_snapshot;

use crate::support::Place;

/// The recipe with one thing wrong in it.
fn with(from: &str, to: &str) -> Place {
    let place = Place::new();
    place.change(from, to);
    place
}

/// Without what differs from machine to machine.
fn filtered(check: impl FnOnce()) {
    let filters =
        [(r"memory: \S+ \S+ of \S+ \S+ free", "memory: [total] of [free] free"), (r"\d+ at a time", "[n] at a time")];
    insta::with_settings!({ filters => filters }, { check() });
}

#[test]
fn a_sound_recipe_is_summed_up() {
    filtered(|| {
        assert_cmd_snapshot!(Place::new().taper(&["check", "tiny.yaml"]), @"
    success: true
    exit_code: 0
    ----- stdout -----
    tiny.yaml: sound. tiny from ./model, evolution by gradient-trace, up to 18 trials
      memory: [total] of [free] free: weights 1.36 MiB, gradients 288.00 KiB, [n] at a time with 2.85 MiB each, activations kept

    ----- stderr -----
    ");
    });
}

#[test]
fn an_unknown_key_is_pointed_at() {
    assert_cmd_snapshot!(with("params:", "parms:").taper(&["check", "tiny.yaml"]), @"
    success: false
    exit_code: 2
    ----- stdout -----

    ----- stderr -----
    error: tiny.yaml:8:11: not a valid recipe
      cause: unknown field `parms`, did you mean `params`?; known: params, latency, workload, counted, tolerance
               |
             8 | budget: { parms: 70%, tolerance: 2% }
               |           ^
    ");
}

#[test]
fn an_unknown_method_gets_a_suggestion() {
    assert_cmd_snapshot!(with("gradient-trace", "gradient-trcae").taper(&["check", "tiny.yaml"]), @"
    success: false
    exit_code: 2
    ----- stdout -----

    ----- stderr -----
    error: tiny.yaml:12:10: not a valid recipe
      cause: unknown proxy `gradient-trcae`, did you mean `gradient-trace`?; known: gradient-norm, gradient-trace, loss, parameters, random, synaptic-saliency, weight-magnitude
                |
             12 |   proxy: { gradient-trcae: { sketch_rank: 8 } }
                |          ^
    ");
}

#[test]
fn a_wrong_parameter_of_a_method_is_pointed_at() {
    assert_cmd_snapshot!(with("sketch_rank: 8", "sketch_rnak: 8").taper(&["check", "tiny.yaml"]), @"
    success: false
    exit_code: 2
    ----- stdout -----

    ----- stderr -----
    error: tiny.yaml:12:43: not a valid recipe
      cause: gradient-trace: unknown field `sketch_rnak`, did you mean `sketch_rank`?; known: aggregation, similarity, sketch_rank, removed
                |
             12 |   proxy: { gradient-trace: { sketch_rnak: 8 } }
                |                                           ^
    ");
}

#[test]
fn cuda_without_cuda_is_refused() {
    assert_cmd_snapshot!(with("version: 1", "version: 1\ndevice: cuda").taper(&["run", "tiny.yaml"]), @"
    success: false
    exit_code: 2
    ----- stdout -----

    ----- stderr -----
    error: tiny.yaml:2:9: not a valid recipe
      cause: this taper computes on the CPU only; use `cpu` or `auto`, or build it with `--features cuda`
               |
             2 | device: cuda
               |         ^
    ");
}

#[test]
fn a_recipe_that_is_not_there_says_where_to_get_one() {
    assert_cmd_snapshot!(Place::new().taper(&["run", "tinny.yaml"]), @"
    success: false
    exit_code: 2
    ----- stdout -----

    ----- stderr -----
    error: tinny.yaml: cannot be read
      cause: No such file or directory (os error 2)
      help: to start with, copy recipes/demo.yaml of taper's repository; `taper check --schema` describes every key
    ");
}

#[test]
fn a_budget_out_of_reach_tells_the_reach() {
    assert_cmd_snapshot!(with("70%", "1%").taper(&["run", "tiny.yaml"]), @"
    success: false
    exit_code: 2
    ----- stdout -----

    ----- stderr -----
    load         ./model
    load         done       llama, 6 blocks, 713.95k parameters, 1.37 MiB on disk, ea4071ef328d; on the CPU
    error: tiny.yaml
      cause: no architecture of this search space has parameters between 6997 and 7139: it reaches from 151200 to 713952
      help: set `budget.params` between these limits, or let `space` take away more
    ");
}

#[test]
fn check_knows_a_budget_out_of_reach_before_the_run() {
    assert_cmd_snapshot!(with("70%", "1%").taper(&["check", "tiny.yaml"]), @"
    success: false
    exit_code: 2
    ----- stdout -----

    ----- stderr -----
    error: tiny.yaml
      cause: no architecture of this search space has parameters between 6997 and 7139: it reaches from 151200 to 713952
      help: set `budget.params` between these limits, or let `space` take away more
    ");
}

#[test]
fn sequences_longer_than_the_model_are_refused() {
    assert_cmd_snapshot!(with("length: 32", "length: 4096").taper(&["check", "tiny.yaml"]), @"
    success: false
    exit_code: 2
    ----- stdout -----

    ----- stderr -----
    error: tiny.yaml
      cause: data.length is 4096 tokens, the model was made for 512
    ");
}

#[test]
fn a_model_folder_that_is_not_there_is_named() {
    assert_cmd_snapshot!(with("./model", "./modle").taper(&["run", "tiny.yaml"]), @"
    success: false
    exit_code: 2
    ----- stdout -----

    ----- stderr -----
    load         ./modle
    error: tiny.yaml
      cause: ./modle: no such folder; a model on the Hub is named `owner/name`, without ./ or / before it
      help: relative paths in a recipe start at the recipe's folder
    ");
}

#[test]
fn text_that_is_not_there_is_noted_by_check() {
    filtered(|| {
        assert_cmd_snapshot!(with("./text.txt", "./texts.txt").taper(&["check", "tiny.yaml"]), @"
    success: true
    exit_code: 0
    ----- stdout -----
    tiny.yaml: sound. tiny from ./model, evolution by gradient-trace, up to 18 trials
      memory: [total] of [free] free: weights 1.36 MiB, gradients 288.00 KiB, [n] at a time with 2.85 MiB each, activations kept
      note: data.text: ./texts.txt is not on this machine

    ----- stderr -----
    ");
    });
}

#[test]
fn text_that_is_not_there_ends_a_run() {
    assert_cmd_snapshot!(with("./text.txt", "./texts.txt").taper(&["run", "tiny.yaml"]), @"
    success: false
    exit_code: 2
    ----- stdout -----

    ----- stderr -----
    load         ./model
    load         done       llama, 6 blocks, 713.95k parameters, 1.37 MiB on disk, ea4071ef328d; on the CPU
    error: tiny.yaml
      cause: ./texts.txt: cannot be read
      cause: No such file or directory (os error 2)
      help: relative paths in a recipe start at the recipe's folder
    ");
}

#[test]
fn too_little_text_says_how_much_there_is() {
    assert_cmd_snapshot!(with("sequences: 2", "sequences: 1000").taper(&["run", "tiny.yaml"]), @"
    success: false
    exit_code: 2
    ----- stdout -----

    ----- stderr -----
    load         ./model
    load         done       llama, 6 blocks, 713.95k parameters, 1.37 MiB on disk, ea4071ef328d; on the CPU
    calibrate    1000 x 32 tokens of ./text.txt
    error: tiny.yaml
      cause: ./text.txt: the calibration split gives 1889 tokens (11 of 17 documents), wanted 32000; add text, raise the split's share or ask for fewer tokens
    ");
}

#[test]
fn a_locked_run_folder_names_its_holder() {
    let place = Place::new();
    std::fs::create_dir_all(place.path("runs/tiny")).unwrap();
    place.write("runs/tiny/.lock", b"4711\n");
    let lock = std::fs::File::open(place.path("runs/tiny/.lock")).unwrap();
    lock.lock().unwrap();
    assert_cmd_snapshot!(place.taper(&["run", "tiny.yaml"]), @"
    success: false
    exit_code: 2
    ----- stdout -----

    ----- stderr -----
    error: tiny.yaml
      cause: runs/tiny: in use by another taper (process 4711); wait for it, or give this recipe another `name`
    ");
}
