"""One engine on one layout, for `taper verify`: reads a request from stdin, answers in a line of JSON.

Of a classifier of images: pixels (a file of f32) and shape instead of ids and prompt; text is the class of each.

Request: engine, path, ids (lists of token ids), prompt and generate (greedy tokens after it), options (more for the engine),
output (a file for logits, of vllm their logarithms of probabilities, f32 little-endian: all of ids, token by token). Answer:
version, text (greedy ids); or absent (what is missing); or failed.
"""

import json
import sys


def images(request):
    import numpy
    import torch
    import transformers
    from transformers import AutoConfig, AutoModelForImageClassification

    config = AutoConfig.from_pretrained(request["path"], trust_remote_code=request["remote_code"])
    # DeiT's class with two classifiers is not the one that the automatic class takes
    stock = getattr(transformers, config.architectures[0], AutoModelForImageClassification)
    load = {"dtype": torch.float32} | ({"trust_remote_code": True} if request["remote_code"] else {})
    model = (AutoModelForImageClassification if request["remote_code"] else stock).from_pretrained(request["path"], **load)
    pixels = torch.from_numpy(numpy.fromfile(request["pixels"], dtype="<f4").reshape(request["shape"]))
    with torch.no_grad():
        logits = model.eval()(pixel_values=pixels).logits
    return f"transformers {transformers.__version__}", [logits.numpy()], logits.argmax(-1).tolist()


def transformers(request):
    import torch
    import transformers
    from transformers import AutoModelForCausalLM

    transformers.utils.logging.set_verbosity_error()
    if request["shape"]:
        return images(request)
    load = {"dtype": torch.float32, "trust_remote_code": request["remote_code"]}
    model = AutoModelForCausalLM.from_pretrained(request["path"], **load).eval()
    with torch.no_grad():
        logits = [model(torch.tensor([ids])).logits[0].numpy() for ids in request["ids"]]
        ids = list(request["prompt"])
        while len(ids) < len(request["prompt"]) + request["generate"]:
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return f"transformers {transformers.__version__}", logits, ids


def onnx(request):
    import os

    import numpy
    import onnxruntime

    pixels = numpy.fromfile(request["pixels"], dtype="<f4").reshape(request["shape"])
    model = onnxruntime.InferenceSession(os.path.join(request["path"], "model.onnx"), providers=["CPUExecutionProvider"])
    logits = model.run(["logits"], {"pixel_values": pixels})[0]
    return f"onnxruntime {onnxruntime.__version__}", [logits], logits.argmax(-1).tolist()


def llama_cpp(request):
    import llama_cpp
    import numpy

    most = max(len(ids) for ids in [*request["ids"], request["prompt"] + [0] * request["generate"]])
    # the cache in f32: its rounding is not the file's
    options = {"n_ctx": most + 8, "logits_all": True, "verbose": False, "type_k": 0, "type_v": 0}
    model = llama_cpp.Llama(model_path=request["path"], **options)
    logits = []
    for ids in request["ids"]:
        model.reset()
        model.eval(ids)
        logits.append(numpy.array(model.scores[: len(ids)], dtype=numpy.float32))
    model.reset()
    ids = list(request["prompt"])
    model.eval(ids)
    while len(ids) < len(request["prompt"]) + request["generate"]:
        ids.append(int(model.scores[len(ids) - 1].argmax()))
        model.eval(ids[-1:])
    return f"llama-cpp-python {llama_cpp.__version__}", logits, ids


def vllm(request):
    import os

    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # a child of this program could not start
    import numpy
    import torch
    import vllm

    if not torch.cuda.is_available():
        raise ImportError("a CUDA GPU")
    most = max(len(ids) for ids in [*request["ids"], request["prompt"] + [0] * request["generate"]])
    options = {"dtype": "float32", "enforce_eager": True, "skip_tokenizer_init": True, "max_logprobs": -1}
    options |= {"max_model_len": most + 1, "enable_prefix_caching": False, "gpu_memory_utilization": 0.5}
    options |= {"trust_remote_code": request["remote_code"]} | request["options"]
    model = vllm.LLM(request["path"], **options)
    plain = {"temperature": 0, "detokenize": False, "ignore_eos": True}
    every = vllm.SamplingParams(max_tokens=1, logprobs=-1, prompt_logprobs=-1, **plain)
    logits = []
    for answer in model.generate([{"prompt_token_ids": ids} for ids in request["ids"]], every, use_tqdm=False):
        rows = [*answer.prompt_logprobs[1:], answer.outputs[0].logprobs[0]]
        logits.append(numpy.array([[row[token].logprob for token in range(len(row))] for row in rows]))
    text = vllm.SamplingParams(max_tokens=request["generate"], **plain)
    said = model.generate([{"prompt_token_ids": request["prompt"]}], text, use_tqdm=False)[0].outputs[0].token_ids
    return f"vllm {vllm.__version__}", logits, [*request["prompt"], *said]


def main():
    request = json.load(sys.stdin)
    try:
        engines = {"transformers": transformers, "llama.cpp": llama_cpp, "onnxruntime": onnx, "vllm": vllm}
        version, logits, text = engines[request["engine"]](request)
    except ImportError as cause:
        return {"absent": str(cause)}
    except Exception as cause:
        return {"failed": f"{type(cause).__name__}: {cause}"}
    with open(request["output"], "wb") as file:
        for rows in logits:
            file.write(rows.astype("<f4").tobytes())
    return {"version": version, "text": [int(token) for token in text]}


if __name__ == "__main__":
    print("\n" + json.dumps(main()))
