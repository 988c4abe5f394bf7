"""Checks crates/export/src/transformers/modeling_taper.py on cuts of the tiny models; exit 0 if all hold.

    python scripts/check_shim.py

For each family, cuts with other heads, KV groups and widths per layer, attention skipped in layer 0 and MLP skipped,
are written as a checkpoint by hand and loaded by stock transformers with `trust_remote_code`. Checked: no missing or
unexpected key; logits of the masked original within 1e-5; greedy generation with cache = without, also with a batch
padded on the left and with a static cache; `AutoModel`; saving and loading again; without `trust_remote_code` the load
fails instead of giving a model with random weights.
"""

import copy
import json
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM
from transformers.utils import logging

import reference

ROOT = Path(__file__).resolve().parent.parent
SHIM = ROOT / "crates/export/src/transformers/modeling_taper.py"
TOLERANCE = 1e-5


def cuts(model):
    """Candidates with at least two blocks that remain; kept heads per KV group are equal."""
    heads, width = model.config.num_attention_heads, model.config.intermediate_size
    in_group = heads // model.config.num_key_value_heads
    every, last_of_each, last_group = (
        list(range(heads)),
        list(range(in_group - 1, heads, in_group)),
        list(range(heads - in_group, heads)),
    )
    some, few = list(range(0, width, 2)), [1, 3, width - 1]

    def fill(*blocks):
        pairs = [{"attention": a, "mlp": m} for a, m in blocks]
        return (pairs + [pairs[-1]] * model.config.num_hidden_layers)[: model.config.num_hidden_layers]

    return {
        "widths": fill((last_of_each, some), (last_group, few), (every, list(range(width)))),
        "attention of layer 0 skipped": fill((None, some), (last_of_each, few), (every, some)),
        "only skips": fill((None, list(range(width))), (every, None), (every, list(range(width)))),
        "mlp of layer 0 skipped": fill((last_group, None), (every, some)),
        "no attention at all": fill((None, some), (None, few)),
    }


def layer_config(source, shape):
    """What differs from the global values, as crates/export/src/transformers/README.md says."""
    kv, width = source["num_key_value_heads"], source["intermediate_size"]
    own = {
        "num_attention_heads": shape["heads"],
        "num_key_value_heads": shape["kv"],
        "intermediate_size": shape["channels"],
    }
    if shape["heads"] is None:
        own |= {"num_attention_heads": source["num_attention_heads"], "num_key_value_heads": 2 if kv == 1 else 1}
    if shape["channels"] is None:
        own["intermediate_size"] = 2 if width == 1 else 1
    skip = [half for half, key in (("attention", "heads"), ("mlp", "channels")) if shape[key] is None]
    own = {key: value for key, value in own.items() if value != source[key]}
    return own | ({"skip": skip} if skip else {})


def write(folder, source_folder, model, candidate):
    """A checkpoint of the cut, written by hand, independently of the Rust writer."""
    tensors, shapes = reference.cut(model, candidate)
    source = json.loads((source_folder / "config.json").read_text())
    name = source["architectures"][0].removesuffix("ForCausalLM")
    layers = {str(i): own for i, shape in enumerate(shapes) if (own := layer_config(source, shape))}
    settings = source | {
        "architectures": [f"Taper{name}ForCausalLM"],
        "auto_map": {
            "AutoModel": f"modeling_taper.Taper{name}Model",
            "AutoModelForCausalLM": f"modeling_taper.Taper{name}ForCausalLM",
        },
        "allow_global_per_layer_attribute_access": any("num_attention_heads" in own for own in layers.values()),
        "head_dim": reference.head_dim(model),
        "num_hidden_layers": len(shapes),
        "per_layer_config": layers,
    }
    if "layer_types" in source:
        settings["layer_types"] = source["layer_types"][: len(shapes)]
    (folder / "config.json").write_text(json.dumps(settings, indent=2))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(SHIM, folder)
    return sum(tensor.numel() for tensor in tensors.values())


def strict(auto, folder, **more):
    """Loads with remote code and demands that the keys of model and file are the same."""
    options = {"trust_remote_code": True, "dtype": torch.float32, "output_loading_info": True, **more}
    model, info = auto.from_pretrained(folder, **options)
    faults = {key: sorted(map(str, value)) for key, value in info.items() if value}
    # `AutoModel` has no head, so the file's head is expected to be left over
    if auto is AutoModel and set(faults.get("unexpected_keys", [])) == {"lm_head.weight"}:
        del faults["unexpected_keys"]
    assert not faults, faults
    return model.eval()


def generate(model, ids, **options):
    fixed = {"max_new_tokens": 16, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    return model.generate(ids, **fixed, **options)


def refused_without_trust(folder):
    try:
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
    except Exception as error:
        return type(error).__name__
    return None


def check(name, about, candidate, folder):
    source = ROOT / "crates/model/golden" / name
    original = reference.load(source)
    ids = load_file(source / "golden.safetensors")["input_ids"]
    parameters = write(folder, source, original, candidate)
    with reference.masked(original, candidate), torch.no_grad():
        wanted = original(input_ids=ids, use_cache=False).logits

    worst = 0.0
    for attention in ("eager", "sdpa"):
        model = strict(AutoModelForCausalLM, folder, attn_implementation=attention)
        with torch.no_grad():
            worst = max(worst, (model(input_ids=ids).logits - wanted).abs().max().item())
    assert worst <= TOLERANCE, (name, about, worst)
    assert type(model).__name__.startswith("Taper") and sum(p.numel() for p in model.parameters()) == parameters

    plain = generate(model, ids, use_cache=False)
    assert torch.equal(plain, generate(model, ids, use_cache=True)), (name, about, "cache")
    static = generate(model, ids, cache_implementation="static", disable_compile=True)
    assert torch.equal(plain, static), (name, about, "static cache")
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    padded = [generate(model, ids, attention_mask=mask, use_cache=cache) for cache in (False, True)]
    assert torch.equal(*padded), (name, about, "padded")

    base = strict(AutoModel, folder, attn_implementation="eager")
    with torch.no_grad():
        hidden, same = base(input_ids=ids).last_hidden_state, model.model(input_ids=ids).last_hidden_state
    assert (hidden - same).abs().max() <= TOLERANCE
    model.set_attn_implementation("eager")
    with torch.no_grad():
        assert (model(input_ids=ids).logits - wanted).abs().max() <= TOLERANCE

    again = folder / "again"
    model.save_pretrained(again)
    shutil.copy(SHIM, again)
    with torch.no_grad():
        assert torch.equal(strict(AutoModelForCausalLM, again, attn_implementation="eager")(input_ids=ids).logits,
                           model(input_ids=ids).logits)  # fmt: skip
    refusal = refused_without_trust(folder)
    assert refusal, (name, about, "loads without trust_remote_code, with weights that are not in the file")
    return worst, refusal


def main():
    logging.set_verbosity(logging.CRITICAL)  # the load that has to fail reports every weight
    for name in sorted(path.name for path in (ROOT / "crates/model/golden").iterdir() if path.is_dir()):
        model = reference.load(ROOT / "crates/model/golden" / name)
        for about, candidate in copy.deepcopy(cuts(model)).items():
            with tempfile.TemporaryDirectory() as folder:
                worst, refusal = check(name, about, candidate, Path(folder))
            print(f"{name}, {about}: |difference| <= {worst:.1e}; untrusted: {refusal}")


if __name__ == "__main__":
    main()
