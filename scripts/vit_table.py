"""What a search is worth on a classifier of images: found, healed and judged beside uniform, random and magnitude, with several seeds.

    python scripts/vit_table.py --taper target/release/taper --data DATA --folder target/vit-table

Each method prunes models/vit-cifar10-192d of DATA to a share of its blocks' parameters; `taper run` heals all alike, on the 512
training images that are there, by the original's predictions, and judges them on the 2,000 test images before and after. A random
architecture is drawn once a seed. What is done already is not done again. Prints a table in markdown: top-1, mean over seeds and
their range.
"""

import argparse
import pathlib
import statistics

from healing_table import run

METHODS = {
    "gradient-trace": "strategy: {evolution: {generations: %(generations)d}}, proxy: {gradient-trace: {sketch_rank: 64}}",
    "uniform": "strategy: uniform, proxy: loss",
    "random": "strategy: {random: {trials: 1}}, proxy: random",
    "magnitude": "strategy: {evolution: {generations: %(generations)d}}, proxy: weight-magnitude",
}

RECIPE = """\
version: 1
name: {name}
model: {data}/models/vit-cifar10-192d
data: {{images: {{path: {data}/images/cifar10_calib/images.safetensors}}, sequences: 100, shares: {{calibration: 0.8, validation: 0.2, test: 0}}}}
budget: {{params: {budget}, counted: non-embedding}}
space: {{channels_multiple: 4}}
search: {{{search}}}
heal:
  objectives: [{{logit-kl: {{temperature: 2}}}}]
  steps: {steps}
  sequences: {images}
  rate: {rate}
  augment: {{shift: 4, mirror: true}}
  validation: {{every: 50, sequences: 100}}
eval: {{images: {data}/images/cifar10_test/images.safetensors, random: 0}}
seed: {seed}
runs: {runs}
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--taper", type=pathlib.Path, required=True)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder with models/ and images/")
    parser.add_argument("--folder", type=pathlib.Path, required=True, help="for what is made, kept")
    parser.add_argument("--budgets", default="75%,50%,35%")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--generations", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--rate", default="2e-4")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    print("| kept | method | before healing | after | each, before and after |\n|---|---|---|---|---|")
    for budget in args.budgets.split(","):
        for method, search in METHODS.items():
            pairs = [one(args, budget, method, search % {"generations": args.generations}, seed) for seed in args.seeds.split(",")]
            before, after = ([100 * pair[side] for pair in pairs] for side in (0, 1))
            shown = "; ".join(f"{b:.2f}, {a:.2f}" for b, a in zip(before, after))
            print(f"| {budget} | {method} | {statistics.mean(before):.2f} | {statistics.mean(after):.2f} | {shown} |", flush=True)


def one(args, budget, method, search, seed):
    """Top-1 before and after healing."""
    name = f"{method}-{budget.rstrip('%')}-{seed}"
    recipe = args.folder / f"{name}.yaml"
    numbers = {"steps": args.steps, "images": args.images, "rate": args.rate, "seed": seed, "budget": budget}
    recipe.write_text(RECIPE.format(name=name, data=args.data.absolute(), search=search, runs=args.folder / "runs", **numbers))
    return top1(run([args.taper, "run", recipe, "--json", "--progress", "silent"]))


def top1(report):
    rows = {row["name"]: row["classified"] for row in report["eval"]["rows"]}
    return rows["pruned"]["top1"], rows["healed"]["top1"]


if __name__ == "__main__":
    main()
