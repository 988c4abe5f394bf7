"""taper bench beside transformers' generate: one model, greedy, f32, same threads, in turns.

    python scripts/bench_generate.py target/release/taper MODEL --prompt 256 --generate 64 --batch 1,8 --threads 1 --turns 5

Wants torch and transformers. Prints medians with the lowest and the highest over turns; each turn warms up once.
"""

import argparse
import json
import os
import statistics
import subprocess
import time


def transformers_times(model, torch, prompt, generate, batch):
    """Seconds to the first token, and per further token, by two calls: one token, then all."""
    ids = torch.randint(0, model.config.vocab_size, (batch, prompt), generator=torch.Generator().manual_seed(0))

    def run(count):
        start = time.perf_counter()
        with torch.inference_mode():
            model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, min_new_tokens=count,
                           do_sample=False, pad_token_id=0)
        return time.perf_counter() - start

    run(min(2, generate))
    first, total = run(1), run(generate)
    return first, (total - first) / (generate - 1)


def taper_times(binary, args, batch):
    command = [binary, "bench", args.model, "--prompt", str(args.prompt), "--generate", str(args.generate), "--batch",
               str(batch), "--threads", str(args.threads), "--repetitions", "1", "--json", "--progress", "silent"]
    environment = {**os.environ, "RAYON_NUM_THREADS": str(args.threads)}
    report = json.loads(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)["batches"][0]
    return report["first_token"]["median"], report["token"]["median"]


def show(samples):
    low, middle, high = (1e3 * f(samples) for f in (min, statistics.median, max))
    return f"{middle:8.2f} ms ({low:.2f}-{high:.2f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("taper")
    parser.add_argument("model")
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--generate", type=int, default=64)
    parser.add_argument("--batch", default="1,8")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=5)
    args = parser.parse_args()
    import torch
    import transformers

    torch.set_num_threads(args.threads)
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {args.threads} threads, prompt {args.prompt}, "
          f"{args.generate} tokens, {args.turns} turns")
    for batch in map(int, args.batch.split(",")):
        rows = {"transformers": [], "taper": []}
        for _ in range(args.turns):
            rows["transformers"].append(transformers_times(model, torch, args.prompt, args.generate, batch))
            rows["taper"].append(taper_times(args.taper, args, batch))
        for name, samples in rows.items():
            first, token = (show([sample[i] for sample in samples]) for i in (0, 1))
            print(f"batch {batch}, {name:<12}: first token {first}, per token {token}")


if __name__ == "__main__":
    main()
