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

packages=(kernels model proxies heal)

# Builds all at once, with a GPU; prints `PACKAGE-TARGET PATH` for each executable, the target `lib` for tests of a crate itself.
built() {
    local options=() package
    for package in "${packages[@]}"; do
        options+=(-p "taper-$package" --features "taper-$package/cuda")
    done
    cargo test --locked --release --no-run --message-format=json "${options[@]}" --lib --test cuda --test machine \
        --example score_candidate | python3 -c 'import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable"):
        target = message["target"]
        package = message["package_id"].split("#")[0].rsplit("/", 1)[1]
        name = "lib" if target["kind"] == ["lib"] else target["name"]
        print(f"{package}-{name}", message["executable"])'
}

pack() {
    local out root work name binary size
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
    while read -r name binary; do
        case $name in
            model-lib | proxies-lib) ;; # nothing in them needs a GPU
            *) strip -o "$work/taper-gpu/$name" "$binary" ;;
        esac
    done < <(built)
    "$work/taper-gpu/proxies-score_candidate" "$tiny" >/dev/null # runs, before it travels
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

# A step that may fail: what comes after it is wanted all the same; of a .json its lines of JSON are kept.
# step NAME FILE COMMAND...
step() {
    local name=$1 file=$2 start=$SECONDS kept=''
    shift 2
    if [[ $file == *.json ]]; then kept='^{'; fi
    "$@" 2>&1 | tee >(grep -e "$kept" >>"$file") || failed+=("$name")
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
    for tests in kernels-lib kernels-cuda model-machine proxies-machine heal-lib; do
        step "parity, $tests" "$results/parity.log" \
            "$here/$tests" --ignored --skip benchmark --test-threads 1 --nocapture
    done
    step benchmark "$results/bench.json" "$here/kernels-cuda" --ignored benchmark --nocapture --quiet
    step candidate "$results/candidate.json" "$here/proxies-score_candidate"
    if command -v compute-sanitizer >/dev/null; then
        for tool in memcheck racecheck initcheck synccheck; do
            step "$tool" "$results/sanitizer.log" compute-sanitizer --tool "$tool" --error-exitcode 1 \
                "$here/kernels-cuda" --ignored on_a_gpu --test-threads 1
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
