"""Independent PyTorch reference shared by the scripts of this folder: load, loss, gradients, masking and cutting.

Everything runs on the CPU in float32 with one thread and eager attention, so two runs give the same bits.
A *candidate* is a list with one entry a block, `{"attention": [heads] | null, "mlp": [channels] | null}`: the query
heads and MLP channels kept, by number; `null` removes the sub-block, which is then by-passed through the residual.
"""

import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
_MODULES = tempfile.TemporaryDirectory()  # where transformers copies remote code to; gone when Python ends
os.environ["HF_MODULES_CACHE"] = _MODULES.name

import torch
import transformers
from transformers import AutoModelForCausalLM

transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")


def load(folder):
    """The checkpoint in `folder`, weights upcast to f32 from whatever they are stored as, eager attention."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval()


def tokens(path, sequences, length):
    """The first `sequences * length` ids of a JSON file (a list, or an object with `ids`), [sequences, length]."""
    ids = json.loads(Path(path).read_text())
    ids = ids["ids"] if isinstance(ids, dict) else ids
    if len(ids) < sequences * length:
        raise SystemExit(f"{path}: holds {len(ids)} ids, wanted {sequences} x {length}")
    return torch.tensor(ids[: sequences * length], dtype=torch.long).view(sequences, length)


def loss_of(logits, ids):
    """Mean cross entropy in nats over all shifted positions. logits [b, t, v], ids [b, t]."""
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def backward(model, ids):
    """Loss and logits of `ids`; afterwards every parameter's `.grad` holds the gradient of the mean loss."""
    model.zero_grad(set_to_none=True)
    logits = model(input_ids=ids, use_cache=False).logits  # [b, t, v]
    loss = loss_of(logits, ids)
    loss.backward()
    return loss.item(), logits.detach()


def gradients(model):
    """`grad.<name>` -> gradient of every parameter; a tied head is one parameter, under the embedding's name."""
    return {f"grad.{name}": p.grad.detach().contiguous() for name, p in model.named_parameters()}


def projections(layer):
    """The weight matrices of one block, in the order in which their gradients are concatenated."""
    return {
        "attention": {name: getattr(layer.self_attn, name).weight for name in ATTENTION},
        "mlp": {name: getattr(layer.mlp, name).weight for name in MLP},
    }


def head_dim(model):
    config = model.config
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def head_columns(heads, d_head):
    """Columns of o_proj (rows of q_proj) that belong to `heads`."""
    return [head * d_head + i for head in heads for i in range(d_head)]


def _mask(linear, kept):
    keep = torch.zeros(linear.in_features)
    keep[kept] = 1.0
    return linear.register_forward_pre_hook(lambda _, inputs: (inputs[0] * keep, *inputs[1:]))


def _bypass(module):
    def zero(_, __, output):
        return (torch.zeros_like(output[0]), *output[1:]) if isinstance(output, tuple) else torch.zeros_like(output)

    return module.register_forward_hook(zero)


@contextmanager
def masked(model, candidate):
    """`model` as `candidate` inside the `with`: head outputs and channels multiplied by 0 or 1, no weight touched."""
    hooks, d_head = [], head_dim(model)
    try:
        for layer, kept in zip(model.model.layers, candidate, strict=True):
            heads, channels = kept["attention"], kept["mlp"]
            attention, mlp = layer.self_attn, layer.mlp
            hooks.append(_bypass(attention) if heads is None else _mask(attention.o_proj, head_columns(heads, d_head)))
            hooks.append(_bypass(mlp) if channels is None else _mask(mlp.down_proj, channels))
        yield model
    finally:
        for hook in hooks:
            hook.remove()


def cut(model, candidate):
    """The weights of the cut model and one shape a block: (tensors, [{"heads", "kv", "channels"}]), `None` if removed.

    A KV group without a kept head goes; the others must keep equally many heads each. A block without both halves
    is dropped and the later ones are renumbered; a removed half leaves no weight, its norm included.
    """
    source, tensors, shapes, d_head = model.state_dict(), {}, [], head_dim(model)
    in_group = model.config.num_attention_heads // model.config.num_key_value_heads
    for name, tensor in source.items():
        tied = name == "lm_head.weight" and model.config.tie_word_embeddings
        if ".layers." not in name and not tied:
            tensors[name] = tensor.clone()
    for index, kept in enumerate(candidate):
        heads, channels = kept["attention"], kept["mlp"]
        if heads is None and channels is None:
            continue
        shape = {"heads": None, "kv": None, "channels": channels and len(channels)}
        rows = {"gate_proj": channels, "up_proj": channels}
        if heads is not None:
            groups = sorted({head // in_group for head in heads})
            if len({sum(head // in_group == group for head in heads) for group in groups}) != 1:
                raise ValueError(f"block {index}: KV groups keep different numbers of heads, no stock layout has that")
            shape |= {"heads": len(heads), "kv": len(groups)}
            rows |= {"q_proj": head_columns(heads, d_head)}
            rows |= dict.fromkeys(("k_proj", "v_proj"), head_columns(groups, d_head))
            rows |= {"o_proj": head_columns(heads, d_head)}
        rows |= {"down_proj": channels}
        prefix, target = f"model.layers.{index}.", f"model.layers.{len(shapes)}."
        for name, tensor in source.items():
            if not name.startswith(prefix):
                continue
            part = name[len(prefix) :]
            if (heads is None and part.startswith(("self_attn", "input_layernorm"))) or (
                channels is None and part.startswith(("mlp", "post_attention_layernorm"))
            ):
                continue
            keep = rows.get(part.split(".")[1])
            if keep is not None and not part.endswith(("o_proj.bias", "down_proj.bias")):
                tensor = tensor[:, keep] if part.startswith(("self_attn.o_proj", "mlp.down_proj")) else tensor[keep]
            tensors[target + part] = tensor.clone().contiguous()
        shapes.append(shape)
    return tensors, shapes
