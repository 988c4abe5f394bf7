//! `--json` is one document on stdout, for every command.

use std::process::Output;

use serde_json::Value;

use crate::support::{Place, text};

/// The one document; a second one, or anything else beside it, fails.
#[track_caller]
fn document(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let mut documents = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>();
    let first = documents.next().unwrap().unwrap();
    assert!(documents.next().is_none(), "{}", text(&output.stdout));
    assert!(output.stdout.ends_with(b"\n"));
    first
}

#[test]
fn a_run_is_one_document_with_every_style_of_progress() {
    let place = Place::new();
    for style in ["plain", "json", "bar", "silent"] {
        let output = place.output(&["run", "tiny.yaml", "--json", "--progress", style, "--runs", style]);
        let report = document(&output);
        assert_eq!(report["name"], "tiny");
        assert_eq!(report["checkpoint"], format!("{style}/tiny/materialise"));
        let rows = report["eval"]["rows"].as_array().unwrap();
        let names: Vec<_> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["original", "pruned", "uniform", "random"]);
        for row in rows {
            for cost in ["parameters", "bytes", "flops", "kv_bytes"] {
                assert!(row["costs"][cost].as_u64().unwrap() > 0, "{cost}");
            }
            let (loss, perplexity) =
                (row["measured"]["loss"].as_f64().unwrap(), row["measured"]["perplexity"].as_f64());
            assert!((loss.exp() / perplexity.unwrap() - 1.0).abs() < 1e-12);
        }
        if style == "silent" {
            assert_eq!(text(&output.stderr), "");
        }
    }
}

#[test]
fn progress_as_json_is_an_object_a_line() {
    let output = Place::new().done(&["run", "tiny.yaml", "--progress", "json"]);
    let lines = text(&output.stderr);
    let events: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of =
        |event: &str| events.iter().filter(|e| e["event"] == event).map(|e| e["stage"].clone()).collect::<Vec<_>>();
    let stages = ["load", "calibrate", "search", "materialise", "eval"];
    assert_eq!(of("started"), stages);
    assert_eq!(of("finished"), stages);
}

#[test]
fn the_other_commands_are_one_document_too() {
    let place = Place::new();
    let get = |args: &[&str]| document(&place.output(&[args, &["--json"]].concat()));
    let checked = get(&["check", "tiny.yaml"]);
    assert_eq!(checked["trials"], 18);
    assert_eq!(checked["notes"], Value::Array(Vec::new()));
    assert_eq!(get(&["check", "--schema"])["title"], "Recipe");
    assert!(get(&["methods"]).as_array().unwrap().iter().any(|method| method["name"] == "gradient-trace"));
    assert_eq!(get(&["doctor"])[0]["what"], "version");
    let inspected = get(&["inspect", "./model"]);
    assert_eq!(inspected["costs"]["parameters"], 713_952);
    assert_eq!(inspected["blocks"].as_array().unwrap().len(), 6);
}

#[test]
fn eval_measures_taper_s_own_checkpoint_as_the_run_did() {
    let place = Place::new();
    let run = document(&place.output(&["run", "tiny.yaml", "--json"]));
    // the test split is what the run judged on; here all of the text is
    let eval = |model: &str| {
        let args = ["eval", model, "--text", "text.txt", "--window", "64", "--stride", "32", "--json"];
        document(&place.output(&args))["loss"].as_f64().unwrap()
    };
    let losses = [eval("./model"), eval("./runs/tiny/materialise")];
    assert!(losses[0] < losses[1], "{losses:?}");
    place.change("eval: { window: 64,", "eval: { window: 64, text: ./text.txt,");
    let again = document(&place.output(&["run", "tiny.yaml", "--json"]));
    assert_ne!(run["eval"], again["eval"]);
    for (row, loss) in again["eval"]["rows"].as_array().unwrap().iter().zip(losses) {
        // the run sums the original's units in another order: by rank
        let off = (row["measured"]["loss"].as_f64().unwrap() / loss - 1.0).abs();
        assert!(off < 1e-6, "{}: off by {off}", row["name"]);
    }
}

#[test]
fn score_gives_the_whole_model_a_correlation_of_one() {
    let place = Place::new();
    let block = r#"{"attention": [0,1,2,3,4,5,6,7], "mlp": "#;
    let channels: Vec<usize> = (0..256).collect();
    let whole = format!("{block}{}}}", serde_json::to_string(&channels).unwrap());
    let removed = r#"{"attention": null, "mlp": null}"#;
    let candidates = format!("[[{}], [{removed}, {}]]", [&*whole; 6].join(","), [&*whole; 5].join(","));
    place.write("candidates.json", candidates.as_bytes());
    let ids: Vec<usize> = (0..64).map(|place| place * 7 % 512).collect();
    place.write("tokens.json", &serde_json::to_vec(&ids).unwrap());
    let args = ["score", "./model", "--candidates", "candidates.json", "--tokens", "tokens.json"];
    let sizes = ["--sequences", "2", "--length", "32"];
    let report = document(&place.output(&[&args[..], &sizes, &["--json"]].concat()));
    let [first, second] = report["candidates"].as_array().unwrap().as_slice() else { panic!("{report}") };
    assert_eq!(first["loss"], report["base_loss"]);
    assert!((first["phi"].as_f64().unwrap() - 12.0).abs() < 1e-6, "12 halves, each 1: {}", first["phi"]);
    assert_eq!(second["kept"]["attention"][0], 0.0);
    assert_eq!(second["rho"]["attention"][0], Value::Null);
    assert!(second["loss"].as_f64() != first["loss"].as_f64());
    let page = place.done(&[&args[..], &sizes].concat());
    assert!(text(&page.stdout).starts_with("whole model: loss "));
}
