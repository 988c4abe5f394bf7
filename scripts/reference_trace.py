"""PyTorch reference of the gradient-trace proxy, gradient norm and synaptic saliency; writes crates/proxies/golden.

    python scripts/reference_trace.py golden                              # rewrites crates/proxies/golden/*.json
    python scripts/reference_trace.py score MODEL_DIR tokens.json candidates.json -o out.json
    python scripts/reference_trace.py reproduce DATA/models/*             # against each reference_trace.json, to 1e-5

Per sub-block `s` of a candidate, `g` is the dense gradient of the mean loss, its projections flattened row by row and
concatenated (q, k, v, o, or gate, up, down; no bias, no norm), `b` the same of the whole model on the same tokens.
  pearson  rho = <g - mean g, b - mean b> / (|g - mean g| |b - mean b|)
  cosine   rho = <g, b> / (|g| |b|)
  dot      rho = <g, b>, the raw inner product: no division by the number of entries
A rho whose denominator is 0 is 0. What a removed unit would have had: with `zero` its entries are 0 in `g` and stay in
`b`; with `drop` they are left out of both. Its entries are the q rows and o columns of a removed head, and the gate and
up rows and down columns of a removed channel; k and v always stay whole.
  kept     heads kept / heads, channels kept / channels, 0 for a removed sub-block (its rho is null)
  phi      sum of kept * rho over the sub-blocks that are left; phi_unweighted: sum of rho
  gradient_norm      |g| per sub-block; total = sqrt(sum of squares over sub-blocks)
  synaptic_saliency  sum of |w * g| per sub-block, entry by entry (removed units give 0); total = sum over sub-blocks
Statistics are accumulated in float64 from float32 gradients.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file

import reference

ROOT = Path(__file__).resolve().parent.parent
HALVES = ("attention", "mlp")
SIMILARITIES = ("pearson", "cosine", "dot")
TOLERANCE = 1e-5


def flat_gradients(model, ids):
    """Loss, and per half and block the gradient vector and the weight vector, float64."""
    loss, _ = reference.backward(model, ids)
    vectors = {half: [] for half in HALVES}
    for layer in model.model.layers:
        for half, matrices in reference.projections(layer).items():
            grads = [torch.zeros_like(w) if w.grad is None else w.grad for w in matrices.values()]
            g = torch.cat([g.flatten() for g in grads]).double()
            w = torch.cat([w.detach().flatten() for w in matrices.values()]).double()
            vectors[half].append((g, w))
    return loss, vectors


def remaining(model, layer, half, kept):
    """Which entries of the concatenated gradient belong to units that are left, as one boolean vector."""
    out = []
    d_head = reference.head_dim(model)
    units = reference.head_columns(kept, d_head) if half == "attention" else kept
    for name, weight in reference.projections(layer)[half].items():
        mask = torch.ones_like(weight, dtype=torch.bool)
        if name in ("q_proj", "gate_proj", "up_proj"):
            mask[:] = False
            mask[units, :] = True
        elif name in ("o_proj", "down_proj"):
            mask[:] = False
            mask[:, units] = True
        out.append(mask.flatten())
    return torch.cat(out)


def similarity(kind, g, b):
    if kind == "dot":
        return torch.dot(g, b).item()
    if kind == "pearson":
        g, b = g - g.mean(), b - b.mean()
    scale = (g.norm() * b.norm()).item()
    return torch.dot(g, b).item() / scale if scale > 0 else 0.0


def kept_ratio(model, half, kept):
    of = model.config.num_attention_heads if half == "attention" else model.config.intermediate_size
    return len(kept) / of if kept is not None else 0.0


def traces(model, candidate, base, sub):
    """{similarity: {removed: {rho, phi, phi_unweighted}}} and the kept ratios."""
    kept = {half: [kept_ratio(model, half, block[half]) for block in candidate] for half in HALVES}
    out = {}
    for kind in SIMILARITIES:
        out[kind] = {}
        for removed in ("zero", "drop"):
            rho, phi, plain = {half: [] for half in HALVES}, 0.0, 0.0
            for index, (layer, block) in enumerate(zip(model.model.layers, candidate, strict=True)):
                for half in HALVES:
                    if block[half] is None:
                        rho[half].append(None)
                        continue
                    left = remaining(model, layer, half, block[half])
                    g, b = sub[half][index][0], base[half][index][0]
                    if torch.any(g[~left] != 0):
                        raise AssertionError(f"block {index}, {half}: a removed unit has a gradient")
                    g, b = (g, b) if removed == "zero" else (g[left], b[left])
                    value = similarity(kind, g, b)
                    rho[half].append(value)
                    phi, plain = phi + kept[half][index] * value, plain + value
            out[kind][removed] = {"rho": rho, "phi": phi, "phi_unweighted": plain}
    return out, kept


def magnitudes(vectors):
    """Gradient norm and synaptic saliency per sub-block and in all."""
    norm = {half: [g.norm().item() for g, _ in vectors[half]] for half in HALVES}
    saliency = {half: [(g * w).abs().sum().item() for g, w in vectors[half]] for half in HALVES}
    norm["total"] = sum(value**2 for half in HALVES for value in norm[half]) ** 0.5
    saliency["total"] = sum(value for half in HALVES for value in saliency[half])
    return {"gradient_norm": norm, "synaptic_saliency": saliency}


def score(model, ids, candidates):
    """Everything above for each candidate, against the whole model on the same tokens."""
    base_loss, base = flat_gradients(model, ids)
    scored = []
    for candidate in candidates:
        with reference.masked(model, candidate):
            loss, sub = flat_gradients(model, ids)
        trace, kept = traces(model, candidate, base, sub)
        scored.append({"candidate": candidate, "loss": loss, "kept": kept, "trace": trace, **magnitudes(sub)})
    return {"base_loss": base_loss, "base": magnitudes(base), "candidates": scored}


def golden_candidates(model):
    """Six candidates a tiny model: whole, each way to remove, unequal heads per KV group, a single head."""
    heads, width = model.config.num_attention_heads, model.config.intermediate_size
    in_group = heads // model.config.num_key_value_heads

    def block(attention, mlp):
        return {"attention": attention, "mlp": mlp}

    every, some = list(range(heads)), [c for c in range(width) if c % 3 != 1]
    one_a_group = list(range(in_group - 1, heads, in_group))
    unequal = list(range(in_group + 1)) if in_group > 1 else every[1:]  # one group whole, one head of the next
    gone, none = block(None, None), None
    named = {
        "whole": [block(every, list(range(width)))],
        "block 0 removed": [gone, block(one_a_group, some)],
        "attention of block 0 removed": [block(none, some), block(every, list(range(5)))],
        "mlp of block 1 removed": [block(one_a_group, list(range(width))), block(every, none)],
        "unequal heads per KV group": [block(unequal, some), block(every[::-1][:1], list(range(width // 2, width)))],
        "a single head and a single channel": [block([heads - 1], [width - 1]), block(every, some)],
    }
    layers = model.config.num_hidden_layers
    return {name: (blocks + [blocks[-1]] * layers)[:layers] for name, blocks in named.items()}


def rounded(value):
    """Nine digits: below f32's error, and files stay small."""
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return {key: rounded(item) for key, item in value.items()} if isinstance(value, dict) else value


def write_goldens():
    for name in ("llama-bias", "llama-gqa-rope3", "mistral-window", "qwen2-gqa", "qwen3-gqa"):
        folder = ROOT / "crates/model/golden" / name
        model, ids = reference.load(folder), load_file(folder / "golden.safetensors")["input_ids"]
        named = golden_candidates(model)
        result = score(model, ids, list(named.values()))
        for about, scored in zip(named, result["candidates"], strict=True):
            scored["about"] = about
        made = {
            "script": "scripts/reference_trace.py golden",
            "model": f"crates/model/golden/{name}",
            "tokens": "input_ids of its golden.safetensors",
            "torch": torch.__version__.split("+")[0],
            "transformers": transformers.__version__,
            "definitions": "top of scripts/reference_trace.py",
            "tolerance": "rho and loss 1e-5 absolute; dot, norms and saliency 1e-4 relative",
        }
        target = ROOT / "crates/proxies/golden" / f"{name}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps({"provenance": made} | rounded(result), separators=(",", ":")) + "\n")
        print(f"{target.relative_to(ROOT)}: {target.stat().st_size} bytes")


def differences(found, stored):
    """Largest |difference| per quantity between our score and a stored reference_trace.json (pearson, zero)."""
    worst = {"base_loss": abs(found["base_loss"] - stored["base_loss"])}

    def compare(key, ours, theirs):
        if (ours is None) != (theirs is None):
            raise AssertionError(f"{key}: {ours} against {theirs}")
        worst[key] = max(worst.get(key, 0.0), abs(ours - theirs) if ours is not None else 0.0)

    def per_half(key, ours, theirs):
        for half in HALVES:
            for a, b in zip(ours[half], theirs[half], strict=True):
                compare(key, a, b)

    per_half("base_gradient_norm", found["base"]["gradient_norm"], stored["base_gradient_norm"])
    for ours, theirs in zip(found["candidates"], stored["candidates"], strict=True):
        trace = ours["trace"]["pearson"]["zero"]
        compare("loss", ours["loss"], theirs["loss"])
        compare("phi", trace["phi"], theirs["phi"])
        compare("phi_unweighted", trace["phi_unweighted"], theirs["phi_unweighted"])
        per_half("rho", trace["rho"], theirs["rho"])
        per_half("kept", ours["kept"], theirs["kept"])
        per_half("gradient_norm", ours["gradient_norm"], theirs["gradient_norm"])
    return worst


def reproduce(folders):
    good = True
    for folder in map(Path, folders):
        stored = json.loads((folder / "reference_trace.json").read_text())
        ids = reference.tokens(folder / "reference_tokens.json", stored["sequences"], stored["length"])
        found = score(reference.load(folder), ids, [c["candidate"] for c in stored["candidates"]])
        worst = differences(found, stored)
        good &= max(worst.values()) <= TOLERANCE
        print(folder.name, json.dumps({key: float(f"{value:.2e}") for key, value in worst.items()}))
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    command = parser.add_subparsers(dest="command", required=True)
    command.add_parser("golden")
    command.add_parser("reproduce").add_argument("folders", nargs="+")
    one = command.add_parser("score")
    for name in ("model", "tokens", "candidates"):
        one.add_argument(name)
    one.add_argument("--sequences", type=int, default=4)
    one.add_argument("--length", type=int, default=128)
    one.add_argument("-o", "--output", required=True)
    args = parser.parse_args()

    if args.command == "golden":
        write_goldens()
    elif args.command == "reproduce":
        sys.exit(0 if reproduce(args.folders) else 1)
    else:
        ids = reference.tokens(args.tokens, args.sequences, args.length)
        candidates = json.loads(Path(args.candidates).read_text())
        result = score(reference.load(args.model), ids, candidates)
        Path(args.output).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
