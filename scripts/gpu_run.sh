#!/usr/bin/env bash
# Parity, sanitizer and benchmark on a GPU machine that has neither Rust nor a network.
#
#   scripts/gpu_run.sh pack OUT.tar.gz   here: builds and packs (at most 64 MB)
#   ./gpu_run.sh run [RESULTS]           there, in the unpacked folder: writes RESULTS/{parity,sanitizer}.log, bench.json,
#                                        candidate.json
#
# The machine needs NVIDIA's driver and cuBLAS. PTX is packed, so NVRTC is not needed there.
set -euo pipefail

tiny='{"device": "emulated", "blocks": 2, "d_model": 32, "heads": 4, "d_ff": 48, "vocab": 50, "sequences": 2, "length": 16,
  "rank": 8, "candidates": 1, "product": 32}'
limit=$((64 * 1000 * 1000))
d_heads=5,16,48,64,128 # of the parity cases and the benchmark

pack() {
    local out root work binary size
    out=$(realpath -m "$1")
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    cd "$root"
    work=$(mktemp -d)
    # shellcheck disable=SC2064 # expanded now on purpose: the variable is local
    trap "rm -rf '$work'" EXIT
    mkdir "$work/taper-gpu"
    scripts/cuda_toolkit.sh
    cargo run --locked --release --quiet -p xtask -- kernels --d-head "$d_heads" --ptx "$work/taper-gpu/ptx"
    binary=$(cargo test --locked --release -p taper-kernels --features cuda --test cuda --no-run --message-format=json |
        python3 -c 'import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["name"] == "cuda":
        print(message["executable"])')
    strip -o "$work/taper-gpu/cuda" "$binary"
    binary=$(cargo build --locked --release -p taper-proxies --features cuda --example score_candidate \
        --message-format=json |
        python3 -c 'import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["name"] == "score_candidate":
        print(message["executable"])')
    "$binary" "$tiny" >/dev/null # runs, before it travels
    strip -o "$work/taper-gpu/score_candidate" "$binary"
    cp scripts/gpu_run.sh "$work/taper-gpu/"
    git rev-parse HEAD >"$work/taper-gpu/commit"
    tar -czf "$out" -C "$work" taper-gpu
    size=$(stat -c %s "$out")
    if ((size > limit)); then
        printf '%s: %d bytes, %d are the most\n' "$out" "$size" "$limit" >&2
        return 1
    fi
    printf '%s: %d bytes\n' "$out" "$size"
}

# Folders where cuBLAS lies although the loader does not look there: a toolkit's, or those of Python's wheels.
find_cublas() {
    local folder
    if ldconfig -p 2>/dev/null | grep -q 'libcublas\.so'; then
        return
    fi
    folder=$(find /usr/local /usr/lib /opt -name 'libcublas.so.1[23]' -printf '%h\n' 2>/dev/null | sort | tail -1)
    if [[ -n $folder ]]; then
        export LD_LIBRARY_PATH=$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    fi
}

run() {
    local here results tool
    here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
    results=$(realpath -m "${1:-results}")
    mkdir -p "$results"
    export TAPER_PTX_CACHE=$here/ptx RUST_BACKTRACE=0
    find_cublas
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv | tee "$results/machine.csv"
    "$here/cuda" --ignored on_a_gpu --test-threads 1 2>&1 | tee "$results/parity.log"
    if command -v compute-sanitizer >/dev/null; then
        for tool in memcheck racecheck initcheck synccheck; do
            compute-sanitizer --tool "$tool" --error-exitcode 1 "$here/cuda" --ignored on_a_gpu --test-threads 1
        done 2>&1 | tee "$results/sanitizer.log"
    else
        printf 'SKIPPED: compute-sanitizer is not installed\n' | tee "$results/sanitizer.log"
    fi
    "$here/cuda" --ignored benchmark --nocapture 2>&1 | grep '^{' | tee "$results/bench.json"
    "$here/score_candidate" | tee "$results/candidate.json"
}

case ${1-} in
    pack) pack "${2:?usage: gpu_run.sh pack OUT.tar.gz}" ;;
    run) run "${2-}" ;;
    *)
        printf 'usage: gpu_run.sh pack OUT.tar.gz | gpu_run.sh run [RESULTS]\n' >&2
        exit 2
        ;;
esac
