"""Training throughput and memory: `taper heal` against PyTorch, in turns on this machine.

    scripts/bench_heal.sh --threads 2 --rounds 3 --steps 6

The same Llama with random weights, the same tokens a step, f32, AdamW, next-token loss, norm clipped: all weights, or LoRA of
rank 16 on all linears of blocks (PEFT). PyTorch eager and `torch.compile`, fused AdamW. A round is one process each; of it
count the median step but for the first ones, and the process's peak memory in all, import of libraries included. For the
memory without them, the least process that has imported them is measured, too.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

from bench_common import Shape, spread, table

SHAPES = {
    "15M": Shape(d_model=288, blocks=6, heads=6, d_ff=768, vocab=32000, sequences=8, length=256),
    "100M": Shape(d_model=768, blocks=12, heads=12, d_ff=2048, vocab=32000, sequences=4, length=256),
}
SKIPPED = 2  # steps, while caches and compilers warm up


def torch_child(setting):
    import torch
    from transformers import LlamaForCausalLM

    torch.set_num_threads(setting["threads"])
    model = LlamaForCausalLM.from_pretrained(setting["model"], dtype=torch.float32)
    if setting["lora"]:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear"))
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    run = torch.compile(model) if setting["compile"] else model
    ids = torch.randint(0, 500, (setting["steps"], setting["sequences"], setting["length"]))
    seconds = []
    for batch in ids:
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss = run(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    print(json.dumps(seconds))


def peak_of(command, environment):
    """The process's output and its peak memory in bytes."""
    process = subprocess.Popen([str(x) for x in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    output, errors = process.stdout.read(), process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command[:3]} ended with {status}: {errors.decode()[-2000:]}")
    return output, usage.ru_maxrss * 1024


def environment(threads):
    names = ("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    return os.environ | dict.fromkeys(names, str(threads)) | {"HF_HUB_OFFLINE": "1"}


def of_taper(args, folder, shape, model, lora):
    out = folder / "healed"
    shutil.rmtree(out, ignore_errors=True)
    command = [args.taper, "heal", model, "--data", args.text, "--separator", "<|endoftext|>", "--out", out]
    numbers = {"steps": args.steps, "sequences": shape.sequences, "length": shape.length, "rate": 1e-5, "threads": args.threads}
    told = [argument for key, value in numbers.items() for argument in (f"--{key}", value)]
    sets = {"validation": {"sequences": 1, "every": 1000}, "lora": {"rank": 16} if lora else None}
    told += [argument for key, value in sets.items() for argument in ("--set", f"{key}={json.dumps(value)}")]
    _, peak = peak_of([*command, *told, "--progress", "silent"], environment(args.threads))
    (metrics,) = out.glob("heal.work/*/metrics.jsonl")
    times = [json.loads(line).get("seconds") for line in metrics.read_text().splitlines()]
    times = [time for time in times if time is not None]
    shutil.rmtree(out)
    return statistics.median(b - a for a, b in zip(times[SKIPPED - 1 :], times[SKIPPED:])), peak


def of_torch(args, shape, model, lora, compiled):
    setting = {"model": str(model), "lora": lora, "compile": compiled, "steps": args.steps, "threads": args.threads}
    setting |= {"sequences": shape.sequences, "length": shape.length}
    output, peak = peak_of([sys.executable, __file__, "--child", json.dumps(setting)], environment(args.threads))
    return statistics.median(json.loads(output)[SKIPPED:]), peak


def measure(args, folder, name, lora):
    shape = SHAPES[name]
    setting = shape.setting(folder)
    model = pathlib.Path(setting["model"])
    for file in ("tokenizer.json", "tokenizer_config.json"):  # the smallest one there is: its ids are below any vocabulary
        shutil.copyfile(args.tokenizer / file, model / file)
    subjects = {"taper": lambda: of_taper(args, folder, shape, model, lora)}
    for compiled in (False, True) if args.compile else (False,):
        subjects["compiled" if compiled else "eager"] = lambda compiled=compiled: of_torch(args, shape, model, lora, compiled)
    found = {subject: [] for subject in subjects}
    for index in range(args.rounds):
        order = list(subjects)
        for subject in order[index % len(order) :] + order[: index % len(order)]:
            found[subject].append(subjects[subject]())
    tokens = shape.sequences * shape.length
    rows = []
    for subject, runs in found.items():
        rates = [tokens / seconds for seconds, _ in runs]
        faster = [seconds / own for (seconds, _), (own, _) in zip(runs, found["taper"])]
        memory = statistics.median(peak for _, peak in runs)
        share = statistics.median(peak for _, peak in found["taper"]) / memory
        of_data = (statistics.median(peak for _, peak in found["taper"]) - args.idle_taper) / (memory - args.idle_torch)
        rows.append([name, "LoRA" if lora else "full", subject, spread(rates), spread(faster), f"{memory / 1e6:.0f} MB",
                     f"{share:.2f}", "" if subject == "taper" else f"{of_data:.2f}"])
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--taper", type=pathlib.Path, help="the binary")
    parser.add_argument("--folder", type=pathlib.Path, help="for models, kept")
    parser.add_argument("--text", type=pathlib.Path, help="a .txt file to train on")
    parser.add_argument("--tokenizer", type=pathlib.Path, help="a folder with tokenizer.json")
    parser.add_argument("--sizes", default="15M,100M")
    parser.add_argument("--kinds", default="full,LoRA")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--compile", action="store_true", help="torch.compile, too")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return torch_child(json.loads(args.child))
    args.folder.mkdir(parents=True, exist_ok=True)
    _, args.idle_taper = peak_of([args.taper, "methods"], environment(args.threads))
    imports = "import torch, transformers, peft; from transformers import LlamaForCausalLM"
    _, args.idle_torch = peak_of([sys.executable, "-c", imports], environment(args.threads))
    rows = []
    for size in args.sizes.split(","):
        for kind in args.kinds.split(","):
            rows += measure(args, args.folder, size, kind == "LoRA")
            print(rows[-1], file=sys.stderr)
    print(table(["size", "trained", "", "tokens/s", "taper is faster", "peak", "taper's share", "without libraries"], rows))


if __name__ == "__main__":
    main()
