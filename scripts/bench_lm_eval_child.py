"""One evaluation by lm-evaluation-harness's `hf` model, timed from inside; started by scripts/bench_vs_lm_eval.py.

The one argument is a JSON object; the last line of stdout is one, with seconds of imports, of loading the model and of
evaluating, and the task's metrics.
"""

import json
import os
import sys
import time

START = time.perf_counter()
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}


def main():
    order = json.loads(sys.argv[1])
    import datasets
    import lm_eval
    import torch
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    import lm_eval_local

    torch.set_num_threads(order["threads"])
    datasets.disable_progress_bars()
    imported = time.perf_counter()
    model = HFLM(pretrained=order["model"], dtype="float32", device="cpu", batch_size=order["batch"])
    loaded = time.perf_counter()
    task = lm_eval_local.task(TaskManager(), f"{order['data']}/tasks", order["task"], order["splits"], {})
    evaluate, took = evaluator.evaluate, []

    def timed(*args, **kwargs):  # without the index of all tasks before it, and the description of the machine after it
        start = time.perf_counter()
        results = evaluate(*args, **kwargs)
        took.append(time.perf_counter() - start)
        return results

    evaluator.evaluate = timed
    found = evaluator.simple_evaluate(model=model, tasks=[task], limit=order["limit"], bootstrap_iters=0)
    metrics = {key: value for key, value in found["results"][order["task"]].items() if isinstance(value, float)}
    seconds = {"import": imported - START, "load": loaded - imported, "evaluate": sum(took)}
    print(json.dumps({"seconds": seconds, "metrics": metrics, "version": lm_eval.__version__}))


main()
