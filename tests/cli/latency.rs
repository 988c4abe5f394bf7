//! `taper bench`, and recipes with a budget of latency.

use insta_cmd::assert_cmd_snapshot;
use serde_json::Value;

use crate::support::{Place, RECIPE, Results, text};

const SMALL: [&str; 8] = ["bench", "./model", "--prompt", "8", "--generate", "4", "--repetitions", "2"];
const BUDGET: &str = "budget: { latency: 70%, tolerance: 20%, workload: { prompt: 24, generate: 8 } }";

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// Fails unless `spread` is a median between a lowest and a highest above zero.
#[track_caller]
fn assert_spread(spread: &Value) {
    let [low, median, high] = ["low", "median", "high"].map(|key| spread[key].as_f64().unwrap());
    assert!(0.0 < low && low <= median && median <= high, "{spread}");
}

#[test]
fn bench_says_times_and_memory_of_each_batch() {
    let output = Place::new().done(&[&SMALL[..], &["--batch", "1,3", "--threads", "1", "--json"]].concat());
    let report = json(&output.stdout);
    assert_eq!((&report["model"], &report["threads"]), (&"./model".into(), &1.into()));
    assert_eq!((&report["repetitions"], report["batches"].as_array().unwrap().len()), (&2.into(), 2));
    for (batch, sequences) in report["batches"].as_array().unwrap().iter().zip([1_u64, 3]) {
        assert_eq!(
            [&batch["prompt"], &batch["generate"], &batch["batch"]],
            [&8.into(), &4.into(), &Value::from(sequences)]
        );
        ["first_token", "token", "total"].iter().for_each(|key| assert_spread(&batch[*key]));
        let total = batch["total"]["median"].as_f64().unwrap();
        let speed = batch["tokens_per_second"].as_f64().unwrap();
        assert!((speed * total / (4 * sequences) as f64 - 1.0).abs() < 1e-9, "{batch}");
        // 6 blocks, keys and values of 4 heads of 16, 11 positions, f32
        assert_eq!(batch["cache_bytes"], 6 * 2 * 4 * 16 * 11 * 4 * sequences);
        let peak = batch["peak_bytes"].as_u64();
        assert!(peak.is_none_or(|bytes| bytes > 713_950 * 4), "less than the weights: {batch}");
    }
}

#[test]
fn bench_prints_a_table() {
    let page = text(&Place::new().done(&SMALL).stdout);
    let lines: Vec<&str> = page.lines().collect();
    assert!(lines[0].starts_with("./model: 4 tokens after a prompt of 8, "), "{page}");
    let header: Vec<&str> = lines[2].split("  ").map(str::trim).filter(|word| !word.is_empty()).collect();
    assert_eq!(header, ["batch", "first token", "per token", "tokens/s", "KV cache", "peak memory"]);
    assert!(lines[3].starts_with("1 ") && lines[3].contains(" ms (") && lines.len() == 5, "{page}");
}

#[test]
fn a_single_token_has_no_time_per_token() {
    let output =
        Place::new().done(&["bench", "./model", "--prompt", "8", "--generate", "1", "--repetitions", "1", "--json"]);
    assert_eq!(json(&output.stdout)["batches"][0]["token"], Value::Null);
}

#[test]
fn more_tokens_than_the_model_was_made_for_are_refused_with_the_limit() {
    assert_cmd_snapshot!(Place::new().taper(&["bench", "./model", "--prompt", "1000"]), @"
    success: false
    exit_code: 2
    ----- stdout -----

    ----- stderr -----
    error: --prompt + --generate - 1 is 1127 tokens, the model was made for 512
    ");
}

#[test]
fn a_typo_in_an_option_of_bench_gets_a_suggestion() {
    assert_cmd_snapshot!(Place::new().taper(&["bench", "./model", "--batches", "1"]), @"
    success: false
    exit_code: 2
    ----- stdout -----

    ----- stderr -----
    error: unexpected argument '--batches' found

      tip: a similar argument exists: '--batch'

    Usage: taper bench --batch <BATCH> <MODEL>

    For more information, try '--help'.
    ");
    assert_cmd_snapshot!(Place::new().taper(&["bench", "./model", "--batch", "1,0"]), @"
    success: false
    exit_code: 2
    ----- stdout -----

    ----- stderr -----
    error: invalid value '0' for '--batch <BATCH>': 0 is not in 1..=1024

    For more information, try '--help'.
    ");
}

#[test]
fn a_budget_of_latency_is_searched_kept_and_reported() {
    let place = Place::new();
    place.write("tiny.yaml", RECIPE.replacen("budget: { params: 70%, tolerance: 2% }", BUDGET, 1).as_bytes());
    let run = |threads: &str| json(&place.done(&["run", "tiny.yaml", "--threads", threads, "--json"]).stdout);
    let report = run("1");
    assert!(report["worked"].as_array().unwrap().contains(&"measure".into()), "{report}");
    let rows = report["eval"]["latency"]["rows"].as_array().unwrap();
    let predicted: Vec<u64> = rows.iter().map(|row| row["predicted"].as_u64().unwrap()).collect();
    let names: Vec<&str> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["original", "pruned"]);
    rows.iter().for_each(|row| assert_spread(&row["measured"]["total"]));
    let most = (predicted[0] as f64 * 0.7) as u64;
    assert!((most * 8 / 10 - 1..=most).contains(&predicted[1]), "{predicted:?}");
    assert_eq!(report["search"]["costs"]["latency"], predicted[1]);

    let before = Results::of(&place.path("runs/tiny"));
    assert!(before.files.contains_key("measure/latency.json"));
    assert_eq!(run("1")["worked"], Value::Array(Vec::new()), "a second run does nothing");
    Results::of(&place.path("runs/tiny")).assert_same(&before, "a second run");

    // what is made again from the table that was kept has the same bytes; the eval's clock differs
    for stage in ["search", "materialise"] {
        std::fs::remove_dir_all(place.path("runs/tiny").join(stage)).unwrap();
    }
    run("1");
    let mut again = Results::of(&place.path("runs/tiny"));
    assert_eq!(again.files, before.files);
    let worked = run("2")["worked"].as_array().unwrap().clone();
    assert!(worked.contains(&"measure".into()) && !worked.contains(&"calibrate".into()), "{worked:?}");
    again = Results::of(&place.path("runs/tiny"));
    assert!(again.files["measure/latency.json"] != before.files["measure/latency.json"], "other threads, other times");
}

#[test]
fn a_latency_that_nothing_reaches_is_refused_with_the_ends() {
    let place = Place::new();
    place.write(
        "tiny.yaml",
        RECIPE
            .replacen("{ params: 70%, tolerance: 2% }", "{ latency: 1 ns, workload: { prompt: 8, generate: 2 } }", 1)
            .as_bytes(),
    );
    let output = place.output(&["search", "tiny.yaml"]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(
        stderr.contains("no architecture of this search space has a latency between 1 ns and 1 ns: it reaches from "),
        "{stderr}"
    );
    assert!(stderr.contains("help: set `budget.latency` between these limits"), "{stderr}");
}

#[test]
fn a_workload_longer_than_the_model_is_found_before_weights_are_read() {
    let place = Place::new();
    let budget = "{ latency: 50%, workload: { prompt: 900 } }";
    place.write("tiny.yaml", RECIPE.replacen("{ params: 70%, tolerance: 2% }", budget, 1).as_bytes());
    assert_cmd_snapshot!(place.taper(&["check", "tiny.yaml"]), @"
    success: false
    exit_code: 2
    ----- stdout -----

    ----- stderr -----
    error: tiny.yaml
      cause: prompt + generate - 1 of budget.workload (512 and 128 if left out) is 1027 tokens, the model was made for 512
    ");
}
