#!/usr/bin/env bash
# Measures lm-evaluation-harness against `taper eval` in turns on this machine; scripts/bench_vs_lm_eval.py says what and how.
#
#   TAPER_TEST_DATA=DATA scripts/bench_vs_lm_eval.sh --rounds 5 --json target/bench-eval.json
#
# Python comes from $VENV if it is set, else from target/lm-venv, which is made from scripts/requirements-lm-eval.txt on the
# first run. Exit 0: measured, 1: the two sides scored differently, 2: could not run.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
for argument in "$@"; do # help needs neither lm_eval nor a build
    case $argument in
    -h | --help) exec python3 "$here/bench_vs_lm_eval.py" --help ;;
    esac
done
# shellcheck source=scripts/venv.sh
source "$here/venv.sh"
venv_of lm-venv requirements-lm-eval.txt
cargo build --locked --release --manifest-path "$root/Cargo.toml" --workspace >&2 || exit 2
taper=${CARGO_TARGET_DIR:-$root/target}/release/taper
exec "$venv/bin/python" "$here/bench_vs_lm_eval.py" --taper "$taper" --folder "$root/target/bench-eval" "$@"
