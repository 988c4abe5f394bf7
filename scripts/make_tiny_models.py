"""Writes the tiny models of crates/model/golden: one folder a family feature, with logits and all gradients.

    python scripts/make_tiny_models.py            # rewrites crates/model/golden

Each folder holds `config.json`, `model.safetensors` (random weights from a seed, in the dtype that the model is named
with) and `golden.safetensors`: `input_ids` [2, 24] i64, `logits` [2, 24, 64] f32, `loss` [] f32 (mean over all shifted
positions) and `grad.<parameter>` f32 of that loss for every parameter. Computed by stock transformers in f32 from the
stored weights, eager attention. Norm weights are far from 1, biases far from 0, attention far from uniform, so that
a forgotten one is seen. The same seed gives the same files.
"""

import json
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

import reference

SEED = 20260217
VOCAB, BATCH, LENGTH = 64, 2, 24
TARGET = Path(__file__).resolve().parent.parent / "crates/model/golden"

COMMON = {
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 128,
    "use_cache": True,
    "vocab_size": VOCAB,
}


def config(family, hidden, layers, heads, kv, channels, **more):
    """A config.json as the Hub has them: the family's class, sizes, and `more`."""
    return COMMON | {
        "architectures": [f"{family.capitalize()}ForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": channels,
        "model_type": family,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv,
        **more,
    }


# Wavelengths of its four frequencies: 6 (kept), 30 (on the ramp), 140 and 660 (stretched).
LLAMA3 = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 64,
    "rope_type": "llama3",
}

# Sizes differ on purpose: head_dim is hidden / heads in some and not in others, old and new configuration keys occur.
MODELS = {
    "llama-bias": config(
        "llama", 32, 2, 4, 2, 40, attention_bias=True, mlp_bias=True, rms_norm_eps=1e-5, rope_theta=1e4,
        tie_word_embeddings=False, torch_dtype="float32",
    ),
    "llama-gqa-rope3": config(
        "llama", 24, 3, 6, 2, 40, head_dim=8, rms_norm_eps=1e-5, rope_theta=500.0, rope_scaling=LLAMA3,
        tie_word_embeddings=True, torch_dtype="bfloat16",
    ),
    "llama-linear-rope": config(
        "llama", 24, 2, 3, 3, 32, rms_norm_eps=1e-6, rope_theta=1e4, rope_scaling={"factor": 2.0, "type": "linear"},
        tie_word_embeddings=False, torch_dtype="float16",
    ),
    "llama-mha": config(
        "llama", 24, 2, 3, 3, 40, rms_norm_eps=1e-5, rope_theta=1e4, rope_scaling=None, tie_word_embeddings=False,
        torch_dtype="float32",
    ),
    "mistral-window": config(
        "mistral", 32, 2, 4, 2, 40, head_dim=8, rms_norm_eps=1e-5, rope_theta=1e4, sliding_window=8,
        tie_word_embeddings=False, torch_dtype="bfloat16",
    ),
    "qwen2-gqa": config(
        "qwen2", 32, 3, 4, 2, 40, rms_norm_eps=1e-6, rope_theta=1e6, sliding_window=None, use_sliding_window=False,
        max_window_layers=28, tie_word_embeddings=True, torch_dtype="bfloat16",
    ),
    "qwen3-gqa": config(
        "qwen3", 24, 2, 4, 2, 40, head_dim=24, attention_bias=False, rms_norm_eps=1e-6,
        rope_parameters={"rope_theta": 1e6, "rope_type": "default"}, sliding_window=None, use_sliding_window=False,
        max_window_layers=28, layer_types=["full_attention"] * 2, tie_word_embeddings=True, dtype="float32",
    ),
}  # fmt: skip


def weights(model, generator):
    """Random values for every parameter, in the order of their names."""
    tied = model.config.tie_word_embeddings
    out = {}
    for name, parameter in sorted(model.named_parameters()):
        shape = parameter.shape
        if "norm" in name:
            value = 0.5 + torch.rand(shape, generator=generator)
        elif name.endswith("bias"):
            value = 0.5 * torch.randn(shape, generator=generator)
        elif "embed_tokens" in name:
            value = (0.4 if tied else 1.0) * torch.randn(shape, generator=generator)
        else:
            value = 1.2 * shape[1] ** -0.5 * torch.randn(shape, generator=generator)
        out[name] = value
    return out


def write(name, folder):
    settings = MODELS[name]
    generator = torch.Generator().manual_seed(SEED + sorted(MODELS).index(name))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    stored = getattr(torch, settings.get("torch_dtype") or settings["dtype"])
    empty = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(folder))
    tensors = {key: value.to(stored) for key, value in weights(empty, generator).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    model = reference.load(folder)
    ids = torch.randint(0, VOCAB, (BATCH, LENGTH), generator=generator)
    loss, logits = reference.backward(model, ids)
    golden = {"input_ids": ids, "logits": logits.contiguous(), "loss": torch.tensor(loss)} | reference.gradients(model)
    save_file(golden, folder / "golden.safetensors")
    check(name, model, ids, logits)
    print(f"{name}: loss {loss:.4f}, {sum(t.numel() for t in tensors.values())} parameters")


def check(name, model, ids, logits):
    """What the goldens rest on: every gradient is seen, and the features named are in force."""
    for key, parameter in model.named_parameters():
        # a bias of k shifts all scores of a query alike only without rope, so even that one has a gradient
        assert parameter.grad.abs().max() > 1e-5, (name, key)
    if name == "mistral-window":
        model.config.sliding_window = None
        wide = model(input_ids=ids, use_cache=False).logits
        assert torch.equal(wide[:, :8], logits[:, :8]) and (wide[:, 8:] - logits[:, 8:]).abs().max() > 0.1


def note(total):
    """Where the goldens come from, beside them."""
    return f"""# Provenance of the tiny models in this folder. Rewrite all with: python scripts/make_tiny_models.py
script = "scripts/make_tiny_models.py"
seed = {SEED}
torch = "{torch.__version__.split("+")[0]}"
transformers = "{transformers.__version__}"
device = "cpu, one thread, float32, eager attention"
bytes = {total}

[tolerance]
# Largest |difference| allowed against the reference: two f32 implementations that sum in another order. The reference
# itself is within 1.2e-5 (logits), 6e-7 (loss) and 3e-6 (gradients) of the same model in float64.
logits = 1e-4
loss = 1e-5
# Relative to the largest |entry| of the same gradient.
gradient = 1e-4
"""


def main():
    with tempfile.TemporaryDirectory(dir=TARGET.parent) as fresh:
        for name in sorted(MODELS):
            write(name, Path(fresh) / name)
        files = sorted(path for path in Path(fresh).rglob("*") if path.is_file())
        total = sum(path.stat().st_size for path in files)
        assert total < 1 << 20, f"goldens take {total} bytes, more than 1 MiB"
        for path in files:
            target = TARGET / path.relative_to(fresh)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
        (TARGET / "README.toml").write_text(note(total))
    print(f"{total} bytes in {TARGET}")


if __name__ == "__main__":
    main()
