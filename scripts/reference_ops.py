"""Writes crates/kernels/golden/ops.safetensors: operations that no tiny model has yet, as PyTorch computes them.

    python scripts/reference_ops.py

Inputs from a seed, outputs and gradients of the sum of `dy · y` by autograd, f32. Names: `layer_norm.x`, `.weight`, `.bias`,
`.dy`, `.y`, `.dx`, `.dweight`, `.dbias` (eps 1e-5); `gelu.x`, `.dy`, then for `none` (exact) and `tanh` `.none.y`, `.none.dx`;
`geglu.gate`, `.up`, `.dh`, then `.none.h`, `.none.dgate`, `.none.dup`; `embedding.table`, `.ids` (i64), `.dy`, `.y`, `.dtable`.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional

SEED = 20261124
TARGET = Path(__file__).resolve().parent.parent / "crates/kernels/golden"


def leaf(*shape, scale=1.0, shift=0.0):
    return (torch.randn(shape) * scale + shift).requires_grad_()


def layer_norm():
    x, weight, bias, dy = leaf(9, 33, scale=2.0, shift=3.0), leaf(33), leaf(33), torch.randn(9, 33)
    y = functional.layer_norm(x, (33,), weight, bias, 1e-5)
    dx, dweight, dbias = torch.autograd.grad(y, (x, weight, bias), dy)
    return {"x": x, "weight": weight, "bias": bias, "dy": dy, "y": y, "dx": dx, "dweight": dweight, "dbias": dbias}


def gelu():
    x, dy = leaf(301, scale=3.0), torch.randn(301)
    out = {"x": x, "dy": dy}
    for form in ("none", "tanh"):
        y = functional.gelu(x, approximate=form)
        out |= {f"{form}.y": y, f"{form}.dx": torch.autograd.grad(y, x, dy)[0]}
    return out


def geglu():
    gate, up, dh = leaf(7, 43, scale=3.0), leaf(7, 43), torch.randn(7, 43)
    out = {"gate": gate, "up": up, "dh": dh}
    for form in ("none", "tanh"):
        h = functional.gelu(gate, approximate=form) * up
        dgate, dup = torch.autograd.grad(h, (gate, up), dh)
        out |= {f"{form}.h": h, f"{form}.dgate": dgate, f"{form}.dup": dup}
    return out


def embedding():
    table, ids, dy = leaf(13, 10), torch.randint(0, 11, (40,)), torch.randn(40, 10)  # two rows have no token
    y = functional.embedding(ids, table)
    return {"table": table, "ids": ids, "dy": dy, "y": y, "dtable": torch.autograd.grad(y, table, dy)[0]}


def main():
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    parts = {"layer_norm": layer_norm(), "gelu": gelu(), "geglu": geglu(), "embedding": embedding()}
    tensors = {f"{op}.{name}": t.detach().contiguous() for op, part in parts.items() for name, t in part.items()}
    TARGET.mkdir(exist_ok=True)
    save_file(tensors, TARGET / "ops.safetensors")
    provenance = [
        "# Provenance of ops.safetensors. Rewrite with: python scripts/reference_ops.py",
        'script = "scripts/reference_ops.py"',
        f"seed = {SEED}",
        f'torch = "{torch.__version__.split("+")[0]}"',
        'device = "cpu, one thread, float32"',
        "",
        "[tolerance]",
        "# Relative to the largest |entry| of the same result: two f32 implementations that sum in another order.",
        "relative = 1e-5",
    ]
    (TARGET / "ops.toml").write_text("\n".join(provenance) + "\n")


if __name__ == "__main__":
    main()
