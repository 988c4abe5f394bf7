"""ViT, DeiT and DINOv2 classifiers whose layers differ in width. Written by taper beside `config.json`.

The configuration says per layer what differs (`per_layer_config`, the field of transformers' own heterogeneous
configurations): `num_attention_heads`, `intermediate_size`, and `skip`, a list of "attention" or "mlp".
A skipped half has no weights, its norm included, and adds nothing to the residual stream. All else is the stock model.
Load with `AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)`.
"""

import torch
from torch import nn
from transformers.models.deit import modeling_deit as deit
from transformers.models.dinov2 import modeling_dinov2 as dinov2
from transformers.models.vit import modeling_vit as vit


class SkippedMixer(nn.Module):
    """In the place of attention. Adds nothing."""

    def forward(self, hidden_states, *args, **kwargs):
        return torch.zeros_like(hidden_states), None


class SkippedMlp(nn.Module):
    """In the place of an MLP. Adds nothing."""

    def forward(self, hidden_states):
        return torch.zeros_like(hidden_states)


def build_layer(stock, config, index):
    """Layer `index` of the stock class `stock`, in its own sizes and without what it skips."""
    own = config.per_layer_config[index]
    skip = getattr(own, "skip", None) or []
    unknown = set(skip) - {"attention", "mlp"}
    if unknown:
        raise ValueError(f"layer {index} skips {sorted(unknown)}, only attention and mlp can be skipped")
    layer = stock(own)
    if isinstance(layer, dinov2.Dinov2Layer):  # whose configuration knows whole multiples of the width only
        layer.mlp.fc1 = nn.Linear(config.hidden_size, own.intermediate_size)
        layer.mlp.fc2 = nn.Linear(own.intermediate_size, config.hidden_size)
    # attention asks its configuration which kernel to use, and that may change after loading: ask the model's own
    layer.attention.config = config
    for half, (mixer, new), around in (
        ("attention", ("attention", SkippedMixer), ("layernorm_before", "norm1", "layer_scale1")),
        ("mlp", ("mlp", SkippedMlp), ("layernorm_after", "norm2", "layer_scale2")),
    ):
        if half in skip:
            setattr(layer, mixer, new())
            for name in around:
                if hasattr(layer, name):
                    setattr(layer, name, nn.Identity())
    return layer


class _Images:
    """The stock classifier, but for layers of their own sizes. `_layer`: their stock class."""

    def __init__(self, config):
        super().__init__(config)
        for module in list(self.modules()):
            if isinstance(module, nn.ModuleList) and len(module) and isinstance(module[0], self._layer):
                for index in range(len(module)):
                    module[index] = build_layer(self._layer, config, index)
        self.post_init()


class TaperViTForImageClassification(_Images, vit.ViTForImageClassification):
    _layer = vit.ViTLayer


class TaperDeiTForImageClassification(_Images, deit.DeiTForImageClassification):
    _layer = deit.DeiTLayer


class TaperDeiTForImageClassificationWithTeacher(_Images, deit.DeiTForImageClassificationWithTeacher):
    _layer = deit.DeiTLayer


class TaperDinov2ForImageClassification(_Images, dinov2.Dinov2ForImageClassification):
    _layer = dinov2.Dinov2Layer
