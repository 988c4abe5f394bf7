"""Llama, Mistral, Qwen2 and Qwen3 whose layers differ in width. Written by taper beside `config.json`.

The configuration says per layer what differs (`per_layer_config`, the field of transformers' own heterogeneous
configurations): `num_attention_heads`, `num_key_value_heads`, `intermediate_size`, and `skip`, a list of "attention" or
"mlp". A skipped half has no weights, its norm included, and adds nothing to the residual stream. All else is the
stock model. Load with `AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)`.
"""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.models.llama import modeling_llama as llama
from transformers.models.mistral import modeling_mistral as mistral
from transformers.models.qwen2 import modeling_qwen2 as qwen2
from transformers.models.qwen3 import modeling_qwen3 as qwen3


class SkippedMixer(nn.Module):
    """In the place of attention. Adds nothing, but counts tokens in the KV cache, whose first layer tells the length.

    It stores one zero a token; where the cache has fixed shapes (`StaticCache`), zeros of those shapes. (No "Attention"
    in its name: transformers takes that for an attention of our own and then refuses `set_attn_implementation`.)
    """

    def __init__(self, layer_idx):
        super().__init__()
        self.layer_idx = layer_idx

    def forward(self, hidden_states, *args, past_key_values=None, **kwargs):
        if past_key_values is not None:
            batch, length = hidden_states.shape[:2]
            layers = past_key_values.layers
            keys = layers[self.layer_idx].keys if self.layer_idx < len(layers) else None
            heads, width = (keys.shape[1], keys.shape[3]) if keys is not None and keys.ndim == 4 else (1, 1)
            count = hidden_states.new_zeros(batch, heads, length, width)
            past_key_values.update(count, count, self.layer_idx)
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
    layer = stock(own, index)
    if "attention" in skip:
        layer.self_attn, layer.input_layernorm = SkippedMixer(index), nn.Identity()
    else:
        # attention asks its configuration which kernel to use, and that may change after loading: ask the model's own
        layer.self_attn.config = config
    if "mlp" in skip:
        layer.mlp, layer.post_attention_layernorm = SkippedMlp(), nn.Identity()
    return layer


class _Model:
    """The stock model's `__init__`, but for layers of their own sizes. `_parts`: layer, norm and rotary classes."""

    def __init__(self, config):
        PreTrainedModel.__init__(self, config)
        layer, norm, rotary = self._parts
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        self.layers = nn.ModuleList([build_layer(layer, config, i) for i in range(config.num_hidden_layers)])
        self.norm = norm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = rotary(config=config)
        self.gradient_checkpointing = False
        self.has_sliding_layers = "sliding_attention" in (getattr(config, "layer_types", None) or [])
        self.post_init()


class _ForCausalLM:
    """The stock head on such a model. `_model`: its class."""

    def __init__(self, config):
        PreTrainedModel.__init__(self, config)
        self.model = self._model(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


class TaperLlamaModel(_Model, llama.LlamaModel):
    _parts = (llama.LlamaDecoderLayer, llama.LlamaRMSNorm, llama.LlamaRotaryEmbedding)


class TaperLlamaForCausalLM(_ForCausalLM, llama.LlamaForCausalLM):
    _model = TaperLlamaModel


class TaperMistralModel(_Model, mistral.MistralModel):
    _parts = (mistral.MistralDecoderLayer, mistral.MistralRMSNorm, mistral.MistralRotaryEmbedding)


class TaperMistralForCausalLM(_ForCausalLM, mistral.MistralForCausalLM):
    _model = TaperMistralModel


class TaperQwen2Model(_Model, qwen2.Qwen2Model):
    _parts = (qwen2.Qwen2DecoderLayer, qwen2.Qwen2RMSNorm, qwen2.Qwen2RotaryEmbedding)


class TaperQwen2ForCausalLM(_ForCausalLM, qwen2.Qwen2ForCausalLM):
    _model = TaperQwen2Model


class TaperQwen3Model(_Model, qwen3.Qwen3Model):
    _parts = (qwen3.Qwen3DecoderLayer, qwen3.Qwen3RMSNorm, qwen3.Qwen3RotaryEmbedding)


class TaperQwen3ForCausalLM(_ForCausalLM, qwen3.Qwen3ForCausalLM):
    _model = TaperQwen3Model
