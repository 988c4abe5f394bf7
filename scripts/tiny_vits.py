"""The configurations of the tiny image classifiers that scripts/make_tiny_vits.py makes."""


def config(family, name, hidden, heads, image, patch, classes, **more):
    """A config.json as the Hub has them: the class, sizes, and `more`."""
    names = [f"class {index}" for index in range(classes)]
    return {
        "architectures": [name],
        "attention_probs_dropout_prob": 0.0,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "hidden_size": hidden,
        "id2label": {str(index): name for index, name in enumerate(names)},
        "image_size": image,
        "initializer_range": 0.02,
        "label2id": {name: index for index, name in enumerate(names)},
        "model_type": family,
        "num_attention_heads": heads,
        "num_channels": 3,
        "num_hidden_layers": 2,
        "patch_size": patch,
        "qkv_bias": True,
        **more,
    }


def timm_config(architecture, dim, heads, image, patch, classes, ratio, args, **more):
    """A config.json as timm's `save_for_hf` writes it; sizes that `architecture` does not imply are in `model_args`."""
    return {
        "architecture": architecture,
        "num_classes": classes,
        "num_features": dim,
        "global_pool": "token",
        "model_args": {
            "img_size": image,
            "patch_size": patch,
            "embed_dim": dim,
            "depth": 2,
            "num_heads": heads,
            "mlp_ratio": ratio,
            **args,
        },
        "pretrained_cfg": {
            "tag": "taper",
            "custom_load": False,
            "input_size": [3, image, image],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 0.9,
            "crop_mode": "center",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "num_classes": classes,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            **more,
        },
    }


# What timm 1.0.31 adds to `model_args` of every model, for one of size 16 x 16 with 5 classes.
TIMM_1_ARGS = {"img_size": [16, 16], "num_classes": 5, "in_chans": 3, "global_pool": "token"}

# Sizes differ on purpose. timm's MLPs have int(dim * ratio) channels: 40 of 40.8 and 28 of 28.8 here.
MODELS = {
    "deit-distilled": config(
        "deit", "DeiTForImageClassificationWithTeacher", 24, 3, 16, 4, 5, intermediate_size=40, layer_norm_eps=1e-12,
        torch_dtype="float32",
    ),
    "deit-plain": config(
        "deit", "DeiTForImageClassification", 24, 2, 12, 4, 4, intermediate_size=32, layer_norm_eps=1e-12,
        torch_dtype="float16",
    ),
    "deit-timm-distilled": timm_config(
        "deit_tiny_distilled_patch16_224", 16, 2, 16, 4, 5, 1.8, TIMM_1_ARGS, classifier=["head", "head_dist"],
        mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225],
    ),
    "dinov2": config(
        "dinov2", "Dinov2ForImageClassification", 24, 3, 20, 4, 5, apply_layernorm=True, drop_path_rate=0.0,
        layer_norm_eps=1e-6, layerscale_value=1.0, mlp_ratio=2, out_features=["stage2"], out_indices=[2],
        reshape_hidden_states=True, stage_names=["stem", "stage1", "stage2"], torch_dtype="float32",
        use_swiglu_ffn=False,
    ),
    "vit-plain": config(
        "vit", "ViTForImageClassification", 24, 3, 16, 4, 5, intermediate_size=40, layer_norm_eps=1e-12,
        torch_dtype="float32",
    ),
    "vit-tanh": config(
        "vit", "ViTForImageClassification", 20, 2, [12, 20], 4, 4, hidden_act="gelu_pytorch_tanh", intermediate_size=32,
        layer_norm_eps=1e-6, num_channels=1, qkv_bias=False, torch_dtype="bfloat16",
    ),
    "vit-timm": timm_config("vit_tiny_patch4_16", 24, 3, 16, 4, 5, 1.7, {}),
}  # fmt: skip

# Images of another size than the configuration's, and how many: in DINOv2 5 x 5 positions become 7 x 6 and 3 x 4.
OTHERS = {
    "deit-distilled": {"large": (2, 24, 20)},
    "dinov2": {"large": (2, 28, 24), "small": (2, 12, 16)},
    "vit-plain": {"large": (2, 24, 24)},
}
