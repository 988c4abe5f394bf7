mod bad;
mod mutations;

use std::error::Error;

use serde_json::{Value, json};
use taper_arch::budget::{Amount, Counted};
use taper_base::registry::{self, Entry, MethodError};
use taper_base::{Bytes, files};
use taper_data::{Shares, TextSource};

use super::*;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Evolution {
    #[serde(rename = "population")]
    _population: u32,
    #[serde(rename = "elites")]
    _elites: u32,
}

impl Default for Evolution {
    fn default() -> Self {
        Self { _population: 30, _elites: 10 }
    }
}

#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Trace {
    #[serde(rename = "sketch_rank")]
    _sketch_rank: u32,
}

#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Racing {
    #[serde(rename = "first")]
    _first: f64,
}

type Table = &'static [Entry<dyn Send>];
const STRATEGIES: Table = &[
    Entry {
        name: "evolution",
        summary: "",
        source: "",
        build: |params| Ok(Box::new(registry::params::<Evolution>("evolution", params)?)),
    },
    Entry {
        name: "random",
        summary: "",
        source: "",
        build: |params| Ok(Box::new(registry::params::<Trace>("random", params)?)),
    },
];
const PROXIES: Table = &[
    Entry {
        name: "gradient-trace",
        summary: "",
        source: "",
        build: |params| Ok(Box::new(registry::params::<Trace>("gradient-trace", params)?)),
    },
    Entry {
        name: "loss",
        summary: "",
        source: "",
        build: |params| Ok(Box::new(registry::params::<Trace>("loss", params)?)),
    },
];

const FIDELITIES: Table = &[Entry {
    name: "racing",
    summary: "",
    source: "",
    build: |params| Ok(Box::new(registry::params::<Racing>("racing", params)?)),
}];

fn check(family: &'static str, table: Table, name: &str, params: &Value) -> Result<(), MethodError> {
    registry::build(family, table, name, params).map(drop)
}

fn methods() -> Methods {
    Methods {
        check_proxy: |name, params| check("proxy", PROXIES, name, params),
        check_strategy: |name, params| check("strategy", STRATEGIES, name, params),
        check_fidelity: |name, params| check("fidelity", FIDELITIES, name, params),
        cuda: false,
        ..Methods::of_this_build()
    }
}

fn parse(text: &str) -> Result<Recipe, RecipeError> {
    Recipe::parse(text, Path::new("recipes/demo.yaml"), &methods())
}

/// The error and its causes, a line each, as the command line prints them.
fn chain(error: &RecipeError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!("\n{error}"));
        cause = error.source();
    }
    text
}

const LEAST: &str = "version: 1\nmodel: ./model\ndata: {text: a.txt}\nbudget: {params: 50%}\n";

/// Every field, as in the documentation.
const FULL: &str = r"
version: 1
name: demo-1
seed: 7
model: {id: owner/model, revision: 0123456}
data:
  text: {path: ./demo/text.jsonl, field: story}
  shares: {calibration: 0.6, validation: 0.2, test: 0.2}
  sequences: 8
  length: 256
budget: {params: 4.5B, counted: non-embedding, tolerance: 3%}
space:
  drop_attention: true
  drop_first_attention: false
  tied_depth: false
  groups: true
  least_width: 0.2
search:
  strategy: {evolution: {population: 12}}
  proxy: loss
  fidelity: {racing: {first: 0.1}}
  threads: 4
heal:
  steps: 500
  sequences: 8
  length: 128
  objectives: [{logit-kl: {temperature: 2, weight: 0.5}}, cross-entropy]
  optimizer: {muon: {momentum: 0.9}}
  rate: 0.001
  schedule: wsd
  train: ['*']
  lora: {rank: 8, alpha: 16, targets: ['*q_proj*'], dora: true}
  local: {steps: 50, rate: 0.002}
  texts: [{text: ./more.jsonl, weight: 2}]
  corruptor: ul2
  apart: false
  clip: null
  noise: {eta: 0.01}
  drop_path: 0.1
  validation: {every: 25, sequences: 16}
  checkpoints: {every: 10, minutes: null, keep: 1}
  best: false
  cache: false
eval:
  text: /data/test.txt
  window: 512
  stride: 128
  by_document: true
  tasks: [arc_easy, mmlu]
  shots: 5
  limit: 0.25
  data: ./documents
  fewshot_seed: 7
  recovery: {mmlu: 95%, arc_easy: 0.9, mmlu_anatomy: 1, perplexity: 80%}
materialise: {dtype: bf16, shard_size: 500MB}
export: {targets: [transformers, vllm, llama.cpp, 'gguf:q4_k_m']}
device: cpu
runs: ./out
";

#[test]
fn a_short_recipe_means_the_defaults() {
    let recipe = parse(LEAST).unwrap();
    assert_eq!((recipe.name.as_str(), recipe.seed, recipe.runs.as_path()), ("demo", 0, Path::new("runs")));
    assert_eq!((recipe.model.name.as_str(), recipe.device), ("./recipes/model", Device::Auto));
    assert_eq!(recipe.data.text, Some(TextSource::new("recipes/a.txt")));
    assert_eq!((recipe.data.sequences(), recipe.data.length, recipe.data.shares), (16, 512, Shares::default()));
    assert_eq!((recipe.budget.params, recipe.budget.counted), (Some(Amount::Share(0.5)), Counted::Total));
    assert_eq!((recipe.budget.tolerance, recipe.space), (0.02, SearchSpace::default()));
    assert_eq!(
        (recipe.search.strategy.name.as_str(), recipe.search.proxy.to_string().as_str()),
        ("evolution", "gradient-trace")
    );
    assert_eq!(
        (recipe.eval.window, recipe.eval.stride(), recipe.materialise.shard_size),
        (512, 256, Bytes(5_000_000_000))
    );
}

#[test]
fn every_field_is_read() {
    let recipe = parse(FULL).unwrap();
    assert_eq!((recipe.name.as_str(), recipe.seed, recipe.runs.as_path()), ("demo-1", 7, Path::new("./out")));
    assert_eq!(recipe.model.to_string(), "owner/model@0123456");
    assert_eq!(recipe.data.text.as_ref().unwrap().paths, [Path::new("recipes/./demo/text.jsonl")]);
    assert_eq!(recipe.data.shares, Shares::new(0.6, 0.2, 0.2).unwrap());
    assert_eq!((recipe.budget.params, recipe.budget.tolerance), (Some(Amount::Count(4_500_000_000)), 0.03));
    assert_eq!(recipe.search.strategy.params, json!({"population": 12}));
    assert_eq!(recipe.search.proxy, Method::new("loss"));
    assert_eq!(recipe.search.fidelity.unwrap().params, json!({"first": 0.1}));
    let heal = recipe.heal.as_ref().unwrap();
    assert_eq!((heal.steps, heal.length, heal.clip, heal.objectives.len()), (500, Some(128), None, 2));
    assert_eq!((heal.optimizer.params.clone(), heal.schedule.name.as_str()), (json!({"momentum": 0.9}), "wsd"));
    assert_eq!((heal.texts[0].text.clone(), heal.texts[0].weight), (TextSource::new("recipes/more.jsonl"), 2.0));
    let lora = heal.lora.as_ref().unwrap();
    assert_eq!((lora.rank, lora.alpha, lora.dora, heal.noise.unwrap().gamma), (8, 16.0, true, 0.55));
    assert_eq!((recipe.eval.stride(), recipe.eval.text.clone()), (128, Some(TextSource::new("/data/test.txt"))));
    let eval = &recipe.eval;
    assert_eq!((eval.tasks.join(" ").as_str(), eval.shots, eval.limit), ("arc_easy mmlu", Some(5), Some(0.25)));
    assert_eq!((eval.data.as_deref(), eval.fewshot_seed), (Some(Path::new("recipes/./documents")), 7));
    let gates = [("arc_easy", 0.9), ("mmlu", 0.95), ("mmlu_anatomy", 1.0), ("perplexity", 0.8)];
    assert_eq!(eval.recovery, gates.map(|(name, kept)| (name.to_owned(), Kept(kept))).into());
    let targets: Vec<String> = recipe.export.as_ref().unwrap().targets.iter().map(|target| target.name()).collect();
    assert_eq!(targets, ["transformers", "vllm", "gguf:f16", "gguf:q4_k_m"]);
    assert!(!recipe.export.as_ref().unwrap().uniform_pad);
    assert_eq!((recipe.materialise.dtype, recipe.materialise.shard_size), (WeightType::Bf16, Bytes(500_000_000)));
    assert_eq!((recipe.space.groups, recipe.space.least_width, recipe.device), (Some(true), 0.2, Device::Cpu));
}

#[test]
fn a_recipe_written_as_json_is_read_back_the_same() {
    for text in [LEAST, FULL] {
        let recipe = parse(text).unwrap();
        let json = serde_json::to_string_pretty(&recipe).unwrap();
        let again = Recipe::parse(&json, Path::new("demo.yaml"), &methods()).unwrap();
        assert_eq!(again, recipe, "JSON is YAML\n{json}");
    }
}

#[test]
fn notations_that_mean_the_same_are_the_same() {
    let same = [
        ("{params: 50%}", "{params: '50 %', tolerance: 0.02}"),
        ("{params: 123456}", "{params: '123456'}"),
        ("{params: 800M}", "{params: 800000000, counted: total}"),
    ];
    for (a, b) in same {
        let of = |budget| parse(&LEAST.replace("{params: 50%}", budget)).unwrap().budget;
        assert_eq!(of(a), of(b), "{a} {b}");
    }
    let anchors = LEAST.replace("{text: a.txt}", "{text: &t a.txt}") + "eval: {text: *t}\n";
    let recipe = parse(&anchors).unwrap();
    assert_eq!(recipe.eval.text, recipe.data.text);
    for start in ["\u{feff}", "# a comment\n\n", "---\n", "%YAML 1.2\n---\n"] {
        assert_eq!(parse(&format!("{start}{LEAST}")).unwrap(), parse(LEAST).unwrap(), "{start:?}");
    }
    assert_eq!(parse(&LEAST.replace('\n', "\r\n")).unwrap(), parse(LEAST).unwrap());
}

#[test]
fn an_error_reads_as_the_style_guide_says() {
    let error = parse(&LEAST.replace("params:", "parms:")).unwrap_err();
    let expected = "recipes/demo.yaml:4:10: not a valid recipe
unknown field `parms`, did you mean `params`?; known: params, latency, workload, counted, tolerance
  |
4 | budget: {parms: 50%}
  |          ^";
    assert_eq!(chain(&error), expected);
    let text = format!("{LEAST}search:\n  strategy: {{evolution: {{popluation: 3}}}}\n");
    let expected = "recipes/demo.yaml:6:38: not a valid recipe
evolution: unknown field `popluation`, did you mean `population`?; known: population, elites
  |
6 |   strategy: {evolution: {popluation: 3}}
  |                                      ^";
    assert_eq!(chain(&parse(&text).unwrap_err()), expected);
}

#[test]
fn files_that_are_no_text_or_too_large_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.yaml");
    let read = |path: &Path| Recipe::read(path, &methods());
    let show = |error: RecipeError| chain(&error).replace(&dir.path().display().to_string(), "DIR");
    assert!(show(read(&path).unwrap_err()).starts_with("DIR/r.yaml: cannot be read\nNo such file"));
    assert!(show(read(dir.path()).unwrap_err()).starts_with("DIR: cannot be read\n"));
    files::write(&path, b"version: 1\nname: \xff\n").unwrap();
    assert!(show(read(&path).unwrap_err()).starts_with("DIR/r.yaml:2: not UTF-8 text\n"));
    files::write(&path, &vec![b'#'; (1 << 20) + 1]).unwrap();
    assert_eq!(show(read(&path).unwrap_err()), "DIR/r.yaml: larger than 1 MiB, so not a recipe");
    files::write(&path, LEAST.as_bytes()).unwrap();
    let recipe = read(&path).unwrap();
    assert_eq!(recipe.name, "r");
    assert_eq!(recipe.model.folder().unwrap(), dir.path().join("model"));
    let bad_stem = dir.path().join("my recipe.yaml");
    files::write(&bad_stem, LEAST.as_bytes()).unwrap();
    let error = show(read(&bad_stem).unwrap_err());
    assert!(error.contains("the file's name cannot name the run: ' ' in `my recipe`"), "{error}");
    files::write(&bad_stem, format!("{LEAST}name: x\n").as_bytes()).unwrap();
    assert_eq!(read(&bad_stem).unwrap().name, "x");
}

#[test]
fn the_schema_describes_every_field_and_takes_methods_as_objects() {
    let schema = json_schema().to_value();
    let fields = schema["properties"].as_object().unwrap();
    let recipe = serde_json::to_value(parse(FULL).unwrap()).unwrap();
    assert_eq!(fields.keys().collect::<Vec<_>>(), recipe.as_object().unwrap().keys().collect::<Vec<_>>());
    assert_eq!(schema["additionalProperties"], json!(false));
    assert_eq!(schema["required"], json!(["version", "model", "data", "budget"]));
    let definitions = schema["$defs"].as_object().unwrap();
    assert_eq!(definitions["Method"]["anyOf"][1]["maxProperties"], json!(1));
    for (name, definition) in definitions {
        for (field, value) in definition["properties"].as_object().into_iter().flatten() {
            assert!(value["description"].is_string(), "{name}.{field} has no description");
        }
    }
    for (field, value) in fields {
        assert!(value["description"].is_string(), "{field} has no description");
    }
}

#[test]
fn cuda_needs_a_build_that_has_it() {
    let text = format!("{LEAST}device: cuda\n");
    assert!(chain(&parse(&text).unwrap_err()).contains("computes on the CPU only"));
    let methods = Methods { cuda: true, ..methods() };
    assert_eq!(Recipe::parse(&text, Path::new("r.yaml"), &methods).unwrap().device, Device::Cuda);
}
