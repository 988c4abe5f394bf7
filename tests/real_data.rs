//! The binary on real models: what anybody would compare with a reference of their own.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are tests; what is measured is shown")]

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The bar of `taper score` for every number of `reference_trace.json`.
const TRACE: f64 = 1e-3;
/// The bar of perplexity, relative.
const PERPLEXITY: f64 = 1e-5;

fn taper(args: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_taper")).args(args).arg("--json").output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).unwrap()
}

/// The largest difference of any number in `want` from the one at the same place in `found`; where `want` has no number,
/// `found` has the same.
fn difference(found: &Value, want: &Value, at: &str) -> f64 {
    match (found, want) {
        (Value::Number(found), Value::Number(want)) => (found.as_f64().unwrap() - want.as_f64().unwrap()).abs(),
        (Value::Array(found), Value::Array(want)) => {
            assert_eq!(found.len(), want.len(), "{at}");
            let pairs = found.iter().zip(want).enumerate();
            pairs.map(|(index, (found, want))| difference(found, want, &format!("{at}[{index}]"))).fold(0.0, f64::max)
        }
        (Value::Object(found), Value::Object(want)) => {
            let compared = want.iter().filter(|(key, _)| !["candidate", "tokens"].contains(&key.as_str()));
            let parts = compared.map(|(key, want)| {
                let found = found.get(key).unwrap_or_else(|| panic!("{at}: no `{key}`"));
                difference(found, want, &format!("{at}.{key}"))
            });
            parts.fold(0.0, f64::max)
        }
        _ => {
            assert_eq!(found, want, "{at}");
            0.0
        }
    }
}

fn score_gives_the_numbers_of_the_reference(data: &Path) {
    for model in testkit::models() {
        let folder = data.join("models").join(model);
        let [trace, tokens] = ["reference_trace.json", "reference_tokens.json"].map(|name| folder.join(name));
        let [dir, candidates, ids] = [&folder, &trace, &tokens].map(|path| path.to_str().unwrap());
        let found = taper(&["score", dir, "--candidates", candidates, "--tokens", ids]);
        let want = read(&trace);
        assert!(want["candidates"].as_array().unwrap().len() >= 4, "{model}");
        let worst = difference(&found, &want, model);
        eprintln!("{model}: largest difference {worst:.1e}");
        assert!(worst <= TRACE, "{model}: {worst}");
    }
}

fn eval_gives_the_perplexity_of_the_reference(data: &Path) {
    let text = data.join("text/tinystories_valid.txt");
    for model in testkit::models() {
        let folder = data.join("models").join(model);
        let [dir, text] = [&folder, &text].map(|path| path.to_str().unwrap());
        let how = ["--whole", "--no-special", "--window", "256", "--stride", "256", "--tokens", "20480"];
        let found = taper(&[&["eval", dir, "--text", text], &how[..]].concat());
        let want = &read(&folder.join("reference.json"))["perplexity"];
        assert_eq!(found["tokens"], want["n_predicted"], "{model}");
        let ratio = found["perplexity"].as_f64().unwrap() / want["ppl"].as_f64().unwrap();
        eprintln!("{model}: perplexity off by {:.1e}", ratio - 1.0);
        assert!((ratio - 1.0).abs() <= PERPLEXITY, "{model}: {ratio}");
    }
}

testkit::real_data_tests!(score_gives_the_numbers_of_the_reference, eval_gives_the_perplexity_of_the_reference);
