"""Configuration of a Llama whose blocks differ, as DeciLMForCausalLM of vLLM and SGLang reads it. Written by taper.

`block_configs[i]` has `attention` (`no_op`, `n_heads_in_group`) and `ffn` (`no_op`, `intermediate_size`): attributes there, plain
dictionaries in config.json.
"""

from types import SimpleNamespace

from transformers import LlamaConfig


class DeciLMConfig(LlamaConfig):
    model_type = "nemotron-nas"

    def __init__(self, block_configs=None, qkv_bias=False, **kwargs):
        super().__init__(**kwargs)
        self.qkv_bias = qkv_bias
        self.block_configs = [
            SimpleNamespace(attention=SimpleNamespace(**block["attention"]), ffn=SimpleNamespace(**block["ffn"]))
            for block in block_configs or []
        ]

    def to_dict(self):
        blocks, self.block_configs = self.block_configs, None
        plain = super().to_dict()
        self.block_configs = blocks
        plain["block_configs"] = [{"attention": vars(block.attention), "ffn": vars(block.ffn)} for block in blocks]
        return plain
