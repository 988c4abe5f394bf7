"""What healing brings back: models cut by a search, healed by several objectives, with several seeds.

    python scripts/healing_table.py --taper target/release/taper --data DATA --folder target/healing \\
        --models stories260k,qwen3-ts-3.2m --budgets 60%,40% --seeds 0,1,2 --steps 300

Each model is pruned once a budget (non-embedding parameters, `gradient-trace`), then `taper heal` trains it on TinyStories'
training text and tells losses on its validation text; the result is the last step, so that nothing is chosen by that text. A
variant has `steps` steps in all. What is done already is not done again. Prints a table in markdown: share of the gap between
pruned and original that is closed, mean over seeds and their range.
"""

import argparse
import json
import pathlib
import subprocess
import sys

VARIANTS = {
    "cross-entropy": {"objectives": [{"cross-entropy": {}}]},
    "logit-kl": {"objectives": [{"logit-kl": {}}]},
    "both": {"objectives": [{"logit-kl": {}}, {"cross-entropy": {"weight": 0.5}}]},
    "local, logit-kl": {"objectives": [{"logit-kl": {}}], "local": True},
}

RECIPE = """\
version: 1
name: {name}
model: {model}
data: {{text: {{path: {text}, separator: "<|endoftext|>"}}, sequences: 16, length: 256}}
budget: {{params: {budget}, counted: non-embedding}}
space: {{channels_multiple: 4}}
search: {{strategy: {{evolution: {{generations: 15}}}}, proxy: {{gradient-trace: {{sketch_rank: 32}}}}}}
runs: {runs}
"""


def run(command):
    done = subprocess.run([str(x) for x in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {done.stderr.decode()}")
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--taper", type=pathlib.Path, required=True)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder with models/ and text/")
    parser.add_argument("--folder", type=pathlib.Path, required=True, help="for what is made, kept")
    parser.add_argument("--models", default="stories260k,qwen3-ts-3.2m,qwen2-ts-5.6m,llama-ts-wiki-7.9m")
    parser.add_argument("--budgets", default="60%,40%")
    parser.add_argument("--variants", default=";".join(VARIANTS), help="separated by semicolons")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--optimizer", default="adamw")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    text = (args.data / "text/tinystories_train.txt").absolute()
    print("| model | kept | original | pruned | variant | healed, by seed | gap closed |\n|---|---|---|---|---|---|---|")
    for model in args.models.split(","):
        original = (args.data / "models" / model).absolute()
        for budget in args.budgets.split(","):
            name = f"{model}-{budget.rstrip('%')}"
            recipe = args.folder / f"{name}.yaml"
            recipe.write_text(RECIPE.format(name=name, model=original, text=text, budget=budget, runs=args.folder))
            run([args.taper, "prune", recipe, "--json", "--progress", "silent"])
            for variant in args.variants.split(";"):
                rows = [heal(args, (name, original, text), variant, seed) for seed in args.seeds.split(",")]
                teacher, before = rows[0]["teacher"], rows[0]["before"]
                closed = [(row["before"] - row["after"]) / (row["before"] - row["teacher"]) for row in rows]
                after = ", ".join(f"{row['after']:.3f}" for row in rows)
                mean = sum(closed) / len(closed)
                spread = f" ({min(closed):.1%} to {max(closed):.1%})" if len(closed) > 1 else ""
                line = f"| {model} | {budget} | {teacher:.3f} | {before:.3f} | {variant} | {after} | {mean:.1%}{spread} |"
                print(line, flush=True)


def heal(args, names, variant, seed):
    name, original, text = names
    settings = dict(VARIANTS[variant])
    steps = args.steps
    if settings.pop("local", False):
        steps -= args.steps // 3
        settings["local"] = {"steps": args.steps // 3, "rate": args.rate}
    settings |= {"best": False, "optimizer": args.optimizer, "validation": {"every": 100, "sequences": 64}}
    shape = f"{args.steps}x{args.sequences}x{args.length}-{args.optimizer}-{args.rate:g}"
    out = args.folder / f"{name}-{variant.replace(', ', '-')}-{shape}-{seed}"
    command = [args.taper, "heal", args.folder / name / "materialise", "--teacher", original, "--data", text, "--out", out]
    command += ["--validation", text.parent / "tinystories_valid.jsonl", "--separator", "<|endoftext|>", "--json"]
    numbers = {"steps": steps, "sequences": args.sequences, "length": args.length, "rate": args.rate, "seed": seed}
    command += [argument for key, value in numbers.items() for argument in (f"--{key}", value)]
    command += [argument for key, value in settings.items() for argument in ("--set", f"{key}={json.dumps(value)}")]
    return run([*command, "--progress", "silent"])["summary"]


if __name__ == "__main__":
    main()
