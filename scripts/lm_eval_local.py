"""Tasks of lm-evaluation-harness that read their documents from a local folder, `<data>/tasks/<task>/<split>.jsonl`."""

import json
import tempfile

SPLITS = {"training_split": "train", "validation_split": "validation", "test_split": "test"}


def files(data, name, splits):
    """The file of each split; an MMLU subject's are picked out of those of all subjects."""
    if not name.startswith("mmlu_"):
        return {split: f"{data}/tasks/{name}/{split}.jsonl" for split in splits}
    subject, own = name.removeprefix("mmlu_"), tempfile.mkdtemp()
    for split in splits:
        with open(f"{data}/tasks/mmlu/{split}.jsonl") as source, open(f"{own}/{split}.jsonl", "w") as target:
            target.writelines(line for line in source if json.loads(line)["subject"] == subject)
    return {split: f"{own}/{split}.jsonl" for split in splits}


def task(manager, data, name, splits, change):
    """lm_eval's own task over local documents, with the keys in `change`. Splits that the data lacks are left to the rule that it
    has for tasks without them."""
    kwargs = {"data_files": files(data, name, splits)}
    config = {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": kwargs}
    config |= change | {key: None for key, split in SPLITS.items() if split not in splits}
    return manager._factory.build(manager._entry(name), overrides=config, registry=manager._index)
