#!/usr/bin/env python3
"""`chats.json` of crates/eval/golden: what lm-evaluation-harness asks under chat templates, and what a small model answers.

Needs lm_eval 0.4.13 and the folder of real test data. From the repository's root:

    python scripts/reference_lm_eval_chats.py DATA

It holds one SHA-256 for all requests of a document, under each of the templates beside it, in one turn and in several, with
and without a system's text.
"""
import json
import os
import sys

import lm_eval_local

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../crates/eval/golden")
DOCUMENTS = 20
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


def hashes(data, manager, model):
    """One hash a document, of all its requests, by template, turns and system's text."""
    cases = []
    for template in TEMPLATES:
        model.tokenizer.chat_template = open(f"{GOLDEN}/{template}.jinja").read()
        for multiturn in (False, True):
            for system in (None, SYSTEM):
                chat = {"apply_chat_template": True, "fewshot_as_multiturn": multiturn, "system_instruction": system}
                chat |= {"chat_template": model.apply_chat_template, "tokenizer_name": template}
                for name, splits, change in CHATS:
                    task = lm_eval_local.task(manager, f"{data}/tasks", name, splits, change)
                    documents = [lm_eval_local.digest(sum(document, [])) for document in lm_eval_local.requests(task, DOCUMENTS, **chat)]
                    case = {"template": template, "multiturn": multiturn, "system": system, "task": name}
                    cases.append(case | {"splits": splits, "change": change, "documents": documents})
    return cases


def answers(data, manager, model):
    """What the model answers under templates with and without a begin token of their own."""
    import lm_eval

    found_of = []
    for template, multiturn, (name, splits, change), limit in ANSWERS:
        model.tokenizer.chat_template = open(f"{GOLDEN}/{template}.jinja").read()
        task = lm_eval_local.task(manager, f"{data}/tasks", name, splits, change)
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
        found_of.append(case | {"change": change, "resps": [[answer[0] for answer in s["resps"]] for s in samples]})
    return found_of


def main():
    import datasets
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    datasets.disable_progress_bars()
    data, manager = sys.argv[1], TaskManager()
    model = HFLM(pretrained=f"{data}/models/{MODEL}", dtype="float32", device="cpu", batch_size=1)
    chats = {"requests": hashes(data, manager, model), "answers": answers(data, manager, model)}
    with open(f"{GOLDEN}/chats.json", "w") as file:
        json.dump({"lm_eval": lm_eval.__version__, "model": MODEL, **chats}, file, indent=1)
    print(len(chats["requests"]), len(chats["answers"]))


main()
