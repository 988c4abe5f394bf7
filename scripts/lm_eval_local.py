"""Tasks of lm-evaluation-harness that read their documents from a local folder, `<folder>/<task>/<split>.jsonl`."""

import hashlib
import json
import tempfile

SPLITS = {"training_split": "train", "validation_split": "validation", "test_split": "test"}


def files(folder, name, splits):
    """The file of each split; an MMLU subject's are picked out of those of all subjects."""
    if not name.startswith("mmlu_"):
        return {split: f"{folder}/{name}/{split}.jsonl" for split in splits}
    subject, own = name.removeprefix("mmlu_"), tempfile.mkdtemp()
    for split in splits:
        with open(f"{folder}/mmlu/{split}.jsonl") as source, open(f"{own}/{split}.jsonl", "w") as target:
            target.writelines(line for line in source if json.loads(line)["subject"] == subject)
    return {split: f"{own}/{split}.jsonl" for split in splits}


def task(manager, folder, name, splits, change):
    """lm_eval's own task over local documents, with the keys in `change`. Splits that the data lacks are left to the rule that it
    has for tasks without them."""
    kwargs = {"data_files": files(folder, name, splits)}
    config = {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": kwargs}
    config |= change | {key: None for key, split in SPLITS.items() if split not in splits}
    return manager._factory.build(manager._entry(name), overrides=config, registry=manager._index)


def requests(task, limit, **chat):
    """Context and continuation of each request of the first documents."""
    task.set_fewshot_seed(seed=1234)
    task.build_all_requests(limit=limit, rank=0, world_size=1, **chat)
    documents = {}
    for instance in task.instances:
        parts = [part if isinstance(part, str) else "" for part in instance.args]
        documents.setdefault(instance.doc_id, []).append(parts if len(parts) == 2 else ["", parts[0]])
    return [documents[key] for key in sorted(documents)]


def digest(texts):
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()
