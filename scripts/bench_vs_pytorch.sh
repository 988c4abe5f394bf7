#!/usr/bin/env bash
# Measures taper against PyTorch in turns on this machine; see scripts/bench_vs_pytorch.py for what, and its --help for how.
#
#   scripts/bench_vs_pytorch.sh --rounds 9 --json target/bench.json
#
# Python comes from $VENV if it is set, else from target/bench-venv, which is made from scripts/requirements-bench.txt on
# the first run. Exit 0: measured, 1: the two sides computed different losses, 2: could not run.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
for argument in "$@"; do # help needs neither torch nor a build
    case $argument in
    -h | --help) exec python3 "$here/bench_vs_pytorch.py" --help ;;
    esac
done
# shellcheck source=scripts/venv.sh
source "$here/venv.sh"
venv_of bench-venv requirements-bench.txt
cargo build --locked --release --manifest-path "$root/Cargo.toml" -p taper-proxies --example score_once >&2 || exit 2
taper=${CARGO_TARGET_DIR:-$root/target}/release/examples/score_once
exec "$venv/bin/python" "$here/bench_vs_pytorch.py" --taper "$taper" --folder "$root/target/bench" "$@"
