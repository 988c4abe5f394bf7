#!/usr/bin/env bash
# Loads an exported folder in stock transformers and compares its logits with those that taper wrote.
#
#   scripts/verify_export.sh EXPORT_DIR --logits file.safetensors
#
# Python comes from $VENV if it is set, else from target/verify-venv, which is made from scripts/requirements.txt on the
# first run. Prints one JSON line; exit 0: equal, 1: not equal, 2: could not run. See scripts/verify_export.py.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [[ -n ${VENV:-} ]]; then
    venv=$VENV
else
    venv=$(dirname "$here")/target/verify-venv
    # the copy of the requirements is written last: a half-made venv is made again, as is one of other versions
    if ! cmp -s "$here/requirements.txt" "$venv/requirements.txt"; then
        echo "making $venv (once)" >&2
        rm -rf "$venv"
        python3 -m venv "$venv" >&2 || exit 2
        "$venv/bin/pip" install --quiet --requirement "$here/requirements.txt" >&2 || exit 2
        cp "$here/requirements.txt" "$venv/requirements.txt"
    fi
fi
[[ -x $venv/bin/python ]] || { echo "$venv has no bin/python" >&2; exit 2; }
exec "$venv/bin/python" "$here/verify_export.py" "$@"
