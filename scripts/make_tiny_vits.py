"""Writes the tiny image classifiers of crates/model/golden-vit: one folder a kind, with logits and all gradients.

    python scripts/make_tiny_vits.py              # rewrites crates/model/golden-vit

Each folder holds `config.json`, `model.safetensors` (random weights from a seed, in the dtype that the model is named with)
and `golden.safetensors`:

- `pixel_values` [3, channels, height, width] f32, `labels` [3] i64, `logits` [3, classes] f32, `loss` [] f32 (mean cross
  entropy over the images) and `grad.<parameter>` f32 of that loss for every tensor of the checkpoint;
- `hidden_states` [layers + 1] f32: mean |entry| of what enters the first block and of what leaves each;
- `pixel_values_large` and `logits_large`, or `_small`, where the kind takes images of another size: the position embeddings
  are interpolated.

Computed in f32 from the stored weights, eager attention: by stock transformers, or by timm where the layout is timm's (and
checked against transformers with the same weights). Tensors have the names of the checkpoints on the Hub, which are not
those of transformers' modules since its version 5: it renames when it loads and saves, `hub_name` here does likewise.
Norm weights are far from 1, biases far from 0, attention far from uniform, so that a forgotten one is seen. The same seed
gives the same files.

Needs `timm` and the torchvision it imports, besides requirements.txt: pip install --no-deps timm==1.0.31 torchvision==0.29.2
"""

import copy
import json
import re
import tempfile
from pathlib import Path

import reference  # first: it sets the environment of transformers and torch
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file
from timm.layers import set_fused_attn
from torch.nn.functional import cross_entropy

from tiny_vits import MODELS, OTHERS

SEED = 20260301
IMAGES = 3
TARGET = Path(__file__).resolve().parent.parent / "crates/model/golden-vit"
LIMIT = 700 << 10

set_fused_attn(False)


# Embeddings of these are so small that the first norm's epsilon is seen, or that it is not 1e-6.
FAINT = ("deit-plain", "vit-timm")

RENAMES = {
    r"\.layers\.": ".encoder.layer.",
    r"attention\.q_proj\.": "attention.attention.query.",
    r"attention\.k_proj\.": "attention.attention.key.",
    r"attention\.v_proj\.": "attention.attention.value.",
    r"attention\.o_proj\.": "attention.output.dense.",
}
RENAMES_OF_MLP = {r"\.mlp\.fc1\.": ".intermediate.dense.", r"\.mlp\.fc2\.": ".output.dense."}


def hub_name(name, settings):
    """What the Hub's checkpoints call the parameter `name` of transformers' modules; timm's have one name."""
    if "model_type" not in settings:
        return name
    renames = RENAMES if settings["model_type"] == "dinov2" else RENAMES | RENAMES_OF_MLP
    for pattern, replacement in renames.items():
        name = re.sub(pattern, replacement, name)
    return name


def is_timm(settings):
    return "pretrained_cfg" in settings


def empty(settings):
    """The model without weights of its own."""
    if is_timm(settings):
        distilled = "_distilled" in settings["architecture"]
        known = "deit_tiny_distilled_patch16_224" if distilled else "vit_tiny_patch16_224"
        return timm.create_model(known, **{"num_classes": settings["num_classes"]} | settings["model_args"])
    kind = getattr(transformers, settings["architectures"][0])
    return kind(kind.config_class.from_dict(settings))


def load(folder, settings):
    """The checkpoint in `folder`, weights upcast to f32 from whatever they are stored as, eager attention."""
    if is_timm(settings):
        model = empty(settings)
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return model.eval()
    kind = getattr(transformers, settings["architectures"][0])
    model, report = kind.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(report.values()), report
    return model.eval()


def blocks(model):
    if hasattr(model, "blocks"):
        return model.blocks
    base = model.base_model
    return base.encoder.layer if hasattr(base, "encoder") else base.layers


def weights(model, settings, generator, faint):
    """Random values for every parameter, in the order of their names in the checkpoint."""
    names = {hub_name(name, settings): parameter for name, parameter in model.named_parameters()}
    out = {}
    for name, parameter in sorted(names.items()):
        shape = parameter.shape
        draw = torch.randn(shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            value = 0.5 + torch.rand(shape, generator=generator)
        elif "lambda" in name:
            value = (0.3 + 1.4 * torch.rand(shape, generator=generator)) * draw.sign()
        elif name.endswith("bias"):
            value = 0.5 * draw
        elif len(shape) in (2, 4) and "token" not in name:
            value = 1.2 * shape[1:].numel() ** -0.5 * draw
        else:  # tokens and positions
            value = draw
        if faint and ("embed" in name or "token" in name):
            value = 3e-3 * value
        out[name] = value
    return out


def logits_of(model, pixels, resized=False):
    if not isinstance(model, transformers.PreTrainedModel):
        return model(pixels)
    # DINOv2 interpolates by itself where it has to
    asked = {"interpolate_pos_encoding": True} if resized and not hasattr(model, "dinov2") else {}
    return model(pixel_values=pixels, **asked).logits


def hidden_states(model, pixels):
    """What enters the first block and what leaves each, [images, tokens, hidden]."""
    states, hooks = [], []
    hooks.append(blocks(model)[0].register_forward_pre_hook(lambda _, inputs: states.append(inputs[0])))
    for block in blocks(model):
        hooks.append(block.register_forward_hook(lambda _, __, output: states.append(output)))
    with torch.no_grad():
        logits_of(model, pixels)
    for hook in hooks:
        hook.remove()
    return states


def write(name, folder):
    settings = MODELS[name]
    generator = torch.Generator().manual_seed(SEED + sorted(MODELS).index(name))
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(settings, indent=2, sort_keys=not is_timm(settings))
    (folder / "config.json").write_text(text + "\n")
    stored = getattr(torch, settings.get("torch_dtype", "float32"))
    drawn = weights(empty(settings), settings, generator, name in FAINT)
    tensors = {key: value.to(stored) for key, value in drawn.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    model = load(folder, settings)
    if is_timm(settings):
        channels, height, width = settings["pretrained_cfg"]["input_size"]
    else:
        size = settings["image_size"]
        channels, (height, width) = settings["num_channels"], size if isinstance(size, list) else (size, size)
    pixels = torch.randn((IMAGES, channels, height, width), generator=generator)
    labels = torch.randint(0, classes(settings), (IMAGES,), generator=generator)
    logits = logits_of(model, pixels)
    loss = cross_entropy(logits, labels)
    loss.backward()
    states = hidden_states(model, pixels)
    golden = {
        "pixel_values": pixels,
        "labels": labels,
        "logits": logits.detach().contiguous(),
        "loss": loss.detach(),
        "hidden_states": torch.stack([state.abs().mean() for state in states]),
    }
    for key, parameter in model.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        golden[f"grad.{hub_name(key, settings)}"] = gradient.contiguous()
    for key, (images, high, wide) in OTHERS.get(name, {}).items():
        other = torch.randn((images, channels, high, wide), generator=generator)
        with torch.no_grad():
            golden[f"logits_{key}"] = logits_of(model, other, resized=True).contiguous()
        golden[f"pixel_values_{key}"] = other
    assert {f"grad.{key}" for key in tensors} == {key for key in golden if key.startswith("grad.")}
    save_file(golden, folder / "golden.safetensors")
    off = check(name, folder, model, tensors, golden, states)
    print(f"{name}: loss {loss:.4f}, {sum(t.numel() for t in tensors.values())} parameters")
    return off


def classes(settings):
    return settings.get("num_classes") or len(settings["id2label"])


def check(name, folder, model, tensors, golden, states):
    """What the goldens rest on: every gradient is seen, the features named are in force, names are the Hub's.

    Returns how far the reference is from the same model in f64: logits, loss, and gradients relative to their largest entry.
    """
    settings = MODELS[name]
    pixels, labels, logits = golden["pixel_values"], golden["labels"], golden["logits"]
    for key in tensors:
        largest = golden[f"grad.{key}"].abs().max()
        if re.search(r"key\.bias|mask_token", key):
            # a bias of k shifts all scores of a query alike; a mask token stands for patches left out in training
            assert largest < 1e-6, (name, key)
        else:
            assert largest > 1e-4, (name, key)

    if not is_timm(settings):
        # transformers writes the names and bits of the Hub's checkpoint again
        with tempfile.TemporaryDirectory() as again:
            model.save_pretrained(again)
            saved = load_file(Path(again) / "model.safetensors")
            assert saved.keys() == tensors.keys()
            assert all(torch.equal(saved[key], tensors[key].float()) for key in saved)
        output = model(pixel_values=pixels, output_hidden_states=True, output_attentions=True)
        assert all(torch.equal(a, b) for a, b in zip(output.hidden_states, states, strict=True))
        for attention in output.attentions:
            assert attention.max(-1).values.mean() > 2.0 / attention.shape[-1], name
    else:
        twin = split(settings, tensors)
        assert (logits_of(twin, pixels) - logits).abs().max() < 2e-5, name
        if timm.is_model(settings["architecture"]):  # then timm loads the folder by itself
            loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
            assert torch.equal(logits_of(loaded, pixels), logits)

    def changed(edit):
        other = copy.deepcopy(model)
        with torch.no_grad():
            edit(other)
            return (logits_of(other, pixels) - logits).abs().max() > 1e-2

    def set_epsilon(other, value):
        for module in other.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.eps = value

    if name in FAINT:
        wrong = 1e-12 if is_timm(settings) else 1e-6
        assert changed(lambda other: set_epsilon(other, wrong)), name
    if name == "dinov2":
        for scale in ("layer_scale1", "layer_scale2"):
            assert changed(lambda other, scale=scale: [getattr(b, scale).lambda1.fill_(1.0) for b in blocks(other)])
    if name == "vit-tanh":
        for block in blocks(model):
            block.mlp.activation_fn = torch.nn.GELU()
        assert (logits_of(model, pixels) - logits).abs().max() > 1e-4
        model = load(folder, settings)
    if name == "deit-plain":
        assert changed(lambda other: other.deit.embeddings.distillation_token.zero_())
    for key in OTHERS.get(name, ()):
        other = golden[f"pixel_values_{key}"]
        interpolate = torch.nn.functional.interpolate
        for change in ({"antialias": True}, {"align_corners": True}, {"mode": "bilinear"}):
            if change == {"antialias": True} and key == "large":
                continue  # makes a difference only where positions become fewer
            torch.nn.functional.interpolate = lambda *args, change=change, **more: interpolate(*args, **more | change)
            try:
                with torch.no_grad():
                    off = (logits_of(model, other, resized=True) - golden[f"logits_{key}"]).abs().max()
            finally:
                torch.nn.functional.interpolate = interpolate
            assert off > 1e-3, (name, key, change, off)
    return from_double(model, settings, golden)


def from_double(model, settings, golden):
    """Largest differences from the same model in f64, whose softmax is f64 too."""
    double = copy.deepcopy(model).double()
    double.zero_grad(set_to_none=True)
    if not is_timm(settings):
        double.set_attn_implementation("sdpa")
    logits = logits_of(double, golden["pixel_values"].double())
    loss = cross_entropy(logits, golden["labels"])
    loss.backward()
    gradients = 0.0
    for key, parameter in double.named_parameters():
        name = hub_name(key, settings)
        if re.search(r"key\.bias|mask_token", name):
            continue
        off = (parameter.grad - golden[f"grad.{name}"]).abs().max() / parameter.grad.abs().max()
        gradients = max(gradients, off.item())
    others = [
        (logits_of(double, golden[key].double(), resized=True) - golden[key.replace("pixel_values", "logits")]).abs().max()
        for key in golden
        if key.startswith("pixel_values_")
    ]
    off = torch.stack([(logits - golden["logits"]).abs().max(), *others]).max()
    return off.item(), (loss - golden["loss"]).abs().item(), gradients


def split(settings, tensors):
    """transformers' model of timm's weights: fused q, k and v cut apart."""
    dim, args = settings["num_features"], settings["model_args"]
    distilled = "dist_token" in tensors
    family, kind = ("deit", "DeiTForImageClassificationWithTeacher") if distilled else ("vit", "ViTForImageClassification")
    model = empty(
        config(family, kind, dim, args["num_heads"], args["img_size"], args["patch_size"], settings["num_classes"])
        | {"intermediate_size": int(dim * args["mlp_ratio"]), "layer_norm_eps": 1e-6}
    )
    renames = {
        r"^cls_token": f"{family}.embeddings.cls_token",
        r"^dist_token": f"{family}.embeddings.distillation_token",
        r"^pos_embed": f"{family}.embeddings.position_embeddings",
        r"^patch_embed\.proj": f"{family}.embeddings.patch_embeddings.projection",
        r"^norm\.": f"{family}.layernorm.",
        r"^head\.": "cls_classifier." if distilled else "classifier.",
        r"^head_dist\.": "distillation_classifier.",
        r"^blocks\.": f"{family}.layers.",
        r"\.norm1\.": ".layernorm_before.",
        r"\.norm2\.": ".layernorm_after.",
        r"\.attn\.proj\.": ".attention.o_proj.",
    }
    state = {}
    for name, tensor in tensors.items():
        for pattern, replacement in renames.items():
            name = re.sub(pattern, replacement, name)
        if ".attn.qkv." in name:
            for part, rows in zip("qkv", tensor.split(dim), strict=True):
                state[name.replace(".attn.qkv.", f".attention.{part}_proj.")] = rows
        else:
            state[name] = tensor
    model.load_state_dict(state)
    return model.eval()


def note(total, off):
    """Where the goldens come from, beside them."""
    logits, loss, gradients = (max(column) for column in zip(*off, strict=True))
    return f"""# Provenance of the tiny models in this folder. Rewrite all with: python scripts/make_tiny_vits.py
script = "scripts/make_tiny_vits.py"
seed = {SEED}
torch = "{torch.__version__.split("+")[0]}"
transformers = "{transformers.__version__}"
timm = "{timm.__version__}"
device = "cpu, one thread, float32, eager attention"
bytes = {total}

[tolerance]
# Largest |difference| allowed against the reference: two f32 implementations that sum in another order. The reference
# itself is within {logits:.1g} (logits), {loss:.1g} (loss) and {gradients:.1g} (gradients) of the same model in float64.
logits = 1e-4
loss = 1e-5
# Relative to the largest |entry| of the same gradient.
gradient = 1e-4
# Biases of k shift all scores of a query alike, so their gradients are zero but for rounding: |entries| allowed in these.
# (In timm's attn.qkv.bias that is the middle third.) The mask token of DINOv2 is not used; its gradient is written as 0.
gradient_of_key_bias = 1e-6
"""


def main():
    with tempfile.TemporaryDirectory(dir=TARGET.parent) as fresh:
        off = [write(name, Path(fresh) / name) for name in sorted(MODELS)]
        files = sorted(path for path in Path(fresh).rglob("*") if path.is_file())
        total = sum(path.stat().st_size for path in files)
        assert total <= LIMIT, f"goldens take {total} bytes, more than {LIMIT}"
        for path in files:
            target = TARGET / path.relative_to(fresh)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
        (TARGET / "README.toml").write_text(note(total, off))
    print(f"{total} bytes in {TARGET}")


if __name__ == "__main__":
    main()
