"""PyTorch's side of image classifiers: images a second of transformers' ViT, and seconds to score a pruned candidate.

    python scripts/bench_vit.py --folder target/bench-vit --threads 2            # prints one line of JSON

- `evaluation`: forward of ready pixel tensors in eval mode without gradients; the best of the batch sizes given.
- `scoring`: what a research code does to score a candidate by its gradient trace, as scripts/bench_torch.py does for language
  models: the inputs of the output projections (o and fc2) masked by forward pre-hooks, cross entropy on the given images,
  backward to all matrices of the blocks (q, k, v, o, fc1, fc2; all else frozen), then Pearson's correlation of each
  sub-block's gradients with the dense model's, weighted by kept ratios. Those are made before the clock starts.

The models are `cifar` (models/vit-cifar10-192d of the folder in TAPER_TEST_DATA) and `base`, random weights in the shape of ViT-B/16, or any
folder. `base` and the images (random, from a seed) are written once to --folder: a checkpoint in the Hub's names with
config.json and preprocessor_config.json, and `images-*.safetensors` with `pixel_values` and `labels`, so that another
program can be measured with the same.

Started by bench_common.Program instead, with one argument, a JSON object (`setting` below makes it), it does one order a line:
{"evaluation": {"batch": 8}} or {"scoring": {}}, answered with seconds, loss and value (accuracy, or the score).
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from transformers import ViTConfig, ViTForImageClassification

from bench_torch import pearson

SEED = 0
CIFAR = Path(os.environ.get("TAPER_TEST_DATA", "../shared/data")) / "models/vit-cifar10-192d"
HALVES = {"attention": ("q_proj", "k_proj", "v_proj", "o_proj"), "mlp": ("fc1", "fc2")}
PREPROCESSOR = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "ViTImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
    "rescale_factor": 1 / 255,
    "size": {"height": 224, "width": 224},
}


def model_folder(name, folder):
    """The checkpoint of `name`; that of `base` is written if it is not there."""
    if name == "cifar":
        return CIFAR
    if name != "base":
        return Path(name)
    target = folder / "vit-base-patch16-224"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            fresh = Path(fresh) / "model"
            torch.manual_seed(SEED)
            ViTForImageClassification(ViTConfig(num_labels=1000)).float().save_pretrained(fresh)
            (fresh / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=2) + "\n")
            fresh.rename(target)
    return target


def images_file(model, folder, count):
    """`count` random images and labels for `model`, written if they are not there."""
    config = ViTConfig.from_pretrained(model)
    size, channels, classes = config.image_size, config.num_channels, config.num_labels
    target = folder / f"images-{count}x{channels}x{size}x{size}-{classes}.safetensors"
    if not target.exists():
        draw = torch.Generator().manual_seed(SEED)
        pixels = torch.randn((count, channels, size, size), generator=draw)
        labels = torch.randint(0, classes, (count,), generator=draw)
        part = target.with_suffix(".part")
        save_file({"pixel_values": pixels, "labels": labels}, part)
        part.rename(target)
    return target


def setting(name, folder, threads, images, score_images, kept, score_batch=None):
    """What the program is started with for `name`."""
    folder.mkdir(parents=True, exist_ok=True)
    model = model_folder(name, folder)
    return {
        "model": str(model),
        "images": str(images_file(model, folder, images)),
        "score_images": str(images_file(model, folder, score_images)),
        "score_batch": score_batch or score_images,
        "kept": kept,
        "threads": threads,
    }


def load(setting):
    model = ViTForImageClassification.from_pretrained(
        setting["model"], dtype=torch.float32, attn_implementation=setting.get("attention", "sdpa")
    )
    return model.eval()


class Evaluation:
    """Forward of all images in batches."""

    def __init__(self, setting):
        self.model = load(setting)
        data = load_file(setting["images"])
        self.pixels, self.labels = data["pixel_values"], data["labels"]

    @torch.inference_mode()
    def run(self, batch):
        start = time.perf_counter()
        logits = torch.cat([self.model(pixel_values=pixels).logits for pixels in self.pixels.split(batch)])
        seconds = time.perf_counter() - start
        right = (logits.argmax(-1) == self.labels).float().mean()
        return seconds, cross_entropy(logits, self.labels).item(), right.item()


class Scoring:
    """The masked model, and the dense model's gradients."""

    def __init__(self, setting):
        self.model = load(setting).requires_grad_(False)
        data = load_file(setting["score_images"])
        self.pixels, self.labels = data["pixel_values"], data["labels"]
        self.batch, self.kept, self.masks = setting["score_batch"], setting["kept"], None
        self.layers = self.model.vit.layers
        for layer in self.layers:
            for at, output in enumerate((layer.attention.o_proj, layer.mlp.fc2)):
                output.register_forward_pre_hook(lambda _, inputs, at=at: self.mask(at, inputs))
            for matrices in self.matrices(layer):
                for matrix in matrices:
                    matrix.requires_grad_(True)
        self.dense = self.gradients()[1]
        config = self.model.config
        heads = config.num_attention_heads
        self.masks = [self.first(heads, config.hidden_size // heads), self.first(config.intermediate_size, 1)]

    @staticmethod
    def matrices(layer):
        """Weights of each half of a block."""
        return [[getattr(getattr(layer, half), name).weight for name in names] for half, names in HALVES.items()]

    def first(self, units, width):
        mask = torch.zeros(units * width)
        mask[: max(round(units * self.kept), 1) * width] = 1.0
        return mask

    def mask(self, at, inputs):
        return None if self.masks is None else (inputs[0] * self.masks[at],)

    def gradients(self):
        """Mean loss, and the gradients of each sub-block as one vector."""
        self.model.zero_grad(set_to_none=True)
        total = 0.0
        for pixels, labels in zip(self.pixels.split(self.batch), self.labels.split(self.batch), strict=True):
            loss = cross_entropy(self.model(pixel_values=pixels).logits, labels, reduction="sum") / len(self.labels)
            loss.backward()
            total += loss.item()
        halves = [half for layer in self.layers for half in self.matrices(layer)]
        return total, [torch.cat([matrix.grad.flatten() for matrix in half]) for half in halves]

    def run(self):
        start = time.perf_counter()
        loss, vectors = self.gradients()
        score = sum(self.kept * pearson(ours, dense) for ours, dense in zip(vectors, self.dense, strict=True))
        return time.perf_counter() - start, loss, score


KINDS = {"evaluation": Evaluation, "scoring": Scoring}


def serve(setting, answers):
    """Orders from standard input, one a line."""
    made = {}
    for line in sys.stdin:
        ((what, options),) = json.loads(line).items()
        if what not in made:
            made[what] = KINDS[what](setting)
        seconds, loss, value = made[what].run(**options)
        answer = {"seconds": seconds, "flops": 0.0, "loss": loss, "value": value}
        print(json.dumps(answer), file=answers, flush=True)


def measure(setting, works, batches, rounds):
    """Medians of `rounds`, after one run each that does not count."""
    answer = {"model": setting["model"]}
    if "evaluation" in works:
        work = Evaluation(setting)
        for batch in batches:
            work.run(batch)
        seconds = {batch: [] for batch in batches}
        for _ in range(rounds):
            for batch in batches:
                took, loss, accuracy = work.run(batch)
                seconds[batch].append(took)
        by_batch = {batch: len(work.labels) / statistics.median(took) for batch, took in seconds.items()}
        best = max(by_batch, key=by_batch.get)
        answer["evaluation"] = {
            "images": len(work.labels),
            "file": setting["images"],
            "images_per_second": by_batch[best],
            "batch": best,
            "by_batch": by_batch,
            "spread": [min(seconds[best]), max(seconds[best])],
            "loss": loss,
            "accuracy": accuracy,
        }
        del work
    if "scoring" in works:
        work = Scoring(setting)
        work.run()
        runs = [work.run() for _ in range(rounds)]
        seconds = [run[0] for run in runs]
        answer["scoring"] = {
            "images": len(work.labels),
            "file": setting["score_images"],
            "batch": setting["score_batch"],
            "kept": setting["kept"],
            "seconds_per_candidate": statistics.median(seconds),
            "spread": [min(seconds), max(seconds)],
            "loss": runs[-1][1],
            "score": runs[-1][2],
        }
    return answer


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where `base` and the images are, or are written to")
    parser.add_argument("--models", nargs="+", default=["cifar", "base"], help="cifar, base, or folders")
    parser.add_argument("--works", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32], help="of evaluation")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=64, help="evaluated in a round")
    parser.add_argument("--score-images", type=int, default=32, help="that a candidate is scored with")
    parser.add_argument("--score-batch", type=int, help="of these at once; the default is all")
    parser.add_argument("--kept", type=float, default=0.5, help="ratio of heads and channels that the candidate keeps")
    parser.add_argument("--attention", choices=("sdpa", "eager"), default="sdpa")
    return parser.parse_args()


def main():
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        given = json.loads(sys.argv[1])
        torch.set_num_threads(given["threads"])
        return serve(given, answers)
    args = arguments()
    torch.set_num_threads(args.threads)
    results = []
    for name in args.models:
        sizes = (args.threads, args.images, args.score_images, args.kept, args.score_batch)
        given = setting(name, args.folder, *sizes) | {"attention": args.attention}
        results.append(measure(given, args.works, args.batches, args.rounds))
    answer = {
        "library": f"transformers {transformers.__version__}, torch {torch.__version__}",
        "threads": args.threads,
        "attention": args.attention,
        "rounds": args.rounds,
        "models": results,
    }
    print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
