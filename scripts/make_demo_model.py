#!/usr/bin/env python3
"""Makes the demo model and its text, `recipes/demo/`, from nothing but a seed.

1. `demo_corpus.py` writes training and held-out documents (no outside text, no overlap).
2. A byte-level BPE of 512 entries is trained on the training documents. Digits stand alone. It adds no special tokens.
3. A Llama of six layers is trained on the CPU. Half of the documents are wrapped as `<|bos|>text<|eos|>`, half are raw
   and end with a blank line, so the model reads plain files as well as marked documents.
4. The checkpoint is written in f16, read back, and all figures of `README.md` are measured on what was read back.

    pip install -r scripts/requirements.txt
    python scripts/make_demo_model.py            # --help lists the options; the defaults made what the repository ships

Same seed, same Python and tokenizers: the same bytes of text and tokenizer. Same torch, thread count and kind of CPU as
well: the same bytes of weights. Elsewhere rounding differs, and training carries it into the figures.
"""

import argparse
import json
import math
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import safetensors.torch
import tokenizers
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import demo_corpus

BOS, EOS = "<|bos|>", "<|eos|>"
VOCAB, WINDOW = 512, 512
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "head_dim": 16,
    "hidden_act": "silu",
    "hidden_size": 96,
    "initializer_range": 0.02,
    "intermediate_size": 256,
    "max_position_embeddings": WINDOW,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 8,
    "num_hidden_layers": 6,
    "num_key_value_heads": 4,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "float16",
    "use_cache": True,
    "vocab_size": VOCAB,
}
D_HEAD, GROUP = 16, 2  # d_head; query heads that share a KV head


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Byte-level BPE; every byte has a token, so any text can be read."""
    tokenizer = Tokenizer(models.BPE())
    split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=[BOS, EOS], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts, trainer)
    assert tokenizer.get_vocab_size() == VOCAB and tokenizer.encode(BOS).ids == [0]
    return tokenizer


def training_stream(tokenizer: Tokenizer, texts: list[str], seed: int) -> torch.Tensor:
    """Token ids of all documents in one row, half of them marked and half raw; `[windows, WINDOW + 1]`."""
    marked = np.random.default_rng(seed).random(len(texts)) < 0.5
    rows = [f"{BOS}{text}{EOS}" if mark else f"{text}\n\n" for text, mark in zip(texts, marked, strict=True)]
    ids = [i for encoding in tokenizer.encode_batch(rows) for i in encoding.ids]
    windows = len(ids) // (WINDOW + 1)
    return torch.tensor(ids[: windows * (WINDOW + 1)]).view(windows, WINDOW + 1)


def decay_groups(model: torch.nn.Module, decay: float) -> list[dict]:
    """Weight decay for matrices only: the norms keep their scale."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    return [{"params": matrices, "weight_decay": decay},
            {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0}]


def train(model: LlamaForCausalLM, data: torch.Tensor, args: argparse.Namespace) -> None:
    """AdamW with linear warm-up and cosine decay to zero; windows are drawn without replacement within a pass."""
    optimizer = torch.optim.AdamW(decay_groups(model, 0.05), lr=args.lr, betas=(0.9, 0.98))
    warmup, started = max(1, args.steps // 25), time.monotonic()
    order = torch.Generator().manual_seed(args.seed)
    queue = torch.empty(0, dtype=torch.long)
    model.train()
    for step in range(args.steps):
        if len(queue) < args.batch:
            queue = torch.cat([queue, torch.randperm(len(data), generator=order)])
        rows, queue = data[queue[: args.batch]], queue[args.batch :]
        scale = min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * step / args.steps)))
        for group in optimizer.param_groups:
            group["lr"] = args.lr * scale
        logits = model(input_ids=rows[:, :-1]).logits  # [batch, WINDOW, VOCAB]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0 or step + 1 == args.steps:
            print(f"step {step:5} loss {loss.item():.4f} {time.monotonic() - started:.0f} s", flush=True)


@torch.inference_mode()
def held_out_loss(model: LlamaForCausalLM, ids: torch.Tensor) -> float:
    """Nats per token over windows of the raw text, the first token of each window unscored; no BOS."""
    total, count = 0.0, 0
    for rows in ids.split(16):
        logits = model(input_ids=rows[:, :-1]).logits.flatten(0, 1)
        total += torch.nn.functional.cross_entropy(logits, rows[:, 1:].flatten(), reduction="sum").item()
        count += rows[:, 1:].numel()
    return total / count


def unigram_entropy(ids: torch.Tensor) -> float:
    """Entropy of the token frequencies of the text itself, in nats: the best that a model without context can do."""
    frequency = torch.bincount(ids.flatten(), minlength=VOCAB).double()
    frequency = frequency[frequency > 0] / frequency.sum()
    return -(frequency * frequency.log()).sum().item()


@contextmanager
def removed(module: torch.nn.Module, attention: bool) -> Iterator[None]:
    """While it is open the sub-block adds nothing to the residual stream."""
    hook = module.register_forward_hook(
        lambda _m, _i, out: (torch.zeros_like(out[0]), *out[1:]) if attention else torch.zeros_like(out))
    try:
        yield
    finally:
        hook.remove()


def channel_size(layer: torch.nn.Module) -> torch.Tensor:
    """Sum of squares of the weights of each MLP channel: rows of gate and up, column of down; `[d_ff]`."""
    mlp = layer.mlp
    return (mlp.gate_proj.weight**2).sum(1) + (mlp.up_proj.weight**2).sum(1) + (mlp.down_proj.weight**2).sum(0)


def head_size(layer: torch.nn.Module) -> torch.Tensor:
    """Sum of squares of the weights of each query head: rows of q, columns of o; `[n_heads]`."""
    attention = layer.self_attn
    return ((attention.q_proj.weight**2).sum(1) + (attention.o_proj.weight**2).sum(0)).view(-1, D_HEAD).sum(1)


@torch.no_grad()
def halved_loss(model: LlamaForCausalLM, ids: torch.Tensor, rank: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """Loss with the lower-ranked half of the MLP channels and one of the two query heads of each KV group cut."""
    kept_weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for layer in model.model.layers:
        channels, heads = rank(channel_size(layer)), rank(head_size(layer)).view(-1, GROUP)
        layer.mlp.down_proj.weight[:, channels.argsort()[: len(channels) // 2]] = 0
        lower = heads.argmin(1) + GROUP * torch.arange(len(heads))  # [n_kv_heads]
        layer.self_attn.o_proj.weight.view(-1, 2 * len(heads), D_HEAD)[:, lower] = 0
    loss = held_out_loss(model, ids)
    model.load_state_dict(kept_weights)
    return loss


def figures(model: LlamaForCausalLM, ids: torch.Tensor) -> dict:
    """Everything that `README.md` reports, measured on the held-out text."""
    layers = model.model.layers
    out = {"params": sum(p.numel() for p in model.parameters()), "tokens": ids.numel(),
           "loss": held_out_loss(model, ids), "entropy": unigram_entropy(ids), "attention": [], "mlp": []}
    for layer in layers:
        for kind, module in (("attention", layer.self_attn), ("mlp", layer.mlp)):
            with removed(module, kind == "attention"):
                out[kind].append(held_out_loss(model, ids))
    out["magnitude"] = halved_loss(model, ids, lambda size: size)
    out["reversed"] = halved_loss(model, ids, lambda size: -size)
    dice = torch.Generator().manual_seed(0)
    out["random"] = [halved_loss(model, ids, lambda size: torch.rand(len(size), generator=dice)) for _ in range(5)]
    return out


def write_checkpoint(folder: Path, model: LlamaForCausalLM, tokenizer: Tokenizer) -> None:
    """The folder in the classic Hub layout; the configuration is written by hand to keep its classic keys."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {n: t.half().contiguous() for n, t in model.state_dict().items() if n != "lm_head.weight"}
    safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # save_file leaves it readable by its owner only
    tokenizer.save(str(folder / "tokenizer.json"))
    version = {"transformers_version": transformers.__version__}
    marks = {"bos_token": BOS, "eos_token": EOS}
    tables = {
        "config.json": CONFIG | version,
        "generation_config.json": {"_from_model_config": True, "bos_token_id": 0, "eos_token_id": 1} | version,
        "tokenizer_config.json": {"add_bos_token": False, "add_eos_token": False, **marks,
                                  "clean_up_tokenization_spaces": False, "model_max_length": WINDOW,
                                  "tokenizer_class": "PreTrainedTokenizerFast"},
    }
    for name, table in tables.items():
        (folder / name).write_text(json.dumps(table, indent=2, sort_keys=True) + "\n")


def readme(f: dict, args: argparse.Namespace, seconds: float, documents: list[str]) -> str:
    """The page beside the model."""
    rows = "\n".join(f"| {i} | {a:.3f} | +{a - f['loss']:.3f} | {m:.3f} | +{m - f['loss']:.3f} |"
                     for i, (a, m) in enumerate(zip(f["attention"], f["mlp"], strict=True)))
    chance = torch.tensor(f["random"])
    options = " ".join(f"--{name} {getattr(args, name)}" for name in ("seed", "steps", "batch", "lr", "threads"))
    versions = [f"{m.__name__} {m.__version__.split('+')[0]}" for m in (torch, transformers, tokenizers, np)]
    heads, groups = CONFIG["num_attention_heads"], CONFIG["num_key_value_heads"]
    d_model, d_ff, layers = CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["num_hidden_layers"]
    return f"""# The demo model

A language model small enough to live in the repository and good enough that pruning has something to lose. It knows
the small invented world of `scripts/demo_corpus.py` and nothing else. Text, tokenizer and weights are made by the
project from a seed; nothing here comes from another source.

| file | what |
| --- | --- |
| `model/` | Llama checkpoint: f16, one shard, config with the classic keys |
| `text.txt` | {len(documents)} held-out documents, one blank line between two, none inside one |

Made in {seconds / 60:.0f} minutes on {args.threads} CPU threads by

```text
python scripts/make_demo_model.py {options}
```

with Python {platform.python_version()}, {", ".join(versions)}.
The script says what is reproducible to the byte.

- Shape: {layers} layers, hidden {d_model}, {heads} query heads on {groups} KV heads of {D_HEAD}, FFN {d_ff}, tied
  embeddings, {WINDOW} positions: **{f['params']:,} parameters**. `q_proj` is {heads * D_HEAD} × {d_model}: heads × head
  size is not the hidden size.
- Tokenizer: byte-level BPE, {VOCAB} entries, digits alone, `{BOS}` = 0, `{EOS}` = 1. **It never adds them.** In
  training half of the documents stood between the two and half were raw and ended with a blank line, so `text.txt`
  can be read as it is.
- Held-out loss: **{f['loss']:.4f} nats per token** on `text.txt`, read as one row of {f['tokens']:,} tokens without
  BOS and cut into windows of {WINDOW + 1}, of which all but the first token are scored; f32 arithmetic on the f16
  weights.
- Unigram entropy of the same tokens: **{f['entropy']:.4f} nats**. The loss is {100 * f['loss'] / f['entropy']:.1f}% of
  it.

## Loss when one sub-block is removed

| layer | without attention | rise | without MLP | rise |
| --- | --- | --- | --- | --- |
{rows}

## Loss with half of every layer cut, without healing

Each layer keeps {d_ff // 2} of {d_ff} MLP channels and one of the {GROUP} query heads of each KV group.

| kept by | loss |
| --- | --- |
| largest weights (sum of squares of the unit's rows and columns) | {f['magnitude']:.3f} |
| chance, mean of {len(chance)} draws ({chance.min():.3f} to {chance.max():.3f}) | {chance.mean():.3f} |
| smallest weights | {f['reversed']:.3f} |
"""


def parse() -> argparse.Namespace:
    """The options; the defaults made what the repository ships."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parent.parent
    parser.add_argument("--out", type=Path, default=here / "recipes" / "demo", help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of text, weights and order")
    parser.add_argument("--steps", type=int, default=3300, help="optimizer steps")
    parser.add_argument("--batch", type=int, default=6, help=f"windows of {WINDOW} tokens in a step")
    parser.add_argument("--lr", type=float, default=4e-3, help="highest learning rate")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch")
    parser.add_argument("--train-chars", type=int, default=16_000_000, help="size of the training text")
    parser.add_argument("--held-out-chars", type=int, default=275_000, help="size of text.txt")
    return parser.parse_args()


def main() -> None:
    """Text, tokenizer, training, checkpoint, figures."""
    args, started = parse(), time.monotonic()
    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(args.seed)
    seen: set[str] = set()
    held_out = demo_corpus.documents(args.seed, "held-out", args.held_out_chars, seen)
    texts = demo_corpus.documents(args.seed, "training", args.train_chars, seen)
    tokenizer = train_tokenizer(texts)
    data = training_stream(tokenizer, texts, args.seed)
    print(f"{len(texts)} training documents, {data.numel()} tokens; {args.steps * args.batch / len(data):.2f} passes")
    model = LlamaForCausalLM(LlamaConfig(**{k: v for k, v in CONFIG.items() if k != "torch_dtype"}))
    train(model, data, args)

    write_checkpoint(args.out / "model", model, tokenizer)
    plain = "\n\n".join(held_out) + "\n"
    (args.out / "text.txt").write_text(plain)
    stored = AutoModelForCausalLM.from_pretrained(args.out / "model", dtype=torch.float32).eval()
    ids = torch.tensor(tokenizer.encode(plain).ids)
    ids = ids[: len(ids) // (WINDOW + 1) * (WINDOW + 1)].view(-1, WINDOW + 1)  # [windows, WINDOW + 1]
    trained = time.monotonic() - started
    found = figures(stored, ids)
    print(json.dumps(found, indent=1))
    (args.out / "README.md").write_text(readme(found, args, trained, held_out))
    size = sum(p.stat().st_size for p in args.out.rglob("*") if p.is_file())
    print(f"loss / unigram entropy {found['loss'] / found['entropy']:.3f}; {size} bytes in {args.out}; {trained:.0f} s")


if __name__ == "__main__":
    main()
