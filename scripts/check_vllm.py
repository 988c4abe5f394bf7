"""Runs vLLM's own `nemotron_nas.py` on a folder that `taper export --to vllm` wrote, and compares logits with taper's.

    pip download vllm==0.33.0 --no-deps && python scripts/check_vllm.py --wheel vllm-*.whl --model FOLDER --taper target/release/taper

vLLM itself needs a GPU, and its package compiled parts; the file that builds and loads such models needs neither. It is taken from the
wheel as it is, and what it imports from the rest of vLLM is replaced by plain PyTorch of the same parameters: names, shapes and
values of the folder meet the code that vLLM would build the model with. Python needs torch, transformers, safetensors. Exit code 1 if
logits differ by more than 1e-4.
"""

import argparse
import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile
import types
import zipfile

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

SOURCE = "vllm/model_executor/models/nemotron_nas.py"


class RMSNorm(nn.Module):
    """With a residual: adds it first and gives both back, as vLLM's does."""

    def __init__(self, size, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.empty(size)), eps

    def forward(self, x, residual=None):
        total = x if residual is None else x + residual
        out = total * torch.rsqrt(total.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight
        return out if residual is None else (out, total)


class LlamaAttention(nn.Module):
    def __init__(self, config, hidden_size, num_heads, num_kv_heads, positions, quant, bias, bias_o, cache, prefix, kind):
        super().__init__()
        # as vLLM's: `head_dim` of the configuration, or what the heads leave
        self.head_dim = getattr(config, "head_dim", None) or hidden_size // num_heads
        self.heads, self.kv_heads, self.max_position_embeddings = num_heads, num_kv_heads, positions
        self.qkv_proj = nn.Linear(hidden_size, (num_heads + 2 * num_kv_heads) * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(num_heads * self.head_dim, hidden_size, bias=bias_o)
        self._init_rotary_emb(config, quant)

    def forward(self, positions, hidden_states):
        sizes = [n * self.head_dim for n in (self.heads, self.kv_heads, self.kv_heads)]
        q, k, v = (x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for x in self.qkv_proj(hidden_states).split(sizes, -1))
        q, k = apply_rotary_pos_emb(q, k, *self.rotary_emb(v, positions))
        out = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.o_proj(out.transpose(1, 2).flatten(-2))


class LlamaMLP(nn.Module):
    def __init__(self, hidden_size, intermediate_size, hidden_act, quant_config=None, bias=False, prefix=""):
        super().__init__()
        assert hidden_act == "silu"
        self.gate_up_proj = nn.Linear(hidden_size, 2 * intermediate_size, bias=bias)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=bias)

    def forward(self, x):
        gate, up = self.gate_up_proj(x).chunk(2, -1)
        return self.down_proj(nn.functional.silu(gate) * up)


class Embedding(nn.Embedding):
    def __init__(self, vocab, size, quant_config=None, prefix=""):
        super().__init__(vocab, size)

    def tie_weights(self, other):
        return other


class Group:
    is_first_rank = is_last_rank = True


def rope(head_dim, max_position, rope_parameters, is_neox_style):
    assert is_neox_style
    config = types.SimpleNamespace(head_dim=head_dim, hidden_size=None, num_attention_heads=None, rope_parameters=rope_parameters)
    config.max_position_embeddings, config.standardize_rope_params = max_position, lambda: None
    return LlamaRotaryEmbedding(config)


def stand_ins():
    """The modules that vLLM's file imports, with what it takes from each."""
    nothing = type("Nothing", (), {})
    mapper = type("WeightsMapper", (), {"__init__": lambda self, orig_to_new_stacked: setattr(self, "stacked", orig_to_new_stacked)})
    layers = lambda count, make, prefix: (0, count, nn.ModuleList(make(f"{prefix}.{index}") for index in range(count)))
    models, package = "vllm.model_executor.models", "vllm.model_executor.layers"
    return {
        "vllm.compilation.decorators": {"support_torch_compile": lambda model: model},
        "vllm.config": {"CacheConfig": nothing, "VllmConfig": nothing},
        "vllm.distributed": {"get_pp_group": Group},
        f"{package}.layernorm": {"RMSNorm": RMSNorm},
        f"{package}.logits_processor": {"LogitsProcessor": lambda vocab, scale: lambda head, x: scale * x @ head.weight.T},
        f"{package}.quantization": {"QuantizationConfig": nothing},
        f"{package}.rotary_embedding": {"get_rope": rope},
        f"{package}.vocab_parallel_embedding": {"ParallelLMHead": Embedding, "VocabParallelEmbedding": Embedding},
        f"{models}.llama": {"LlamaAttention": LlamaAttention, "LlamaMLP": LlamaMLP},
        "vllm.sequence": {"IntermediateTensors": dict},
        "vllm.v1.attention.backend": {"AttentionType": types.SimpleNamespace(DECODER="decoder")},
        f"{models}.interfaces": {name: type(name, (), {}) for name in ("HasNoOps", "SupportsLoRA", "SupportsPP")},
        f"{models}.utils": {
            "AutoWeightsLoader": nothing, "PPMissingLayer": nothing, "WeightsMapper": mapper, "make_layers": layers,
            "make_empty_intermediate_tensors_factory": lambda names, size: None,
            "maybe_prefix": lambda prefix, name: f"{prefix}.{name}" if prefix else name,
        },
    }  # fmt: skip


def vllm_file(wheel):
    for name, content in stand_ins().items():
        parts = name.split(".")
        for depth in range(1, len(parts)):
            package = sys.modules.setdefault(".".join(parts[:depth]), types.ModuleType(".".join(parts[:depth])))
            package.__path__ = []
        module = sys.modules[name] = types.ModuleType(name)
        vars(module).update(content)
    with tempfile.TemporaryDirectory() as place:
        path = zipfile.ZipFile(wheel).extract(SOURCE, place)
        spec = importlib.util.spec_from_file_location("vllm.model_executor.models.nemotron_nas", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def stacked(weights, mapper):
    """Tensors under vLLM's names: q, k and v in one, gate and up in one, in the order of the mapper."""
    named, parts = {}, {}
    for name, tensor in weights.items():
        found = [(old, new, part) for old, (new, part) in mapper.stacked.items() if old in name]
        if found:
            old, new, part = found[0]
            parts.setdefault(name.replace(old, new), {})[part] = tensor
        else:
            named[name] = tensor
    for name, own in parts.items():
        named[name] = torch.cat([own[part] for part in (("q", "k", "v") if "q" in own else (0, 1))])
    return named


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=pathlib.Path, required=True)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--taper", type=pathlib.Path, required=True)
    args = parser.parse_args()
    config = AutoConfig.from_pretrained(args.model, trust_remote_code=True)
    assert config.architectures == ["DeciLMForCausalLM"], config.architectures
    wanted = types.SimpleNamespace(model_config=types.SimpleNamespace(hf_config=config), cache_config=None, quant_config=None)
    model = vllm_file(args.wheel).DeciLMForCausalLM(vllm_config=wanted).float().eval()
    weights = {name: tensor.float() for name, tensor in load_file(args.model / "model.safetensors").items()}
    if config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(stacked(weights, model.hf_to_vllm_mapper), strict=True)  # every name and every shape

    ids = torch.randint(0, config.vocab_size, (4, 48), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        positions = torch.arange(48)[None]
        logits = model.compute_logits(model(ids, positions))
    with tempfile.TemporaryDirectory() as place:
        tokens, out = pathlib.Path(place) / "tokens.json", pathlib.Path(place) / "logits.safetensors"
        tokens.write_text(json.dumps(ids.flatten().tolist()))
        shape = ["--sequences", str(ids.shape[0]), "--length", str(ids.shape[1])]
        command = [args.taper, "logits", args.model, "--tokens", tokens, *shape, "-o", out, "--progress", "silent"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        own = load_file(out)["logits"].reshape(logits.shape)
    difference = (own - logits).abs().max().item()
    print(f"{args.model}: {len(config.block_configs)} blocks, largest difference of a logit {difference:.1e}")
    sys.exit(0 if difference <= 1e-4 else 1)


if __name__ == "__main__":
    main()
