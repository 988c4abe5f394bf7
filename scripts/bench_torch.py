"""PyTorch's side of scripts/bench_vs_pytorch.py: does one order a line, as crates/proxies/examples/score_once.rs.

Scoring follows TraceNAS: the whole model with LoRA adapters (PEFT, rank 64, alpha 16, all linears but the head, B = 0), the
inputs of o_proj and down_proj masked, forward and backward of the mean loss with the base frozen, then Pearson's correlation
of each sub-block's adapter gradients with the whole model's, weighted by kept ratios. Base gradients are made before the clock
starts. Gradients of A are zero while B is, and PEFT computes them: as its users pay for it, so it does here.
"""

import json
import sys
import time

import numpy
import torch
from transformers import LlamaForCausalLM
from transformers.utils import logging

HALVES = {"self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"), "mlp": ("gate_proj", "up_proj", "down_proj")}


class Score:
    """The model with adapters, and the whole model's gradients."""

    def __init__(self, setting, ids):
        from peft import LoraConfig, get_peft_model

        names = [name for half in HALVES.values() for name in half]
        config = LoraConfig(r=setting["rank"], lora_alpha=16, lora_dropout=0.0, target_modules=names)
        torch.manual_seed(0)
        self.base = load(setting)
        self.model = get_peft_model(self.base, config)
        self.ids, self.kept, self.masks = ids, setting["kept"], None
        self.layers = self.base.model.layers
        for layer in self.layers:
            for at, output in enumerate((layer.self_attn.o_proj, layer.mlp.down_proj)):
                output.register_forward_pre_hook(lambda _, inputs, at=at: self.mask(at, inputs))
        self.whole = self.gradients()[1]
        config = self.base.config
        self.masks = [self.first(config.num_attention_heads, config.head_dim), self.first(config.intermediate_size, 1)]

    def first(self, units, width):
        mask = torch.zeros(units * width)
        mask[: max(round(units * self.kept), 1) * width] = 1.0
        return mask

    def mask(self, at, inputs):
        return None if self.masks is None else (inputs[0] * self.masks[at],)

    def gradients(self):
        """Loss, and the gradients of B of each sub-block as one vector."""
        self.model.zero_grad(set_to_none=True)
        loss = self.model(input_ids=self.ids, labels=self.ids, use_cache=False).loss
        loss.backward()
        vectors = []
        for layer in self.layers:
            for half, names in HALVES.items():
                adapters = [getattr(getattr(layer, half), name).lora_B["default"] for name in names]
                vectors.append(torch.cat([adapter.weight.grad.flatten() for adapter in adapters]))
        return loss.item(), vectors

    def run(self, checkpointing):
        self.model.train()  # without it transformers does not checkpoint; there is no dropout
        if checkpointing:
            self.base.activation_checkpointing_enable({"use_reentrant": False})
        else:
            self.base.activation_checkpointing_disable()
        start = time.perf_counter()
        loss, vectors = self.gradients()
        phi = sum(self.kept * pearson(ours, whole) for ours, whole in zip(vectors, self.whole, strict=True))
        return time.perf_counter() - start, loss, phi


def pearson(x, y):
    x, y = x - x.mean(), y - y.mean()
    return (torch.dot(x, y) / (x.norm() * y.norm())).item()


class Gradients:
    """Forward and backward with all weight gradients, eager or compiled."""

    def __init__(self, setting, ids):
        self.ids, self.model = ids, load(setting)
        self.compiled = torch.compile(self.model)

    def run(self, compiled):
        model = self.compiled if compiled else self.model
        self.model.zero_grad(set_to_none=True)
        start = time.perf_counter()
        loss = model(input_ids=self.ids, labels=self.ids, use_cache=False).loss
        loss.backward()
        seconds = time.perf_counter() - start
        squares = sum(float(p.grad.double().square().sum()) for p in self.model.parameters())
        return seconds, loss.item(), squares**0.5


def load(setting):
    return LlamaForCausalLM.from_pretrained(setting["model"], dtype=torch.float32, attn_implementation="sdpa")


def product(library, tokens, d_in, d_out):
    # f32 as drawn: products of equal entries would be no fair work for a processor that saves power
    x, w = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in ((tokens, d_in), (d_in, d_out)))
    if library == "numpy":
        x, w = x.numpy(), w.numpy()
        multiply = numpy.matmul
    else:
        multiply = torch.mm
    start = time.perf_counter()
    multiply(x, w)
    return {"seconds": time.perf_counter() - start, "flops": 2.0 * tokens * d_in * d_out, "loss": None, "value": None}


def main():
    setting = json.loads(sys.argv[1])
    torch.set_num_threads(setting["threads"])
    logging.disable_progress_bar()
    ids = torch.tensor(json.loads(open(setting["ids"]).read())).view(-1, setting["length"])
    made, kinds = {}, {"score": Score, "gradients": Gradients}
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    for line in sys.stdin:
        ((what, options),) = json.loads(line).items()
        if what == "product":
            answer = product(**options)
        else:
            made[what] = made.get(what) or kinds[what](setting, ids)
            seconds, loss, value = made[what].run(**options)
            answer = {"seconds": seconds, "flops": 0.0, "loss": loss, "value": value}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
