#!/usr/bin/env bash
# Measures `taper heal` against PyTorch in turns on this machine; see scripts/bench_heal.py for what, and its --help for how.
#
#   TAPER_TEST_DATA=DATA scripts/bench_heal.sh --threads 2 --rounds 3 --compile
#
# Python comes from $VENV if it is set, else from target/bench-venv, made once. Exit 2: could not run.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
for argument in "$@"; do # help needs neither torch nor a build
    case $argument in
    -h | --help) exec python3 "$here/bench_heal.py" --help ;;
    esac
done
data=$(cd "$root" && realpath "${TAPER_TEST_DATA:?names the folder of real models and text}")
# shellcheck source=scripts/venv.sh
source "$here/venv.sh"
venv_of bench-venv requirements-bench.txt
cargo build --locked --release --manifest-path "$root/Cargo.toml" --workspace >&2 || exit 2
exec "$venv/bin/python" "$here/bench_heal.py" --taper "${CARGO_TARGET_DIR:-$root/target}/release/taper" \
    --folder "$root/target/bench" --text "$data/text/tinystories_train.txt" \
    --tokenizer "$data/models/stories260k" "$@"
