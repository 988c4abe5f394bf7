"""taper against transformers on image classifiers, in turns: images a second, and seconds to score a candidate.

    cargo build --release -p taper-proxies --example score_images
    python scripts/bench_vs_vit.py --folder target/bench-vit --taper target/release/examples/score_images --threads 2

`python` has torch and transformers. The other program is scripts/bench_vit.py, which also writes the random model of ViT-B/16's
shape and the images. Losses of the two must agree, or it fails. taper is given some candidates together, as its search gives
them; the other does one after the other on all threads. Prints a table in markdown: medians, ratios with their range.
"""

import argparse
import statistics
import sys
from pathlib import Path

from bench_common import Program
from bench_vit import setting

TOLERANCE = 1e-4


def turns(programs, orders, rounds):
    """Seconds, losses and values of both, in turns, after one run each that does not count."""
    for program, order in zip(programs, orders):
        program.do(order)
    return [[program.do(order) for program, order in zip(programs, orders)] for _ in range(rounds)]


def row(what, runs, per, unit):
    ours, theirs = ([run[side].seconds for run in runs] for side in (0, 1))
    losses = [runs[-1][side].loss for side in (0, 1)]
    if abs(losses[0] - losses[1]) > TOLERANCE * max(1.0, abs(losses[1])):
        sys.exit(f"{what}: losses are {losses[0]} and {losses[1]}")
    ratios = [b / a for a, b in zip(ours, theirs)]
    of = lambda seconds: per / statistics.median(seconds) if per else statistics.median(seconds)
    shown = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    print(f"| {what} | {of(ours):.3g} {unit} | {of(theirs):.3g} {unit} | {shown} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--taper", type=Path, required=True, help="the example score_images")
    parser.add_argument("--models", nargs="+", default=["cifar", "base"], help="cifar, base, or folders")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--score-images", type=int, default=32)
    parser.add_argument("--batches", nargs="+", type=int, default=[8, 32, 128], help="of evaluation; each one's best counts")
    parser.add_argument("--candidates", type=int, default=4, help="that taper is given together, as by a search; seconds are of one")
    args = parser.parse_args()
    print("| | taper | transformers | times as fast |\n| --- | --- | --- | --- |", flush=True)
    for name in args.models:
        given = setting(name, args.folder, args.threads, args.images, args.score_images, 0.5)
        theirs = [sys.executable, Path(__file__).with_name("bench_vit.py")]
        with Program([args.taper], given, args.threads) as taper, Program(theirs, given, args.threads) as torch:
            best = {}
            for side, program in ((0, taper), (1, torch)):
                tried = {batch: [program.do({"evaluation": {"batch": batch}}).seconds for _ in range(3)][1:] for batch in args.batches}
                best[side] = min(tried, key=lambda batch: min(tried[batch]))
            orders = [{"evaluation": {"batch": best[side]}} for side in (0, 1)]
            about = f"{name}, {args.images} images, batches of {best[0]} and {best[1]}"
            row(about, turns((taper, torch), orders, args.rounds), args.images, "images/s")
            for rank in (64, None):
                orders = [{"scoring": {"rank": rank, "candidates": args.candidates}}, {"scoring": {}}]
                about = f"{name}, a candidate on {args.score_images} images, {'dense' if rank is None else f'rank {rank}'}"
                row(about, turns((taper, torch), orders, args.rounds), None, "s")


if __name__ == "__main__":
    main()
