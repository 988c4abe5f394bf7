# Sourced: makes a Python environment of pinned packages.

# venv_of NAME REQUIREMENTS: sets `venv` to $VENV if it is set, else to target/NAME, made once from scripts/REQUIREMENTS.
# Wants `here`, the folder of the scripts, and `root`, that of the repository. Exits 2 if it cannot be made.
venv_of() {
    venv=${VENV:-$root/target/$1}
    # the copy of the requirements is written last: a half-made venv is made again, as is one of other versions
    if [[ -z ${VENV:-} ]] && ! cat "$here/requirements.txt" "$here/$2" | cmp -s - "$venv/requirements.txt"; then
        echo "making $venv (once)" >&2
        rm -rf "$venv"
        python3 -m venv "$venv" >&2 || exit 2
        "$venv/bin/pip" install --quiet --requirement "$here/$2" >&2 || exit 2
        cat "$here/requirements.txt" "$here/$2" >"$venv/requirements.txt"
    fi
    [[ -x $venv/bin/python ]] || { echo "$venv has no bin/python" >&2; exit 2; }
}
