"""PyTorch against taper on this machine, in turns, with the same threads. Run it by scripts/bench_vs_pytorch.sh.

Rows, by the letters of their bars in docs/performance.md:
  a  score one candidate at 50% kept; PyTorch: PEFT LoRA on the masked whole model, without and with checkpointing
  b  FLOPs a second while scoring, as a share of the best sgemm of any library (PyTorch, NumPy, taper)
  c  forward and backward with all weight gradients; PyTorch: eager and torch.compile
  e  growth of scoring's seconds with tokens, blocks, candidates and width (taper alone): log-log slopes

Prints tables in markdown, and with --json writes every run. Each time is the median (least to most) of --rounds runs after
a warm-up that does not count, subjects taking turns; a ratio is PyTorch's seconds over taper's, round by round. Losses of both
sides must agree, or the exit code is 1. Weights and ids are random, from fixed seeds. Seconds are the program's own;
processor seconds and peak memory are read from /proc, from outside; without a /proc they are left out.
"""

import argparse
import json
import math
import os
import platform
import statistics
import sys
from dataclasses import asdict
from pathlib import Path

import bench_growth
from bench_common import Program, Shape, Subject, in_turns, ratios, spread, table

HERE = Path(__file__).resolve().parent
LLAMA = Shape(d_model=1024, blocks=8, heads=16, d_ff=2816, vocab=8192, sequences=8, length=512)
STORIES = Shape(d_model=288, blocks=6, heads=6, d_ff=768, vocab=32000, sequences=4, length=256)
QUICK = Shape(d_model=64, blocks=2, heads=4, d_ff=176, vocab=512, sequences=2, length=64)
PRODUCTS = [(4096, 1024, 2816), (4096, 1024, 8192), (2048, 2048, 2048), (4096, 4096, 4096)]  # tokens, d_in, d_out
QUICK_PRODUCTS = [(256, 256, 256)]
LOSS = 1e-4  # nats: two f32 implementations differ by less


def programs(args, shape, threads):
    """taper's and PyTorch's, started alike."""
    setting = shape.setting(args.folder)
    torch = [sys.executable, HERE / "bench_torch.py"]
    return Program([args.taper], setting, threads), Program(torch, setting | {"threads": threads}, threads)


def losses_agree(subjects):
    losses = {subject.name: subject.median("loss") for subject in subjects}
    good = max(losses.values()) - min(losses.values()) <= LOSS
    if not good:
        print(f"losses differ: {losses}", file=sys.stderr)
    return good


def figures(subject, taper):
    """One line of a table: seconds, processor seconds, peak memory, ratio to taper."""
    cpu, peak = subject.median("cpu_seconds"), subject.median("peak_bytes")
    ratio = "" if subject is taper else spread(ratios(subject, taper))
    seconds = spread([run.seconds for run in subject.runs])
    shown = [f"{cpu:.2f}" if cpu is not None else "", f"{peak / 2**20:.0f}" if peak is not None else ""]
    return [subject.name, seconds, *shown, ratio]


def compare(row, about, shape, threads, subjects):
    """Prints the table of subjects, taper first."""
    taper = subjects[0]
    print(f"\n### {row}: {about}\n\n{shape}, f32, {threads} thread(s), {len(taper.runs)} rounds\n")
    head = ["", "seconds", "processor seconds", "peak MiB", "PyTorch / taper"]
    print(table(head, [figures(subject, taper) for subject in subjects]), flush=True)
    runs = {subject.name: [asdict(run) for run in subject.runs] for subject in subjects}
    medians = {s.name: statistics.median(ratios(s, taper)) for s in subjects[1:]}
    return {"row": row, "shape": asdict(shape), "threads": threads, "ratios": medians, "runs": runs}


def row_a(args, threads):
    shape = QUICK if args.quick else LLAMA
    taper, torch = programs(args, shape, threads)
    with taper, torch:
        subjects = [Subject("taper", taper, {"score": {"candidates": 1}})]
        for name, on in (("PyTorch, LoRA", False), ("PyTorch, LoRA, checkpointing", True)):
            subjects.append(Subject(name, torch, {"score": {"checkpointing": on}}))
        in_turns(subjects, args.rounds)
    result = compare("a", "score one candidate at 50% kept", shape, threads, subjects)
    return result | {"good": losses_agree(subjects)}


def row_b(args, threads):
    shape = QUICK if args.quick else LLAMA
    taper, torch = programs(args, shape, threads)
    with taper, torch:
        scoring = Subject("scoring", taper, {"score": {"candidates": 1}})
        products = []
        for size in QUICK_PRODUCTS if args.quick else PRODUCTS:
            order = dict(zip(("tokens", "d_in", "d_out"), size, strict=True))
            name = " × ".join(map(str, size))
            products.append(Subject(f"taper, {name}", taper, {"product": order}))
            for library in ("torch", "numpy"):
                products.append(Subject(f"{library}, {name}", torch, {"product": order | {"library": library}}))
        in_turns([scoring, *products], args.rounds)
    peaks = {subject.name: statistics.median(subject.rates()) for subject in products}
    best = max(peaks, key=peaks.get)
    shares = [rate / peaks[best] for rate in scoring.rates()]
    print(f"\n### b: GFLOP/s while scoring, as a share of the best sgemm\n\n{shape}, f32, {threads} thread(s)\n")
    lines = [[subject.name, spread(subject.rates())] for subject in (scoring, *products)]
    print(table(["", "GFLOP/s"], lines))
    print(f"\nbest sgemm: {best}; scoring reaches {spread(shares)} of it", flush=True)
    runs = {subject.name: [asdict(run) for run in subject.runs] for subject in (scoring, *products)}
    share = statistics.median(shares)
    return {"row": "b", "shape": asdict(shape), "threads": threads, "best": best, "share": share, "runs": runs}


def row_c(args, threads, shape):
    taper, torch = programs(args, shape, threads)
    with taper, torch:
        subjects = [Subject("taper", taper, "gradients"), Subject("PyTorch, eager", torch, gradients(False))]
        if args.compile:
            subjects.append(Subject("PyTorch, torch.compile", torch, gradients(True)))
        in_turns(subjects, args.rounds)
    result = compare("c", "forward and backward, all weight gradients", shape, threads, subjects)
    norms = [subject.median("value") for subject in subjects]
    good = all(math.isclose(norm, norms[0], rel_tol=1e-3) for norm in norms)
    if not good:
        print(f"norms of all gradients differ: {norms}", file=sys.stderr)
    return result | {"good": good and losses_agree(subjects)}


def gradients(compiled):
    return {"gradients": {"compiled": compiled}}


def machine():
    import numpy
    import torch
    import transformers

    info = Path("/proc/cpuinfo")  # Linux alone has it
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line for line in lines if line.startswith("model name")]
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "numpy": numpy.__version__}
    name = models[0].partition(":")[2].strip() if models else platform.processor()
    return {"processor": name, "cores": os.cpu_count(), "python": platform.python_version(), **versions}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--taper", required=True, type=Path, help="the program that measures taper")
    parser.add_argument("--folder", required=True, type=Path, help="where checkpoints are written")
    parser.add_argument("--rows", default="a,b,c,e", help="which rows")
    parser.add_argument("--threads", default="1,2", help="threads, one table each")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave torch.compile out: no compiler")
    parser.add_argument("--quick", action="store_true", help="tiny shapes: does it run?")
    parser.add_argument("--json", type=Path, help="write every run here")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    about, results = machine(), []
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    for threads in map(int, args.threads.split(",")):
        for row in args.rows.split(","):
            if row == "c":
                shapes = [QUICK] if args.quick else [LLAMA, STORIES]
                results += [row_c(args, threads, shape) for shape in shapes]
            else:
                kinds = {"a": row_a, "b": row_b, "e": bench_growth.row_e}
                results.append(kinds[row](args, threads))
    if args.json:
        args.json.write_text(json.dumps({"machine": about, "rounds": args.rounds, "results": results}, indent=1) + "\n")
    sys.exit(0 if all(result.get("good", True) for result in results) else 1)


if __name__ == "__main__":
    main()
