"""How the seconds of scoring grow: row e of scripts/bench_vs_pytorch.py.

One dimension at a time is doubled, the others stay. The slope is that of least squares of log seconds over log size; 1 is
linear. `tokens` are more sequences of one length, so attention grows as all else does; `length` are longer sequences,
where attention's own products are quadratic, and `width` is d_model and d_ff together, where all weights are: both are
printed with the slope of their FLOPs, which is what theirs should be. The vocabulary is small, so that the head, which does not
grow with blocks, does not hide that all else does.
"""

import math
import statistics
from contextlib import ExitStack
from dataclasses import asdict, replace

from bench_common import Program, Shape, Subject, in_turns, spread, table

BASE = Shape(d_model=512, blocks=4, heads=8, d_ff=1408, vocab=256, sequences=4, length=256)
QUICK = Shape(d_model=64, blocks=2, heads=2, d_ff=176, vocab=512, sequences=2, length=32)
SIZES = (1, 2, 4)


def shape_of(base, dimension, size):
    match dimension:
        case "tokens":
            return replace(base, sequences=base.sequences * size)
        case "length":
            return replace(base, length=base.length * size)
        case "blocks":
            return replace(base, blocks=base.blocks * size)
        case "width":
            return replace(base, d_model=base.d_model * size, heads=base.heads * size, d_ff=base.d_ff * size)
    return base


def slope(sizes, values):
    """Of least squares in log-log."""
    x, y = [math.log(size) for size in sizes], [math.log(value) for value in values]
    mean_x, mean_y = statistics.mean(x), statistics.mean(y)
    along = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return along / sum((a - mean_x) ** 2 for a in x)


def row_e(args, threads):
    base, results = QUICK if args.quick else BASE, {}
    print(f"\n### e: growth of scoring's seconds\n\nfrom {base}, f32, {threads} thread(s), 50% kept, {args.rounds} rounds\n")
    lines = []
    for dimension in ("tokens", "blocks", "candidates", "length", "width"):
        with ExitStack() as stack:
            subjects = []
            for size in SIZES:
                setting = shape_of(base, dimension, size).setting(args.folder)
                program = stack.enter_context(Program([args.taper], setting, threads))
                candidates = size if dimension == "candidates" else 1
                subjects.append(Subject(f"× {size}", program, {"score": {"candidates": candidates}}))
            in_turns(subjects, args.rounds)
        rounds = zip(*([run.seconds for run in subject.runs] for subject in subjects), strict=True)
        slopes = [slope(SIZES, seconds) for seconds in rounds]
        flops = slope(SIZES, [subject.median("flops") for subject in subjects])
        seconds = [f"{subject.median('seconds'):.3g}" for subject in subjects]
        lines.append([dimension, *seconds, spread(slopes), f"{flops:.3f}"])
        runs = {subject.name: [asdict(run) for run in subject.runs] for subject in subjects}
        results[dimension] = {"slope": statistics.median(slopes), "flops_slope": flops, "runs": runs}
    print(table(["", *(f"seconds × {size}" for size in SIZES), "slope", "slope of FLOPs"], lines), flush=True)
    return {"row": "e", "shape": asdict(base), "threads": threads, "dimensions": results}
