//! Recipes that are wrong, with the line that the error must name and words that it must have.

use super::*;

/// A whole recipe, the line expected, and a phrase expected.
type Case = (&'static str, usize, &'static str);

const WHOLE: &[Case] = &[
    ("", 1, "the recipe is empty"),
    (" \n\n", 1, "the recipe is empty"),
    ("\u{feff}", 1, "the recipe is empty"),
    ("# only a comment\n", 1, "missing field `version`"),
    ("- 1\n- 2\n", 1, "expected fields (`key: value`)"),
    ("just text\n", 1, "expected fields"),
    ("null\n", 1, "expected fields"),
    ("name: x\n", 1, "missing field `version`; this taper reads `version: 1`"),
    ("name: x\nversion: 2\nnew_field: 3\n", 2, "version 2 is not one that this taper reads; known: 1"),
    ("version: one\n", 1, "expected a whole number, 0 or more"),
    ("version: 1\n", 1, "missing field `model`"),
    ("version: 1\n---\nversion: 1\n", 3, "only single YAML document expected"),
    ("version: 1\nversion: 1\n", 2, "the key `version` stands here a second time"),
    ("version: 1\nmodel: {\n", 2, "unclosed bracket"),
    ("version: 1\nmodel: \"x\n", 2, "unclosed quote"),
    ("version: 1\nmodel: *nowhere\n", 2, "unknown"),
    ("version: 1\n\tmodel: x\n", 1, "found a tab"),
    ("version: 1\nmodel:\n\tid: x\n", 3, "tabs disallowed"),
    ("version: 1\nmodel: \u{1}\n", 2, "unexpected character"),
    ("version: 1\nmodel: !!python/object x\n", 2, "unsupported tag"),
    ("version: 1\nmodel: ]\n", 2, ""),
];

/// A line put below [`LEAST`], whose four lines it follows.
const ADDED: &[Case] = &[
    ("sed: 1", 5, "unknown field `sed`, did you mean `seed`?"),
    ("1: 1", 5, "unknown field `1`"),
    ("name: a/b", 5, "'/' in `a/b`; allowed are letters, digits, - _ and ."),
    ("name: ..", 5, "starts with a dot"),
    ("name: ''", 5, "an empty name"),
    ("name:", 5, "expected text, found nothing"),
    ("name: [x]", 5, "expected a single value"),
    ("seed: -1", 5, "expected a whole number, 0 or more"),
    ("seed: 1.5", 5, "expected a whole number"),
    ("seed: 99999999999999999999", 5, "expected a whole number"),
    ("model: x", 5, "the key `model` stands here a second time"),
    ("runs: ''", 5, "an empty path"),
    ("device: gpu", 5, "unknown value `gpu`"),
    ("device: cudaa", 5, "did you mean `cuda`?"),
    ("device: cuda", 5, "computes on the CPU only"),
    ("device: [cpu]", 5, ""),
    ("space: {\n  heads: maybe}", 6, "expected true or false"),
    ("space:\n  heads: yes", 6, "expected true or false"),
    ("space:\n  haeds: true", 6, "did you mean `heads`?"),
    ("space:\n  width: true\n  least_width: 0", 7, "least_width is 0, wanted a kept ratio above 0"),
    ("space:\n  least_heads: .nan", 6, "`.nan` is not a finite number"),
    ("space:\n  least_blocks: 1.5", 6, "least_blocks is 1.5"),
    ("space:\n  channels_multiple: 0", 6, "channels_multiple is 0, wanted 1 or more"),
    ("space:\n  drop_mlp: false\n  tied_depth: true", 7, "tied_depth is true"),
    ("space: 3", 5, "expected fields"),
    ("heal:\n  step: 3", 6, "did you mean `steps`?"),
    ("heal:\n  steps: 0", 6, "steps: 0, wanted 1 at least"),
    ("heal:\n  rate: 0", 6, "rate: 0, wanted more than 0"),
    ("heal:\n  objectives:\n  - logitkl", 7, "unknown objective `logitkl`, did you mean `logit-kl`?"),
    ("heal:\n  objectives:\n  - logit-kl:\n      temperature: 0", 8, "temperature is 0, wanted more than 0"),
    ("heal:\n  objectives:\n  - cka: {weight: -1}", 7, "weight is -1, wanted a number above 0"),
    ("heal:\n  optimizer: adam", 6, "unknown optimizer `adam`, did you mean `adamw`?"),
    ("heal:\n  schedule:\n    cosine: {wramup: 1}", 7, "unknown field `wramup`"),
    ("heal:\n  local:\n    rate: -1", 7, "local.rate: -1, wanted more than 0"),
    ("heal:\n  checkpoints: {every: 0}", 6, "checkpoints.every: 0 steps"),
    ("heal:\n  texts:\n  - {text: a.txt, weight: 0}", 7, "weight is 0, wanted a number above 0"),
    ("heal:\n  train: [a]\n  lora: {rank: 2}", 6, "`train` and `lora`, wanted one of them"),
    ("heal:\n  cache: true", 6, "wanted exactly one objective with `top: K`"),
    (
        "search:\n  strategy: evolutoin",
        6,
        "unknown strategy `evolutoin`, did you mean `evolution`?; known: evolution, random",
    ),
    ("search:\n  proxy: {wanda: {}}", 6, "unknown proxy `wanda`; known: gradient-trace, loss"),
    (
        "search:\n  proxy:\n    gradient-trace:\n      rank: 3",
        8,
        "gradient-trace: unknown field `rank`; known: sketch_rank",
    ),
    (
        "search:\n  strategy:\n    evolution:\n      elites: 3\n      population: many",
        9,
        "evolution: invalid type: string \"many\", expected u32 (`population`)",
    ),
    ("search:\n  proxy: {gradient-trace: 3}", 6, "`gradient-trace` takes named parameters"),
    ("search:\n  proxy:\n    loss:\n    random:", 7, "one key names the method, found two: `loss` and `random`"),
    ("search:\n  fidelity: race", 6, "unknown fidelity `race`; known: racing"),
    ("search:\n  fidelity:\n    racing: {frist: 0.1}", 7, "racing: unknown field `frist`"),
    ("search:\n  proxy: {}", 6, "expected the name of a method, found nothing"),
    ("search:\n  proxy: 3", 6, "expected the name of a method"),
    ("search:\n  proxy: {loss: {sketch_rank: .inf}}", 6, "not a finite number"),
    ("search:\n  proxy: {loss: {sketch_rank: 1, sketch_rank: 2}}", 6, "a second time"),
    ("search:\n  threads: 0", 6, "threads is 0, wanted 1 to 1024"),
    ("search:\n  threads: 5000000000", 6, "threads is 5000000000"),
    ("search:\n  report: [loss]", 6, "unknown field `report`"),
    ("eval:\n  window: 1", 6, "window is 1, wanted 2 to 1048576"),
    ("eval:\n  window: 64\n  stride: 65", 7, "stride is 65, wanted 1 to 64"),
    ("eval:\n  stride: 0", 6, "stride is 0"),
    ("eval:\n  text: ''", 6, "an empty path"),
    ("eval:\n  text:\n    path: x\n    seperator: y", 8, "unknown field `seperator`, did you mean `separator`?"),
    ("eval:\n  by_document: 1", 6, "expected true or false"),
    ("eval:\n  tasks:\n    - arc_easy\n    - mmul", 8, "unknown task `mmul`, did you mean `mmlu`?"),
    ("eval:\n  tasks: arc_easy", 6, "expected a list"),
    ("eval:\n  tasks: [arc_easy]\n  task_path:\n    - no/folder", 8, "recipes/no/folder: cannot be read: No such file"),
    ("eval:\n  tasks: [arc_easy]\n  task_path: ['']", 7, "an empty path"),
    ("eval:\n  tasks: [arc_easy]\n  limit: 0", 7, "limit is 0, wanted a number of documents, or a share"),
    ("eval:\n  tasks: [arc_easy]\n  limit: -1", 7, "limit is -1"),
    ("eval:\n  limit: 5", 6, "`limit` belongs to `tasks`, and there are none"),
    ("eval:\n  data: ''", 6, "an empty path"),
    ("eval:\n  recovery:\n    arc_easy: 0.9", 7, "`arc_easy` is not among `eval.tasks`, so nothing is measured of it"),
    ("eval:\n  tasks: [mmlu]\n  recovery:\n    mmlu: 1.01", 8, "a recovery of 1.01 is not in 0 to 1, 0 excluded"),
    ("eval:\n  tasks: [mmlu]\n  recovery:\n    mmlu_anatomi: 1", 8, "did you mean `mmlu_anatomy`?"),
    ("eval:\n  recovery: {perplexity: 0.9, perplexity: 0.8}", 6, "a second time"),
    ("materialise:\n  dtype: int8", 6, "unknown value `int8`"),
    ("materialise:\n  dtype: bf61", 6, "did you mean `bf16`?"),
    ("materialise:\n  shard_size: 5 gigs", 6, "`5 gigs` is not a size such as 5GB"),
    ("materialise:\n  shard_size: 0", 6, "`0` is not a size"),
    ("materialise:\n  shard_size: -5", 6, "`-5` is not a size"),
    ("materialise: &m {dtype: f32}\neval: {<<: *m}", 6, "merge keys (`<<`) are not part of recipes"),
];

/// What replaces a line of [`LEAST`]: the line's number, then as above.
const REPLACED: &[(usize, Case)] = &[
    (2, ("model: ''", 2, "an empty model name")),
    (2, ("model:", 2, "expected a Hub id, a folder, or {id, revision}")),
    (2, ("model: 7", 2, "expected a Hub id")),
    (2, ("model: a/b/c", 2, "`a/b/c` is no Hub id such as `owner/name`; a folder starts with ./, ../ or /")),
    (2, ("model: a/b@", 2, "is no revision")),
    (2, ("model:\n  id: ./folder\n  revision: main", 3, "a folder has no revision")),
    (2, ("model:\n  id: a/b\n  rev: main", 4, "unknown field `rev`")),
    (2, ("model: {revision: main}", 2, "missing field `id`")),
    (3, ("data: a.txt", 3, "expected fields")),
    (3, ("data: {}", 3, "missing field `text`")),
    (3, ("data: {text: [a, b]}", 3, "expected the path of a text file or folder")),
    (3, ("data:\n  text: a\n  shares: {calibration: 0.9}", 5, "the sum must be 1")),
    (3, ("data:\n  text: a\n  shares: {calibration: 1.8, test: -0.9}", 5, "each must lie in [0, 1]")),
    (3, ("data:\n  text: a\n  shares:\n    validation: 0.9\n    calibration: 0.0", 7, "nothing to calibrate on")),
    (3, ("data:\n  text: a\n  shares: {validation: 0.2, test: 0}", 5, "nothing to judge on")),
    (3, ("data:\n  text: a\n  sequences: 0", 5, "sequences is 0, wanted 1 to 1048576")),
    (3, ("data:\n  text: a\n  sequences: 1048576\n  length: 1048576", 5, "sequences · length is 1099511627776 tokens")),
    (3, ("data:\n  text: a\n  length: 1", 5, "length is 1, wanted 2")),
    (3, ("data:\n  text: a\n  length: 1e3", 5, "expected a whole number")),
    (4, ("budget: 50%", 4, "expected fields")),
    (4, ("budget: {}", 4, "missing field `params` or `latency`")),
    (4, ("budget:\n  params: 50%\n  latency: 60%", 6, "wanted one of them")),
    (4, ("budget:\n  params: 50%\n  workload: {batch: 2}", 6, "belongs to a budget of `latency`")),
    (4, ("budget:\n  latency: 60%\n  counted: non-embedding", 6, "belongs to a budget of `params`")),
    (4, ("budget:\n  params: 50%\n  counted: latency", 6, "unknown value `latency`")),
    (4, ("budget:\n  latency: 5", 5, "`5` is not a budget: wanted a positive number such as 60%, 250 ms")),
    (4, ("budget:\n  latency: 0.6", 5, "did you mean `60%`?")),
    (4, ("budget:\n  latency: 60%\n  workload: {batch: 0}", 6, "batch is 0, wanted 1 to 1024")),
    (4, ("budget:\n  latency: 60%\n  workload: {promt: 4}", 6, "did you mean `prompt`?")),
    (4, ("budget:\n  params: half", 5, "`half` is not a budget: wanted a positive number such as 50%")),
    (4, ("budget:\n  params: 150%", 5, "more than the whole model")),
    (4, ("budget:\n  params: 0", 5, "wanted a positive number")),
    (4, ("budget:\n  params: -5", 5, "not a budget")),
    (4, ("budget:\n  params: 0.5", 5, "0.5 is no budget; did you mean `50%`?")),
    (4, ("budget:\n  params: '0.4'", 5, "a budget of 0 parameters leaves no model")),
    (4, ("budget:\n  params: 1e300", 5, "is not a budget")),
    (4, ("budget:\n  params: .nan", 5, "not a finite number")),
    (4, ("budget:\n  params: [50%]", 5, "expected a budget such as 50%")),
    (4, ("budget:\n  params: 50%\n  counted: all", 6, "unknown value `all`")),
    (4, ("budget:\n  params: 50%\n  tolerance: 2", 6, "did you mean `2%`?")),
    (4, ("budget:\n  params: 50%\n  tolerance: -1%", 6, "not in 0 to 1")),
    (4, ("budget:\n  params: 50%\n  tolerance: few", 6, "`few` is not a share such as 2% or 0.02")),
];

/// What the error for `text` gets wrong, if anything.
fn complaint(text: &str, line: usize, phrase: &str) -> Option<String> {
    let error = match parse(text) {
        Ok(_) => return Some(format!("accepted:\n{text}\n")),
        Err(error) => error,
    };
    let shown = chain(&error);
    let prefix = format!("recipes/demo.yaml:{line}:");
    let good = shown.starts_with(&prefix) && shown.contains(phrase) && error.place().is_some_and(|p| p.line == line);
    (!good).then(|| format!("wanted line {line}, {phrase:?}:\n{text}\n{shown}\n"))
}

#[test]
fn every_bad_recipe_is_refused_at_its_line() {
    let mut complaints = Vec::new();
    for (text, line, phrase) in WHOLE {
        complaints.extend(complaint(text, *line, phrase));
    }
    for (added, line, phrase) in ADDED {
        complaints.extend(complaint(&format!("{LEAST}{added}\n"), *line, phrase));
    }
    for (replaced, (by, line, phrase)) in REPLACED {
        let mut lines: Vec<&str> = LEAST.lines().collect();
        lines[replaced - 1] = by;
        complaints.extend(complaint(&lines.join("\n"), *line, phrase));
    }
    assert!(complaints.is_empty(), "{} of them:\n{}", complaints.len(), complaints.join("\n"));
}

#[test]
fn bombs_are_refused_quickly() {
    let mut aliases = format!("{LEAST}search:\n  proxy:\n    loss:\n      a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for n in 1..12 {
        let list = vec![format!("*a{}", n - 1); 10].join(", ");
        aliases.push_str(&format!("      a{n}: &a{n} [{list}]\n"));
    }
    let deep = format!("{LEAST}search: {{proxy: {{loss: {}", "{a: ".repeat(100_000));
    let lists = format!("{LEAST}search: {{proxy: {{loss: {{a: {}", "[".repeat(200_000));
    let indented: String = (0..500).map(|n| format!("{}a:\n", " ".repeat(n + 2))).collect();
    let nested = format!("{LEAST}search:\n{indented}");
    let wide = format!("{LEAST}search: {{proxy: {{loss: {{a: [{}]}}}}}}", "1, ".repeat(300_000));
    for bomb in [aliases, deep, lists, nested, wide] {
        let start = std::time::Instant::now();
        let error = parse(&bomb).unwrap_err();
        assert!(chain(&error).starts_with("recipes/demo.yaml"), "{}", chain(&error));
        assert!(chain(&error).len() < 1000, "{}", chain(&error));
        assert!(start.elapsed().as_secs() < 5);
    }
}
