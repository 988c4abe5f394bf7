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
if [[ -n ${VENV:-} ]]; then
    venv=$VENV
else
    venv=$root/target/bench-venv
    # the copy of the requirements is written last: a half-made venv is made again, as is one of other versions
    if ! cat "$here/requirements.txt" "$here/requirements-bench.txt" | cmp -s - "$venv/requirements.txt"; then
        echo "making $venv (once)" >&2
        rm -rf "$venv"
        python3 -m venv "$venv" >&2 || exit 2
        "$venv/bin/pip" install --quiet --requirement "$here/requirements-bench.txt" >&2 || exit 2
        cat "$here/requirements.txt" "$here/requirements-bench.txt" >"$venv/requirements.txt"
    fi
fi
[[ -x $venv/bin/python ]] || { echo "$venv has no bin/python" >&2; exit 2; }
cargo build --locked --release --manifest-path "$root/Cargo.toml" -p taper-proxies --example score_once >&2 || exit 2
taper=${CARGO_TARGET_DIR:-$root/target}/release/examples/score_once
exec "$venv/bin/python" "$here/bench_vs_pytorch.py" --taper "$taper" --folder "$root/target/bench" "$@"
