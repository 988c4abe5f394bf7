#!/usr/bin/env python3
"""Golden values of crates/eval/golden: what Python's generator draws, and what lm-evaluation-harness asks.

Needs lm_eval 0.4.13 and the folder of real test data (its `tasks/`). From the repository's root:

    python scripts/reference_lm_eval.py DATA

`python_random.json` holds draws of `random.Random(seed)` in the order of the test. `prompts.json` holds the SHA-256 of every
request (context, a zero byte, continuation) of the first documents of tasks, with shots drawn by lm_eval's own samplers and
seed, so that no text of the datasets is in the repository. `chats.json` holds such hashes under the chat templates beside it,
one a document, and what a small model answers under them.
"""
import hashlib
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
]

MODEL = "llama-ts-wiki-7.9m"
TEMPLATES = ["chatml", "headers", "strict"]
SYSTEM = "You answer briefly. \u00c9tudiez bien!"
ALL = ["train", "validation", "test"]
# task, splits, what is changed in it
CHATS = [
    ("arc_easy", ALL, {"num_fewshot": 3}),
    ("arc_easy", ALL, {"num_fewshot": 1, "gen_prefix": "The answer is"}),
    ("winogrande", ["validation"], {"num_fewshot": 2}),
    ("lambada_openai", ["test"], {"num_fewshot": 1}),
    ("gsm8k", ["train", "test"], {"num_fewshot": 2}),
    ("gsm8k", ["train", "test"], {"num_fewshot": 0, "gen_prefix": "{{question[:5]}} so "}),
]
SHORT = {"until": ["Question:", "</s>", "<|im_end|>"], "do_sample": False, "temperature": 0.0, "max_gen_toks": 24}
# template, turns of their own, task, documents
ANSWERS = [
    ("chatml", False, ("arc_easy", ALL, {"num_fewshot": 1}), 12),
    ("headers", True, ("arc_easy", ALL, {"num_fewshot": 2}), 12),
    ("headers", False, ("lambada_openai", ["test"], {"num_fewshot": 0}), 12),
    ("chatml", True, ("gsm8k", ["train", "test"], {"num_fewshot": 1, "generation_kwargs": SHORT}), 6),
    ("headers", True, ("gsm8k", ["train", "test"], {"num_fewshot": 1, "generation_kwargs": SHORT}), 6),
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


def digest(texts):
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def requests(task, **chat):
    """Context and continuation of each request of the first documents."""
    task.set_fewshot_seed(seed=1234)
    task.build_all_requests(limit=DOCUMENTS, rank=0, world_size=1, **chat)
    documents = {}
    for instance in task.instances:
        parts = [part if isinstance(part, str) else "" for part in instance.args]
        documents.setdefault(instance.doc_id, []).append(parts if len(parts) == 2 else ["", parts[0]])
    return [documents[key] for key in sorted(documents)]


def hashes(data, manager, name, shots, splits):
    task = lm_eval_local.task(manager, data, name, splits, {"num_fewshot": shots})
    return [[digest(request) for request in document] for document in requests(task)]


def chat_hashes(data, manager, model):
    """One hash a document, of all its requests, by template, turns and system's text."""
    cases = []
    for template in TEMPLATES:
        model.tokenizer.chat_template = open(f"{GOLDEN}/{template}.jinja").read()
        for multiturn in (False, True):
            for system in (None, SYSTEM):
                chat = {"apply_chat_template": True, "fewshot_as_multiturn": multiturn, "system_instruction": system}
                chat |= {"chat_template": model.apply_chat_template, "tokenizer_name": template}
                for name, splits, change in CHATS:
                    task = lm_eval_local.task(manager, data, name, splits, change)
                    documents = [digest(sum(document, [])) for document in requests(task, **chat)]
                    case = {"template": template, "multiturn": multiturn, "system": system, "task": name}
                    cases.append(case | {"splits": splits, "change": change, "documents": documents})
    return cases


def chat_answers(data, manager, model):
    """What the model answers under templates with and without a begin token of their own."""
    import lm_eval

    answers = []
    for template, multiturn, (name, splits, change), limit in ANSWERS:
        model.tokenizer.chat_template = open(f"{GOLDEN}/{template}.jinja").read()
        task = lm_eval_local.task(manager, data, name, splits, change)
        found = lm_eval.simple_evaluate(
            model=model,
            tasks=[task],
            limit=limit,
            bootstrap_iters=0,
            apply_chat_template=True,
            fewshot_as_multiturn=multiturn,
            system_instruction=SYSTEM,
        )
        samples = sorted(found["samples"][name], key=lambda sample: sample["doc_id"])
        samples = [sample for sample in samples if sample["filter"] == samples[0]["filter"]]
        case = {"template": template, "multiturn": multiturn, "system": SYSTEM, "task": name, "splits": splits}
        answers.append(case | {"change": change, "resps": [[answer[0] for answer in s["resps"]] for s in samples]})
    return answers


def main():
    import datasets
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    datasets.disable_progress_bars()
    data, manager = sys.argv[1], TaskManager()
    with open(f"{GOLDEN}/python_random.json", "w") as file:
        json.dump([draws(seed) for seed in [0, 1, 42, 1234, 2**31 + 5, 2**40 + 17]], file)
    tasks = [
        {"task": name, "shots": shots, "splits": splits, "documents": hashes(data, manager, name, shots, splits)}
        for name, shots, splits in TASKS
    ]
    with open(f"{GOLDEN}/prompts.json", "w") as file:
        json.dump({"lm_eval": lm_eval.__version__, "tasks": tasks}, file, indent=1)
    model = HFLM(pretrained=f"{data}/models/{MODEL}", dtype="float32", device="cpu", batch_size=1)
    chats = {"requests": chat_hashes(data, manager, model), "answers": chat_answers(data, manager, model)}
    with open(f"{GOLDEN}/chats.json", "w") as file:
        json.dump({"lm_eval": lm_eval.__version__, "model": MODEL, **chats}, file, indent=1)
    print({task["task"]: len(task["documents"]) for task in tasks}, len(chats["requests"]), len(chats["answers"]))


main()
