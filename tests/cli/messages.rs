//! What a user reads of the commands: exit code, stdout and stderr, word for word.

use insta_cmd::assert_cmd_snapshot;

use crate::support::Place;

#[test]
fn no_arguments_show_the_help() {
    assert_cmd_snapshot!(Place::new().taper(&[]), @"
    success: false
    exit_code: 2
    ----- stdout -----

    ----- stderr -----
    Makes pretrained Llama, Mistral and Qwen checkpoints smaller

    Usage: taper [OPTIONS] <COMMAND>

    Commands:
      run      Run a recipe: load, calibrate, search, materialise, heal, eval
      check    Check a recipe without reading weights
      search   Run a recipe up to the search: which architecture is best
      prune    Run a recipe up to the pruned checkpoint, without healing and evaluating it
      heal     Train a pruned checkpoint, by the model it was cut from or by text or images alone
      export   Write a checkpoint for llama.cpp (GGUF), vLLM, transformers, ONNX runtimes
      verify   Compare a checkpoint and its exports in other engines with taper's numbers
      publish  Publish a run's result, or a checkpoint's folder, on the Hub, with a model card
      eval     Scores of a checkpoint, taper's or not: benchmarks, or perplexity on text
      tasks    The tasks there are: what they measure, shots, data, licence
      score    Score given candidates: loss, correlation per sub-block and their sum, gradient norms
      logits   Write a checkpoint's logits to a safetensors file, to compare with another program's
      bench    How fast a checkpoint answers here: time to first token, per token, memory
      inspect  What a checkpoint is: blocks, sizes, costs
      methods  The methods that recipes may name
      doctor   What this machine and this build can do
      help     Print this message or the help of the given subcommand(s)

    Options:
          --json                     One JSON document on stdout instead of text
          --progress <PROGRESS>      How progress is shown on stderr; by default a bar on a terminal,
                                     else plain lines [default: auto] [possible values: auto, bar,
                                     plain, json, silent]
          --log-format <LOG_FORMAT>  How log lines are written to stderr [default: text] [possible
                                     values: text, json]
      -h, --help                     Print help (see more with '--help')
      -V, --version                  Print version

    Start here:
      taper run recipes/demo.yaml      the whole pipeline on a small model, under a minute
      taper check my.yaml              what is wrong with a recipe, before anything is read
      taper methods                    methods that a recipe may name, for searching and healing

    Exit codes: 0 done, 1 ran but a gate was missed, 2 could not run.
    Log: TAPER_LOG=info (or debug) on stderr.
    ");
}

#[test]
fn help_says_where_to_start() {
    assert_cmd_snapshot!(Place::new().taper(&["--help"]), @"
    success: true
    exit_code: 0
    ----- stdout -----
    Makes pretrained Llama, Mistral and Qwen checkpoints smaller.

    One recipe file says which model, how small, and how to search. taper ranks heads and channels on
    calibration text, searches which of them to keep in each block, cuts, heals, evaluates, and writes a
    checkpoint that stock transformers loads.

    Usage: taper [OPTIONS] <COMMAND>

    Commands:
      run      Run a recipe: load, calibrate, search, materialise, heal, eval
      check    Check a recipe without reading weights
      search   Run a recipe up to the search: which architecture is best
      prune    Run a recipe up to the pruned checkpoint, without healing and evaluating it
      heal     Train a pruned checkpoint, by the model it was cut from or by text or images alone
      export   Write a checkpoint for llama.cpp (GGUF), vLLM, transformers, ONNX runtimes
      verify   Compare a checkpoint and its exports in other engines with taper's numbers
      publish  Publish a run's result, or a checkpoint's folder, on the Hub, with a model card
      eval     Scores of a checkpoint, taper's or not: benchmarks, or perplexity on text
      tasks    The tasks there are: what they measure, shots, data, licence
      score    Score given candidates: loss, correlation per sub-block and their sum, gradient norms
      logits   Write a checkpoint's logits to a safetensors file, to compare with another program's
      bench    How fast a checkpoint answers here: time to first token, per token, memory
      inspect  What a checkpoint is: blocks, sizes, costs
      methods  The methods that recipes may name
      doctor   What this machine and this build can do
      help     Print this message or the help of the given subcommand(s)

    Options:
          --json
              One JSON document on stdout instead of text

          --progress <PROGRESS>
              How progress is shown on stderr; by default a bar on a terminal, else plain lines

              Possible values:
              - auto:   A bar on a terminal, else plain lines
              - bar:    A bar
              - plain:  A line when a stage begins and ends, and one every 20 seconds in between
              - json:   One JSON object a line
              - silent: Nothing
              
              [default: auto]

          --log-format <LOG_FORMAT>
              How log lines are written to stderr

              Possible values:
              - text: For people
              - json: One JSON object a line
              
              [default: text]

      -h, --help
              Print help (see a summary with '-h')

      -V, --version
              Print version

    Start here:
      taper run recipes/demo.yaml      the whole pipeline on a small model, under a minute
      taper check my.yaml              what is wrong with a recipe, before anything is read
      taper methods                    methods that a recipe may name, for searching and healing

    Exit codes: 0 done, 1 ran but a gate was missed, 2 could not run.
    Log: TAPER_LOG=info (or debug) on stderr.

    ----- stderr -----
    ");
}

#[test]
fn help_of_run_says_that_it_resumes() {
    assert_cmd_snapshot!(Place::new().taper(&["run", "-h"]), @"
    success: true
    exit_code: 0
    ----- stdout -----
    Run a recipe: load, calibrate, search, materialise, heal, eval

    Usage: taper run [OPTIONS] <RECIPE>

    Arguments:
      <RECIPE>  The recipe, a YAML file

    Options:
          --runs <RUNS>              Folder for results, instead of the recipe's `runs`
          --threads <THREADS>        Worker threads, instead of the recipe's. Results do not depend on
                                     it
          --json                     One JSON document on stdout instead of text
          --progress <PROGRESS>      How progress is shown on stderr; by default a bar on a terminal,
                                     else plain lines [default: auto] [possible values: auto, bar,
                                     plain, json, silent]
          --log-format <LOG_FORMAT>  How log lines are written to stderr [default: text] [possible
                                     values: text, json]
      -h, --help                     Print help (see more with '--help')

    ----- stderr -----
    ");
}

#[test]
fn a_typo_in_a_command_gets_a_suggestion() {
    assert_cmd_snapshot!(Place::new().taper(&["chekc", "tiny.yaml"]), @"
    success: false
    exit_code: 2
    ----- stdout -----

    ----- stderr -----
    error: unrecognized subcommand 'chekc'

      tip: a similar subcommand exists: 'check'

    Usage: taper [OPTIONS] <COMMAND>

    For more information, try '--help'.
    ");
}

#[test]
fn methods_are_listed_with_their_sources() {
    assert_cmd_snapshot!(Place::new().taper(&["methods"]), @"
    success: true
    exit_code: 0
    ----- stdout -----
    fidelity
      racing             few tokens first, and more for those that may still matter [Maron & Moore 1993; arXiv:1603.06560]

    proxy
      gradient-norm      sum of the gradient norms of all sub-blocks [arXiv:2101.08134]
      gradient-trace     correlation of the candidate's gradients with the whole model's, weighted by kept ratios [arXiv:2602.02891]
      loss               loss of the pruned candidate before healing, negated: the control to beat [control]
      parameters         number of weights: the control for candidates of different sizes [control]
      random             a random number, the same each time for one candidate: the control for the search [control]
      synaptic-saliency  sum of |weight * gradient| [arXiv:1810.02340]
      weight-magnitude   sum of |weight| of all that is kept: the control that looks at no data [arXiv:1608.08710]

    strategy
      evolution          crossover and mutation of the best so far, started from importance [arXiv:2602.02891]
      random             legal architectures inside the budget by chance [taper]
      uniform            every block alike: the baseline, and what stock engines load without remote code [taper]

    corruptor
      causal             each token predicts the next
      ul2                mixture of denoisers: spans are taken out of a document and predicted after it [arXiv:2205.05131]

    objective
      cka                alignment of residual streams with the teacher's: 1 - linear CKA [arXiv:2410.20035]
      cross-entropy      loss of the next token [arXiv:1512.00567 (smoothing)]
      hidden-mse         squared distance of residual streams from the teacher's [arXiv:1909.10351]
      logit-kl           divergence of the predictions from the teacher's: forward, reverse or Jensen-Shannon [arXiv:1503.02531]
      qkv-relations      relations among tokens in the last attention's queries, keys and values [arXiv:2201.12507]
      self-distill       divergence from the mean prediction of the training's own past checkpoints [arXiv:2302.05629]

    optimizer
      adamw              moments of first and second order, with decay apart from the gradient [arXiv:1711.05101]
      lion               the sign of a momentum: half of AdamW's memory [arXiv:2302.06675]
      muon               orthogonal updates of matrices, AdamW for the rest [arXiv:2502.16982]

    schedule
      constant           warm-up, then one rate
      cosine             warm-up, then down along half a cosine [arXiv:1608.03983]
      cosine-power       warm-up, then down along a power of half a cosine: faster at first [arXiv:1903.09900]
      wsd                warm-up, one rate, then straight down [arXiv:2404.06395]

    In a recipe: `search: { proxy: { gradient-trace: { sketch_rank: 64 } } }`, or a name alone for its defaults.

    ----- stderr -----
    ");
}

#[test]
fn inspect_shows_blocks_and_costs() {
    assert_cmd_snapshot!(Place::new().taper(&["inspect", "./model"]), @"
    success: true
    exit_code: 0
    ----- stdout -----
    ./model (llama), 6 blocks, width 96, 512 rows of vocabulary, tied head
    713.95k parameters (664.80k without embedding), 1.36 MiB
    at 2048 tokens: 9.36 GFLOP, KV cache 3.00 MiB

    block  query heads  KV heads  window  channels  parameters
    0                8         4       -       256      110784
    1                8         4       -       256      110784
    2                8         4       -       256      110784
    3                8         4       -       256      110784
    4                8         4       -       256      110784
    5                8         4       -       256      110784

    ----- stderr -----
    ");
}

#[test]
fn inspect_of_something_else_says_what_a_model_is_named() {
    assert_cmd_snapshot!(Place::new().taper(&["inspect", "./text.txt"]), @"
    success: false
    exit_code: 2
    ----- stdout -----

    ----- stderr -----
    error: ./text.txt: no such folder; a model on the Hub is named `owner/name`, without ./ or / before it
    ");
}

#[test]
fn eval_without_text_shows_its_usage() {
    assert_cmd_snapshot!(Place::new().taper(&["eval", "./model"]), @"
    success: false
    exit_code: 2
    ----- stdout -----

    ----- stderr -----
    error: the following required arguments were not provided:
      --text <TEXT>

    Usage: taper eval --text <TEXT> <MODEL>

    For more information, try '--help'.
    ");
}

#[test]
fn no_threads_are_too_few() {
    assert_cmd_snapshot!(Place::new().taper(&["run", "tiny.yaml", "--threads", "0"]), @"
    success: false
    exit_code: 2
    ----- stdout -----

    ----- stderr -----
    error: invalid value '0' for '--threads <THREADS>': 0 is not in 1..=1024

    For more information, try '--help'.
    ");
}

#[test]
fn a_log_level_that_is_none_is_refused() {
    assert_cmd_snapshot!(Place::new().taper(&["methods"]).env("TAPER_LOG", "taper=loud"), @r#"
    success: false
    exit_code: 2
    ----- stdout -----

    ----- stderr -----
    error: TAPER_LOG is `taper=loud`, wanted a level such as `info`, or `target=level,…`
      cause: error parsing level filter: expected one of "off", "error", "warn", "info", "debug", "trace", or a number 0-5
    "#);
}
