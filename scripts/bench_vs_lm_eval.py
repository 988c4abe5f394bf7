"""lm-evaluation-harness against `taper eval` on this machine, in turns. Run it by scripts/bench_vs_lm_eval.sh.

Both read the same local documents, the same checkpoint in f32, with the same threads, and start anew for each run: taper with
no answer kept. Bootstraps are off. lm_eval runs once with each batch size. Models: a small real one of the test data, and a
random Llama of over 100M parameters with its tokenizer.

Prints a table in markdown for each model and task: wall time of the whole process as seen from outside; of evaluating alone
(lm_eval: its `evaluate`, without imports, loading the model and finding tasks; taper: with all of that); peak memory; ratios to
taper round by round. Medians (least to most) of --rounds runs after one that does not count. Both must score alike: if a score
differs by more than one document's worth, or a perplexity by 1e-4, the exit code is 1.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench_common import PAUSE, spread, table

HERE = Path(__file__).resolve().parent
SMALL = "llama-ts-wiki-7.9m"
# task, splits that the data has, documents of the small and of the large model
TASKS = [
    ("arc_easy", ["train", "validation", "test"], 200, 50),
    ("hellaswag", ["validation"], 200, 25),
    ("boolq", ["validation"], 100, 12),
    ("wikitext", ["test"], 10, 2),
    ("gsm8k", ["train", "test"], 64, 16),
]
PERPLEXITY = 1e-4  # relative: sums of f32 in another order


@dataclass
class Run:
    """One process. `wall` and `peak` as seen from outside, the rest as it says itself."""

    wall: float
    evaluating: float
    peak: int
    imports: float
    metrics: dict


@dataclass
class Subject:
    """Who evaluates, and how it went."""

    name: str
    evaluate: object
    runs: list[Run] = field(default_factory=list)

    def values(self, what):
        return [getattr(run, what) for run in self.runs]


def measured(command, threads):
    """stdout, wall seconds and peak bytes of a process. This one must stay small: a child's peak begins with its parent's."""
    names = ("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = os.environ | dict.fromkeys(names, str(threads))
    time.sleep(PAUSE)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as log:
        start = time.perf_counter()
        process = subprocess.Popen(list(map(str, command)), stdout=out, stderr=log, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), log.seek(0)
        if process.returncode != 0:
            raise RuntimeError(f"{command} ended with {process.returncode}:\n{log.read()[-4000:]}")
        unit = 1 if sys.platform == "darwin" else 1024
        return out.read(), wall, usage.ru_maxrss * unit


def by_taper(args, model, task, limit, threads):
    with tempfile.TemporaryDirectory() as folder:
        command = [args.taper, "eval", model, "--tasks", task, "--limit", limit, "--data", args.data / "tasks"]
        command += ["--answers", f"{folder}/answers.db", "--bootstrap", 0, "--threads", threads]
        text, wall, peak = measured([*command, "--json", "--progress", "silent"], threads)
    found = json.loads(text)
    metrics = {key: value for key, value in found["results"][task].items() if isinstance(value, float)}
    return Run(wall, float(found["total_evaluation_time_seconds"]), peak, 0.0, metrics)


def by_lm_eval(args, model, task, limit, threads, batch):
    splits = next(splits for name, splits, *_ in TASKS if name == task)
    order = {"model": str(model), "data": str(args.data), "task": task, "splits": splits, "limit": limit}
    order |= {"threads": threads, "batch": batch}
    text, wall, peak = measured([sys.executable, HERE / "bench_lm_eval_child.py", json.dumps(order)], threads)
    found = json.loads(text.splitlines()[-1])
    return Run(wall, found["seconds"]["evaluate"], peak, found["seconds"]["import"], found["metrics"])


def in_turns(subjects, rounds):
    """One warm-up each that does not count, then `rounds` of all, each round begun by another."""
    for subject in subjects:
        subject.evaluate()
    for index in range(rounds):
        at = index % len(subjects)
        for subject in subjects[at:] + subjects[:at]:
            subject.runs.append(subject.evaluate())


def agree(subjects, limit):
    """Whether all score as the first does; what differs is said."""
    good, taper = True, subjects[0].runs[0].metrics
    for subject in subjects[1:]:
        for key, value in subject.runs[0].metrics.items():
            if "stderr" in key or key not in taper:
                continue
            shares = key.startswith(("acc", "exact_match"))
            near = 1.5 / limit if shares else PERPLEXITY * abs(value)
            if abs(taper[key] - value) > near:
                print(f"{key}: taper {taper[key]}, {subject.name} {value}", file=sys.stderr)
                good = False
    return good


def ratios(over, under, what):
    return [a / b for a, b in zip(over.values(what), under.values(what), strict=True)]


def compare(args, label, model, task, limit, threads):
    """Measures and prints one table."""
    subjects = [Subject("taper", lambda: by_taper(args, model, task, limit, threads))]
    for batch in map(int, args.batches.split(",")):
        name = f"lm_eval, batch {batch}"
        subjects.append(Subject(name, lambda b=batch: by_lm_eval(args, model, task, limit, threads, b)))
    in_turns(subjects, args.rounds)
    taper, lines = subjects[0], []
    for subject in subjects:
        line = [subject.name, *(spread(subject.values(what)) for what in ("wall", "evaluating"))]
        line += [f"{statistics.median(subject.values('imports')):.1f}"]
        line += [f"{statistics.median(subject.values('peak')) / 2**20:.0f}"]
        line += [spread(ratios(subject, taper, what)) if subject is not taper else "" for what in ("wall", "evaluating")]
        lines.append(line)
    print(f"\n### {task}, {label}\n\n{limit} documents, f32, {threads} thread(s), {args.rounds} rounds\n")
    head = ["", "seconds in all", "seconds evaluating", "of imports", "peak MiB", "in all / taper", "evaluating / taper"]
    print(table(head, lines), flush=True)
    runs = {subject.name: [asdict(run) for run in subject.runs] for subject in subjects}
    found = {"task": task, "model": label, "limit": limit, "threads": threads, "runs": runs}
    return found | {"good": agree(subjects, limit)}


def large(folder, tokenizer):
    """A random Llama of 119M parameters with the tokenizer of the model in `tokenizer`; made once, by another process."""
    model = folder / "random-llama-119m"
    if not (model / "config.json").exists():
        subprocess.run([sys.executable, __file__, "--make", model, "--tokenizer", tokenizer], check=True)
    return model


def make(folder, tokenizer):
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    words = AutoTokenizer.from_pretrained(tokenizer)
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=12,
        intermediate_size=3072,
        vocab_size=len(words),
        max_position_embeddings=2048,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        tie_word_embeddings=False,
    )
    words.model_max_length = 2048
    words.save_pretrained(folder)
    LlamaForCausalLM(config).float().save_pretrained(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--taper", type=Path, help="the program")
    parser.add_argument("--data", type=Path, default=os.environ.get("TAPER_TEST_DATA"), help="the folder of test data")
    parser.add_argument("--folder", type=Path, help="where the random checkpoint is written")
    parser.add_argument("--models", default="small,large")
    parser.add_argument("--tasks", default=",".join(name for name, *_ in TASKS))
    parser.add_argument("--batches", default="1,8", help="batch sizes of lm_eval, one subject each")
    parser.add_argument("--threads", default="2", help="threads, tables of their own each")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=int, help="documents of each task, if not as its table says")
    parser.add_argument("--quick", action="store_true", help="4 documents of each task: does it run?")
    parser.add_argument("--json", type=Path, help="write every run here")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--tokenizer", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        return make(args.make, args.tokenizer)
    if not args.data:
        parser.error("--data, or TAPER_TEST_DATA, names the folder of test data")
    small, results, wanted = args.data / "models" / SMALL, [], args.tasks.split(",")
    for threads in map(int, args.threads.split(",")):
        for kind in args.models.split(","):
            label, model = (SMALL, small) if kind == "small" else ("random, 119M parameters", large(args.folder, small))
            for task, _, few, fewer in (row for row in TASKS if row[0] in wanted):
                limit = args.limit or (4 if args.quick else few if kind == "small" else fewer)
                results.append(compare(args, label, model, task, limit, threads))
    if args.json:
        args.json.write_text(json.dumps({"rounds": args.rounds, "results": results}, indent=1) + "\n")
    sys.exit(0 if all(result["good"] for result in results) else 1)


if __name__ == "__main__":
    main()
