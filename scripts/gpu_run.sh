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
d_heads=5,8,16,24,32,48,64,128 # of the parity cases, the golden models and the benchmark

# The executable that cargo makes, with a GPU: built build|test OPTION...
built() {
    local command=$1
    shift
    cargo "$command" --locked --release --features cuda --message-format=json "$@" | python3 -c 'import json, sys
for line in sys.stdin:
    message = json.loads(line)
    kind = message.get("target", {}).get("kind")
    if message.get("executable") and kind in (["test"], ["example"], ["lib"]):
        print(message["executable"])'
}

pack() {
    local out root work binary size
    out=$(realpath -m "$1")
    mkdir -p "$(dirname "$out")"
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    cd "$root"
    work=$(mktemp -d)
    # shellcheck disable=SC2064 # expanded now on purpose: the variable is local
    trap "rm -rf '$work'" EXIT
    mkdir "$work/taper-gpu"
    scripts/cuda_toolkit.sh
    cargo run --locked --release --quiet -p xtask -- kernels --d-head "$d_heads" --ptx "$work/taper-gpu/ptx"
    strip -o "$work/taper-gpu/cuda" "$(built test -p taper-kernels --test cuda --no-run)"
    strip -o "$work/taper-gpu/model" "$(built test -p taper-model --test machine --no-run)"
    strip -o "$work/taper-gpu/proxies" "$(built test -p taper-proxies --test machine --no-run)"
    strip -o "$work/taper-gpu/heal" "$(built test -p taper-heal --lib --no-run)"
    binary=$(built build -p taper-proxies --example score_candidate)
    "$binary" "$tiny" >/dev/null # runs, before it travels
    strip -o "$work/taper-gpu/score_candidate" "$binary"
    cp -r crates/model/golden "$work/taper-gpu/"
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

failed=()

# A step that may fail: what comes after it is wanted all the same. step NAME FILE COMMAND...
step() {
    local name=$1 file=$2 start=$SECONDS
    shift 2
    "$@" 2>&1 | tee -a "$file" || failed+=("$name")
    printf '%s: %d s\n' "$name" $((SECONDS - start))
}

run() {
    local here results tests tool
    here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
    results=$(realpath -m "${1:-results}")
    rm -rf "$results"
    mkdir -p "$results"
    export TAPER_PTX_CACHE=$here/ptx TAPER_GOLDEN=$here/golden RUST_BACKTRACE=0
    find_cublas
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv | tee "$results/machine.csv"
    for tests in cuda model proxies heal; do
        step "parity, $tests" "$results/parity.log" "$here/$tests" --ignored on_a_gpu --test-threads 1 --nocapture
    done
    step benchmark "$results/bench.json" "$here/cuda" --ignored benchmark --nocapture --quiet
    step candidate "$results/candidate.json" "$here/score_candidate"
    if command -v compute-sanitizer >/dev/null; then
        for tool in memcheck racecheck initcheck synccheck; do
            step "$tool" "$results/sanitizer.log" compute-sanitizer --tool "$tool" --error-exitcode 1 \
                "$here/cuda" --ignored on_a_gpu --test-threads 1
        done
    else
        printf 'SKIPPED: compute-sanitizer is not installed\n' | tee "$results/sanitizer.log"
    fi
    if ((${#failed[@]})); then
        printf 'FAILED: %s\n' "${failed[@]}" >&2
        return 1
    fi
}

case ${1-} in
    pack) pack "${2:?usage: gpu_run.sh pack OUT.tar.gz}" ;;
    run) run "${2-}" ;;
    *)
        printf 'usage: gpu_run.sh pack OUT.tar.gz | gpu_run.sh run [RESULTS]\n' >&2
        exit 2
        ;;
esac
