"""Does stock transformers compute what taper computed? One exported folder against logits that taper wrote.

    python scripts/verify_export.py EXPORT_DIR --logits file.safetensors

The file holds `input_ids` [b, t] (i64 or u32) and `logits` [b, t, v] f32. `AutoModelForCausalLM` loads the folder
in f32 on the CPU, with eager attention and `trust_remote_code` (it runs the folder's own `modeling_taper.py`, if any).
Prints one JSON line and exits with 0 if all hold, 1 if one does not, 2 if the check could not run:
  faults              keys of the checkpoint that are missing, unexpected or of another shape: must be empty
  max_abs_diff        largest |logit - logit|: at most `tolerance`, and no NaN on either side
  generation          32 greedy tokens from the first 16 ids of the first row, with KV cache = without
  parameters          weights of the loaded model, a tied head counted once
"""

import argparse
import json
import sys
from pathlib import Path

try:
    import torch
    import transformers
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    import reference  # noqa: F401  (one thread, offline, a throw-away folder for remote code)
except ImportError as error:
    print(f"{error}: install scripts/requirements.txt", file=sys.stderr)
    sys.exit(2)

TOLERANCE = 1e-4
PROMPT, NEW = 16, 32


def load(folder):
    """The model, and the keys that do not fit."""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", trust_remote_code=True, output_loading_info=True
    )
    return model.eval(), {key: sorted(map(str, value)) for key, value in info.items() if value}


def greedy(model, prompt, cached):
    """`NEW` tokens, never stopped by an end-of-text token of the folder's generation_config.json."""
    model.generation_config = transformers.GenerationConfig(pad_token_id=0)
    out = model.generate(prompt, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, use_cache=cached)
    return out[0, prompt.shape[1] :].tolist()


def verify(folder, stored):
    """The report, and whether all holds."""
    ids, wanted = stored["input_ids"].long(), stored["logits"].float()
    model, faults = load(folder)
    with torch.no_grad():
        found = model(input_ids=ids, use_cache=False).logits
    report = {
        "class": type(model).__name__,
        "remote_code": not type(model).__module__.startswith("transformers.models."),
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": ids.numel(),
        "tolerance": TOLERANCE,
        "faults": faults,
    }
    if found.shape != wanted.shape:
        return report | {"error": f"logits are {list(found.shape)} here and {list(wanted.shape)} in the file"}, False
    difference = (found - wanted).abs().max().item()
    with_cache, without = (greedy(model, ids[:1, :PROMPT], cached) for cached in (True, False))
    report |= {
        "max_abs_diff": difference if difference == difference else None,  # JSON has no NaN
        "argmax_agreement": (found.argmax(-1) == wanted.argmax(-1)).float().mean().item(),
        "generation": with_cache == without and len(without) == NEW,
    }
    return report, not faults and difference <= TOLERANCE and report["generation"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--logits", type=Path, required=True, help="safetensors file with input_ids and logits")
    args = parser.parse_args()
    try:
        stored = load_file(args.logits)
        missing = {"input_ids", "logits"} - stored.keys()
        if missing or not (args.folder / "config.json").is_file():
            parser.error(f"{args.logits} lacks {sorted(missing)}" if missing else f"{args.folder} has no config.json")
    except (OSError, SafetensorError) as error:
        parser.error(f"{args.logits}: {error}")

    try:
        report, good = verify(args.folder, stored)
    except (OSError, RuntimeError, ValueError, KeyError, ImportError, AttributeError) as error:
        report, good = {"error": f"{type(error).__name__}: {error}"}, False
    print(json.dumps({"verified": good, "folder": str(args.folder)} | report))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
