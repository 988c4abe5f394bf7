"""Rows of the export table: every way to cut a model, in stock transformers and llama.cpp, against taper's own numbers.

    python scripts/check_exports.py --taper target/release/taper --cut target/release/examples/cut_models --data DATA \\
        --folder target/check-exports --python target/verify-venv/bin/python,target/llama-venv/bin/python

For each model of DATA/models and each cut (`cargo build --release -p taper-export --example cut_models`): `taper export --to gguf:f32`,
or the rule that refuses it; `taper verify` by each Python, whichever engine it has. With `--quantized` also perplexity of taper's
quantized files against `llama_model_quantize` of its f32 file, both by llama.cpp (that Python must run this script). Exit code 1 if
an engine gives other numbers.
"""

import argparse
import json
import pathlib
import subprocess
import sys

MODELS = "stories260k,llama-ts-wiki-7.9m,qwen2-ts-5.6m,qwen3-ts-3.2m"
TYPES = {"q8_0": 7, "q4_0": 2, "q4_k_s": 14, "q4_k_m": 15, "q5_k_s": 16, "q5_k_m": 17, "q6_k": 18}


def taper(args, *command, codes=(0,)):
    done = subprocess.run([args.taper, *command, "--progress", "silent"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode not in codes:
        sys.exit(f"{command}: {done.stderr}")
    return done


def engines(args, model, exports):
    """What each Python's engines say, those that are there."""
    found = []
    for python in args.python.split(","):
        done = taper(args, "verify", model, "--exports", exports, "--python", python, "--json", codes=(0, 1))
        found += [one for one in json.loads(done.stdout) if one["verdict"] != "absent"]
    return found


def shown(one):
    if one["verdict"] == "failed":
        return "FAILED " + one["cause"]
    same = "" if one["same"] else " DIFFERS"
    return f"{one['difference']:.1e}, {one['agree'][0]} of {one['agree'][1]}{same}"


def check_cuts(args):
    print("| model | cut | llama.cpp as | transformers | llama.cpp |\n|---|---|---|---|---|")
    wrong = False
    for name in args.models.split(","):
        place = args.folder / name
        subprocess.run([args.cut, args.data / "models" / name, place], check=True)
        for model in sorted(path for path in place.iterdir() if (path / "config.json").is_file()):
            exports = place / "exports" / model.name
            done = taper(args, "export", model, "--to", "gguf:f32", "--out", exports, "--json", codes=(0, 2))
            exports.mkdir(parents=True, exist_ok=True)
            refused = done.stderr.strip().split("this model: ")[-1].splitlines()[0] if done.returncode else ""
            kind = "refused" if refused else json.loads(done.stdout)["exported"][0]["architecture"]
            said = {one["engine"]: shown(one) for one in engines(args, model, exports)}
            wrong |= any("FAILED" in text or "DIFFERS" in text for text in said.values())
            line = [name, model.name, kind, said.get("transformers", "absent"), refused or said.get("llama.cpp", "absent")]
            print("| " + " | ".join(line) + " |", flush=True)
    return wrong


def check_quantized(args):
    import llama_cpp
    import numpy

    text = (args.data / "text/tinystories_valid.txt").read_text()[:24000]

    def loss(path):
        model = llama_cpp.Llama(model_path=str(path), n_ctx=264, logits_all=True, verbose=False, type_k=0, type_v=0)
        ids = model.tokenize(text.encode(), add_bos=True)
        total = count = 0
        for start in range(0, min(len(ids), 4096) - 255, 256):
            window = ids[start : start + 256]
            model.reset()
            model.eval(window)
            x = numpy.array(model.scores[:256], dtype=numpy.float64)
            most = x.max(1, keepdims=True)
            logs = x - most - numpy.log(numpy.exp(x - most).sum(1, keepdims=True))
            total -= logs[numpy.arange(255), window[1:]].sum()
            count += 255
        return total / count

    print("\n| model | type | perplexity, taper's / llama_model_quantize's |\n|---|---|---|")
    wrong = False
    for name in args.models.split(","):
        out = args.folder / name / "quantized"
        targets = ",".join(f"gguf:{kind}" for kind in ("f32", *TYPES))
        try:
            taper(args, "export", args.data / "models" / name, "--to", targets, "--out", out)
        except SystemExit as refused:
            print(f"| {name} | | {refused} |")
            continue
        for kind, number in TYPES.items():
            params = llama_cpp.llama_model_quantize_default_params()
            params.ftype = number
            theirs = out / f"theirs-{kind}.gguf"
            if llama_cpp.llama_model_quantize(str(out / f"{name}-f32.gguf").encode(), str(theirs).encode(), params):
                sys.exit(f"llama_model_quantize failed: {name} {kind}")
            ratio = float(numpy.exp(loss(out / f"{name}-{kind}.gguf") - loss(theirs)))
            wrong |= abs(ratio - 1) > 5e-3
            print(f"| {name} | {kind} | {ratio:.4f} |", flush=True)
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--taper", type=pathlib.Path, required=True)
    parser.add_argument("--cut", type=pathlib.Path, required=True, help="the example cut_models")
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder with models/ and text/")
    parser.add_argument("--folder", type=pathlib.Path, required=True, help="for what is made")
    parser.add_argument("--python", required=True, help="Pythons with engines, separated by commas")
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--quantized", action="store_true")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    wrong = check_cuts(args)
    if args.quantized:
        wrong |= check_quantized(args)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
