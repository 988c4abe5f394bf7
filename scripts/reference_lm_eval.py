#!/usr/bin/env python3
"""Golden values of crates/eval/golden: what Python's generator draws, and what lm-evaluation-harness asks.

Needs lm_eval 0.4.13 and the folder of real test data (its `tasks/`). From the repository's root:

    python scripts/reference_lm_eval.py DATA

`python_random.json` holds draws of `random.Random(seed)` in the order of the test. `prompts.json` holds the SHA-256 of every
request (context, a zero byte, continuation) of the first documents of tasks, with shots drawn by lm_eval's own samplers and
seed, so that no text of the datasets is in the repository.
"""
import hashlib
import json
import os
import random
import sys
import tempfile

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


def hashes(data, name, shots, splits):
    import datasets
    from lm_eval.tasks import TaskManager

    datasets.disable_progress_bars()
    folder = "mmlu" if name.startswith("mmlu_") else name
    files = {split: f"{data}/tasks/{folder}/{split}.jsonl" for split in splits}
    if folder == "mmlu":
        subject = name.removeprefix("mmlu_")
        own = tempfile.mkdtemp()
        for split, path in files.items():
            files[split] = f"{own}/{split}.jsonl"
            with open(path) as source, open(files[split], "w") as target:
                target.writelines(line for line in source if json.loads(line)["subject"] == subject)
    config = {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": files}, "num_fewshot": shots}
    for key, split in [("training_split", "train"), ("validation_split", "validation"), ("test_split", "test")]:
        if split not in splits:
            config[key] = None
    manager = TaskManager()
    task = manager._factory.build(manager._entry(name), overrides=config, registry=manager._index)
    task.set_fewshot_seed(seed=1234)
    task.build_all_requests(limit=DOCUMENTS, rank=0, world_size=1)
    documents = {}
    for instance in task.instances:
        parts = [part if isinstance(part, str) else "" for part in instance.args]
        context, continuation = parts if len(parts) == 2 else ("", parts[0])
        digest = hashlib.sha256(f"{context}\0{continuation}".encode()).hexdigest()
        documents.setdefault(instance.doc_id, []).append(digest)
    return [documents[key] for key in sorted(documents)]


def main():
    import lm_eval

    with open(f"{GOLDEN}/python_random.json", "w") as file:
        json.dump([draws(seed) for seed in [0, 1, 42, 1234, 2**31 + 5, 2**40 + 17]], file)
    tasks = [
        {"task": name, "shots": shots, "splits": splits, "documents": hashes(sys.argv[1], name, shots, splits)}
        for name, shots, splits in TASKS
    ]
    with open(f"{GOLDEN}/prompts.json", "w") as file:
        json.dump({"lm_eval": lm_eval.__version__, "tasks": tasks}, file, indent=1)
    print({task["task"]: len(task["documents"]) for task in tasks})


main()
