#!/usr/bin/env bash
# CUDA's compiler from PyPI's wheels, without a GPU or an installed toolkit: scripts/cuda_toolkit.sh [--full]
#
# Puts NVRTC into target/cuda-toolkit (all that `cargo xtask kernels` needs: the kernels include no header but their own);
# --full adds nvcc, headers, cuBLAS and cuRAND, as a folder that CUDA_HOME can name. Does nothing if it is there already.
# Wheels are unpacked, not installed: no Python environment is touched.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

release=13.0
target=${CARGO_TARGET_DIR:-target}/cuda-toolkit
wheels=(nvidia-cuda-nvrtc)
mark=nvrtc
case ${1-} in
    '') ;;
    --full)
        wheels+=(nvidia-cuda-runtime nvidia-cuda-cccl nvidia-cuda-nvcc nvidia-nvvm nvidia-cuda-crt nvidia-cublas nvidia-curand)
        mark=full
        ;;
    *)
        printf 'usage: %s [--full]\n' "$0" >&2
        exit 2
        ;;
esac

if [[ -e $target/.$release-$mark || -e $target/.$release-full ]]; then
    exit 0
fi
mkdir -p "$target"
work=$(mktemp -d "$target/.work-XXXXXX")
trap 'rm -rf "$work"' EXIT

version_of() { # cuBLAS and cuRAND count their own releases
    case $1 in
        nvidia-cublas) echo '13.0.*' ;;
        nvidia-curand) echo '10.4.*' ;;
        *) echo "$release.*" ;;
    esac
}
for wheel in "${wheels[@]}"; do
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest "$work/wheels" \
        "$wheel==$(version_of "$wheel")"
done
for wheel in "$work"/wheels/*.whl; do
    python3 -m zipfile -e "$wheel" "$work/unpacked"
done

# Wheels of one major release share the folder nvidia/cu13, laid out as a toolkit.
unpacked=$work/unpacked/nvidia/cu13
if [[ ! -d $unpacked/lib ]]; then
    printf 'the wheels hold no nvidia/cu13/lib: their layout has changed\n' >&2
    exit 1
fi
cp -R "$unpacked/." "$target/"
for library in "$target"/lib/*.so.*; do # what linkers look for
    ln -sfn "$(basename "$library")" "${library%%.so.*}.so"
done
if [[ $mark == full ]]; then
    mkdir -p "$target/lib/stubs"
    printf 'void taper_stub_of_the_driver(void) {}\n' | cc -shared -fPIC -Wl,-soname,libcuda.so.1 -x c - -o "$target/lib/stubs/libcuda.so"
    ln -sfn lib "$target/lib64"
    chmod +x "$target"/bin/* "$target"/nvvm/bin/* 2>/dev/null || true
fi
touch "$target/.$release-$mark"
