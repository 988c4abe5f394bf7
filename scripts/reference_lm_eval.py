#!/usr/bin/env python3
"""Golden values of crates/eval/golden: what Python's generator draws, and what lm-evaluation-harness asks.

Needs lm_eval 0.4.13 and the folder of real test data (its `tasks/` and `models/`). From the repository's root:

    python scripts/reference_lm_eval.py DATA [random] [sciq] [prompts] [results]

`python_random.json` holds draws of `random.Random(seed)` in the order of the test. `prompts.json` holds the SHA-256 of every
request (context, a zero byte, continuation) of the first documents of tasks, with shots drawn by lm_eval's own samplers and
seed, so that no text of the datasets is in the repository. The folder has no SciQ: `sciq/` holds documents of its form, made up
here. `results.json` holds values and standard errors of a small model on the first documents of tasks, and of all of MMLU's groups.
`chats.json` is made by `reference_lm_eval_chats.py`.
"""
import json
import os
import random
import sys

import lm_eval_local

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../crates/eval/golden")
DOCUMENTS = 20
# task, shots, splits; splits that the data lacks are left to the rule that lm_eval has for tasks without them
TASKS = [
    ("arc_easy", 5, ["train", "validation", "test"]),
    ("arc_challenge", 25, ["train", "validation", "test"]),
    ("openbookqa", 2, ["train", "validation", "test"]),
    ("gsm8k", 5, ["train", "test"]),
    ("hellaswag", 10, ["validation"]),
    ("piqa", 5, ["validation"]),
    ("winogrande", 5, ["validation"]),
    ("boolq", 1, ["validation"]),
    ("commonsense_qa", 7, ["validation"]),
    ("logiqa", 3, ["validation", "test"]),
    ("lambada_openai", 3, ["test"]),
    ("wikitext", 0, ["test"]),
    ("mmlu_abstract_algebra", 5, ["dev", "test"]),
    ("mmlu_high_school_us_history", 4, ["dev", "test"]),
    ("sciq", 3, ["train", "test"]),
]
MODEL = "stories260k"
# task or group, documents of each task
RESULTS = [
    ("arc_easy", 60),
    ("hellaswag", 40),
    ("piqa", 1),
    ("boolq", 20),
    ("commonsense_qa", 40),
    ("lambada_openai", 60),
    ("wikitext", 2),
    ("gsm8k", 2),
    ("mmlu", 4),
]


def draws(seed):
    r = random.Random(seed)
    sizes = [(10, 3), (21, 5), (22, 5), (300, 5), (300, 6), (84, 6), (85, 6), (86, 6), (2000, 1), (7, 7), (1200, 25), (5, 1)]
    return {
        "seed": seed,
        "unit": [r.random() for _ in range(5)],
        "samples": [[n, k, r.sample(range(n), k)] for n, k in sizes],
        "choices": [[n, r.choices(range(n), k=8)] for n in (1, 7, 200)],
    }


def hashes(data, manager, name, shots, splits):
    folder = GOLDEN if name == "sciq" else f"{data}/tasks"
    task = lm_eval_local.task(manager, folder, name, splits, {"num_fewshot": shots})
    return [[lm_eval_local.digest(request) for request in document] for document in lm_eval_local.requests(task, DOCUMENTS)]


def sciq():
    """Documents with SciQ's fields; supports that are empty, begin with white space or hold other scripts."""
    supports = ["", "  \n Water boils.", "Plants use light. ", "\tÉnergie: 4 µJ", "Two lines.\nOf text.", "Rocks melt  at depth."]
    words = ["copper", "oxygen", "a cell", "été", "the moon", "3.5 m", "salt", "an owl"]
    os.makedirs(f"{GOLDEN}/sciq", exist_ok=True)
    for split, start in [("train", 0), ("test", 100)]:
        with open(f"{GOLDEN}/sciq/{split}.jsonl", "w") as file:
            for number in range(start, start + 24):
                answers = [f"{words[(number + 3 * k) % 8]}{' ' if number % 5 == k else ''}" for k in range(4)]
                document = {
                    "question": f"What is number {number} of {words[number * 5 % 8]}?{' ' if number % 7 == 0 else ''}",
                    "distractor3": answers[3],
                    "distractor1": answers[1],
                    "distractor2": answers[2],
                    "correct_answer": answers[0],
                    "support": supports[number % 6],
                }
                file.write(json.dumps(document, ensure_ascii=False) + "\n")


def local(data):
    """Has lm_eval read its tasks' datasets from the folder."""
    import datasets

    folders = {
        "allenai/ai2_arc": "arc_easy",
        "Rowan/hellaswag": "hellaswag",
        "baber/piqa": "piqa",
        "aps/super_glue": "boolq",
        "super_glue": "boolq",
        "tau/commonsense_qa": "commonsense_qa",
        "EleutherAI/lambada_openai": "lambada_openai",
        "EleutherAI/wikitext_document_level": "wikitext",
        "openai/gsm8k": "gsm8k",
        "gsm8k": "gsm8k",
        "cais/mmlu": "mmlu",
    }

    def load(path, name=None, **_):
        folder = f"{data}/tasks/{folders[path]}"
        splits = {}
        for file in sorted(os.listdir(folder)):
            with open(f"{folder}/{file}") as lines:
                documents = [json.loads(line) for line in lines]
            if path == "cais/mmlu":
                documents = [document for document in documents if document["subject"] == name]
            splits[file.removesuffix(".jsonl")] = datasets.Dataset.from_list(documents)
        for split in ["train", "validation"]:  # tasks want splits that the folder lacks, to take shots from; none of these has any
            splits.setdefault(split, next(iter(splits.values())))
        return datasets.DatasetDict(splits)

    datasets.load_dataset = load


def results(data):
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    local(data)
    model = HFLM(pretrained=f"{data}/models/{MODEL}", device="cpu", dtype="float32", batch_size=16)
    runs = []
    for name, limit in RESULTS:
        found = lm_eval.simple_evaluate(model=model, tasks=[name], limit=limit)["results"]
        numbers = {
            task: {key: value for key, value in values.items() if "," in key or key == "sample_len"}
            for task, values in found.items()
        }
        runs.append({"task": name, "limit": limit, "results": numbers})
        print(name, len(numbers), flush=True)
    return {"lm_eval": lm_eval.__version__, "model": MODEL, "runs": runs}


def write(name, value, indent=None):
    with open(f"{GOLDEN}/{name}.json", "w") as file:
        json.dump(value, file, indent=indent)


def main():
    import datasets
    import lm_eval
    from lm_eval.tasks import TaskManager

    datasets.disable_progress_bars()
    data, wanted = sys.argv[1], sys.argv[2:] or ["random", "sciq", "prompts", "results"]
    if "random" in wanted:
        write("python_random", [draws(seed) for seed in [0, 1, 42, 1234, 2**31 + 5, 2**40 + 17]])
    if "sciq" in wanted:
        sciq()
    if "prompts" in wanted:
        manager = TaskManager()
        tasks = [
            {"task": name, "shots": shots, "splits": splits, "documents": hashes(data, manager, name, shots, splits)}
            for name, shots, splits in TASKS
        ]
        write("prompts", {"lm_eval": lm_eval.__version__, "tasks": tasks}, indent=1)
        print({task["task"]: len(task["documents"]) for task in tasks})
    if "results" in wanted:
        write("results", results(data), indent=1)


main()
