"""How fast taper writes exports: against a plain copy of the weights, and against llama.cpp's quantizer.

    python scripts/bench_export.py --taper target/release/taper --model DATA/models/llama-ts-wiki-7.9m --folder target/export-bench

Makes a random Llama in bf16 (about 1 GB) with the tokenizer of `--model`, then measures in turns, `--rounds` times, each into a fresh
file: `cp` with a sync; `taper export --to transformers` and `gguf:bf16`; `taper export --to TYPE` and `llama_model_quantize` of the
bf16 file to the same type, with the same threads. Python needs numpy and llama-cpp-python. Prints medians, ranges and ratios.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import time

import llama_cpp
import numpy

TYPES = {"gguf:q4_k_s": 14, "gguf:q4_k_m": 15, "gguf:q6_k": 18, "gguf:q8_0": 7}


def make(folder, source, blocks, width, channels):
    """A random Llama: bf16, weights of spread 0.02, vocabulary and tokenizer those of `source`."""
    config = json.loads((source / "config.json").read_text())
    heads = width // 128
    config |= {"hidden_size": width, "num_hidden_layers": blocks, "intermediate_size": channels, "num_attention_heads": heads}
    config |= {"num_key_value_heads": heads // 4, "head_dim": 128, "tie_word_embeddings": False, "torch_dtype": "bfloat16"}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"):
        if (source / name).is_file():
            shutil.copy(source / name, folder / name)
    kv, vocab = 128 * (heads // 4), config["vocab_size"]
    shapes = {"model.embed_tokens.weight": (vocab, width), "lm_head.weight": (vocab, width), "model.norm.weight": (width,)}
    for block in range(blocks):
        name = f"model.layers.{block}"
        shapes |= {f"{name}.{norm}.weight": (width,) for norm in ("input_layernorm", "post_attention_layernorm")}
        shapes |= {f"{name}.self_attn.{part}_proj.weight": (width, width) for part in "qo"}
        shapes |= {f"{name}.self_attn.{part}_proj.weight": (kv, width) for part in "kv"}
        shapes |= {f"{name}.mlp.{part}_proj.weight": (channels, width) for part in ("gate", "up")}
        shapes[f"{name}.mlp.down_proj.weight"] = (width, channels)
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(numpy.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = numpy.random.default_rng(0)
    with open(folder / "model.safetensors", "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            values = rng.standard_normal(shape, dtype=numpy.float32) * (0.02 if len(shape) > 1 else 0.0) + (len(shape) == 1)
            out.write((values.astype(numpy.float32).view(numpy.uint32) >> 16).astype(numpy.uint16).tobytes())
    return offset


def timed(work, *outputs):
    """Seconds of `work`; what it makes is removed before."""
    for output in outputs:
        shutil.rmtree(output) if output.is_dir() else output.unlink(missing_ok=True)
    os.sync()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--taper", type=pathlib.Path, required=True)
    parser.add_argument("--model", type=pathlib.Path, required=True, help="its tokenizer and configuration are taken")
    parser.add_argument("--folder", type=pathlib.Path, required=True, help="for 8 GB of files, removed before")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--types", default=",".join(TYPES))
    parser.add_argument("--shape", default="20x1536x4096", help="blocks x width x channels")
    args = parser.parse_args()
    shutil.rmtree(args.folder, ignore_errors=True)
    model, out = args.folder / "model", args.folder / "out"
    size = make(model, args.model, *map(int, args.shape.split("x")))
    out.mkdir()
    print(f"{size / 1e9:.2f} GB of weights in bf16, {args.threads} threads, {args.rounds} rounds\n")
    environment = os.environ | {"RAYON_NUM_THREADS": str(args.threads)}

    def export(target):
        command = [args.taper, "export", model, "--to", target, "--out", out, "--progress", "silent"]
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)

    def copy():
        with open(model / "model.safetensors", "rb") as source, open(out / "copy", "wb") as to:
            shutil.copyfileobj(source, to, 1 << 20)
            os.fsync(to.fileno())

    def quantize(target):
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype, params.nthread = TYPES[target], args.threads
        source, to = str(out / "model-bf16.gguf").encode(), str(out / "theirs.gguf").encode()
        if llama_cpp.llama_model_quantize(source, to, params):
            raise SystemExit(f"llama_model_quantize failed for {target}")

    file = lambda target: out / f"model-{target.split(':')[1]}.gguf"
    works = {"copy": (copy, out / "copy"), "transformers": (lambda: export("transformers"), out / "model-transformers")}
    works["gguf:bf16"] = (lambda: export("gguf:bf16"), file("gguf:bf16"))
    for target in filter(None, args.types.split(",")):
        works[target] = (lambda target=target: export(target), file(target))
        works[f"llama.cpp {target}"] = (lambda target=target: quantize(target), out / "theirs.gguf")
    times = {name: [] for name in works}
    export("gguf:bf16")
    order = random.Random(0)
    for _ in range(args.rounds):
        # in another order each time: what was written before is still on its way to the disk
        for name, (work, output) in order.sample(list(works.items()), len(works)):
            times[name].append(timed(work, output))
            if name == "gguf:bf16" or name == "copy":
                continue
            shutil.rmtree(output) if output.is_dir() else output.unlink()
    print("| what | seconds, median (range) | speed against |\n|---|---|---|")
    for name, seconds in times.items():
        other = {"transformers": "copy", "gguf:bf16": "copy"}.get(name, f"llama.cpp {name}")
        ratio = statistics.median(b / a for a, b in zip(seconds, times[other])) if other in times else None
        against = f"{ratio:.2f} of {other}" if ratio else ""
        print(f"| {name} | {statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f}) | {against} |", flush=True)


if __name__ == "__main__":
    main()
