"""Gradients of every parameter of a real model, by PyTorch autograd, for tests that are too large to commit.

    python scripts/reference_gradients.py MODEL_DIR tokens.json --sequences 4 --length 128 -o out.safetensors

`tokens.json` is a list of ids or an object with `ids`; the first sequences x length of them are used, row by row.
The output has the tensors of crates/model/golden/*/golden.safetensors: `input_ids` [b, t] i64, `logits` [b, t, v] f32,
`loss` [] f32 and `grad.<parameter>` f32, all in f32 from the stored weights. Metadata says where they come from.
"""

import argparse

import torch
from safetensors.torch import save_file

import reference


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("tokens")
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("-o", "--output", required=True)
    args = parser.parse_args()

    ids = reference.tokens(args.tokens, args.sequences, args.length)
    model = reference.load(args.model)
    loss, logits = reference.backward(model, ids)
    found = {"input_ids": ids, "logits": logits.contiguous(), "loss": torch.tensor(loss)} | reference.gradients(model)
    made = {"script": "scripts/reference_gradients.py", "torch": torch.__version__, "format": "pt"}
    save_file(found, args.output, metadata=made)
    print(f"{args.output}: loss {loss:.6f}, {len(found) - 3} gradients")


if __name__ == "__main__":
    main()
