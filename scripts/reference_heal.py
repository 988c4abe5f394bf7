"""Healing by PyTorch, transformers and peft: the numbers that crates/heal's tests compare with.

    python scripts/reference_heal.py units -o crates/heal/golden/units.json
    python scripts/reference_heal.py runs --data DATA --taper target/release/taper -o crates/heal/golden/runs.json

`units`: each objective's loss and gradient by autograd, and 200 steps of each optimizer on fixed tensors.
`runs`: losses and gradient norms of whole trainings of a real model (stories260k with half of its channels, by itself and by
the whole one), token for token as taper reads them; adapters begin where `taper heal` begins them. Prints, too, how far
logits of taper's merged model are from those of `peft` with the adapters on the student.
"""

import argparse
import inspect
import json
import math
import pathlib
import subprocess
import tempfile

import torch
import torch.nn.functional as F

MUONS_OWN = torch.optim._muon._zeropower_via_newtonschulz
STEPS, SEQUENCES, LENGTH, SEED = 40, 4, 64, 5


def listed(tensor):
    return [float(f"{x:.9g}") for x in tensor.detach().flatten().tolist()]


# Objectives. Rows of logits are [tokens, vocab]; losses are means over tokens.


def divergence(student, teacher, direction, temperature, beta=0.5, top=None):
    log_p, log_q = F.log_softmax(teacher / temperature, -1), F.log_softmax(student / temperature, -1)
    if top is not None:
        ids = teacher.topk(top, -1).indices
        rest = lambda logs: torch.log1p(-logs.gather(-1, ids).exp().sum(-1, keepdim=True))
        log_p, log_q = (torch.cat([logs.gather(-1, ids), rest(logs)], -1) for logs in (log_p, log_q))
    kl = lambda a, b: (a.exp() * (a - b)).sum(-1)
    if direction == "forward":
        found = kl(log_p, log_q)
    elif direction == "reverse":
        found = kl(log_q, log_p)
    else:
        log_m = torch.log(beta * log_p.exp() + (1 - beta) * log_q.exp())
        found = beta * kl(log_p, log_m) + (1 - beta) * kl(log_q, log_m)
    return temperature**2 * found.mean()


def hidden_mse(student, teacher, relative=True):
    square = (student - teacher).pow(2).sum(-1)
    size = teacher.pow(2).sum(-1) if relative else float(student.shape[-1])
    return (square / size).mean()


def cka(student, teacher):
    x, y = (rows - rows.mean(0) for rows in (student.flatten(0, -2), teacher.flatten(0, -2)))
    return 1 - (y.T @ x).pow(2).sum() / ((x.T @ x).norm() * (y.T @ y).norm())


def relations(student, teacher, heads, distance):
    def scores(rows):
        sequences, length, width = rows.shape
        split = rows.view(sequences, length, heads, width // heads).transpose(1, 2)
        return split @ split.transpose(-1, -2) / math.sqrt(width // heads)

    own, other = scores(student), scores(teacher)
    if distance == "mse":
        return F.mse_loss(own, other)
    return F.kl_div(F.log_softmax(own, -1), F.log_softmax(other, -1), log_target=True, reduction="none").sum(-1).mean()


def units():
    torch.manual_seed(0)
    vocab, tokens = 11, 3
    student, teacher = 2 * torch.randn(tokens, vocab), 2 * torch.randn(tokens, vocab)
    voters = F.softmax(torch.randn(2, tokens, vocab), -1).mean(0)
    targets = torch.tensor([4, 0, 10])
    cases = []

    def case(name, params, inputs, loss):
        leaf = inputs["student"].clone().double().requires_grad_()
        value = loss(leaf)
        value.backward()
        shapes = {key: list(tensor.shape) for key, tensor in inputs.items()}
        numbers = {key: tensor.tolist() if tensor.dtype == torch.int64 else listed(tensor) for key, tensor in inputs.items()}
        cases.append({"objective": name, "params": params, "shapes": shapes, "inputs": numbers, "loss": value.item(), "gradient": listed(leaf.grad)})

    logits = {"student": student, "teacher": teacher, "targets": targets}
    for smoothing in (0.0, 0.1):
        ce = lambda x: F.cross_entropy(x, targets, label_smoothing=smoothing)
        case("cross-entropy", {"label_smoothing": smoothing}, logits, ce)
    for direction in ("forward", "reverse", "jensen-shannon"):
        for temperature, top in ((1.0, None), (2.5, None), (2.0, 4)):
            params = {"direction": direction, "temperature": temperature, "top": top, "beta": 0.3}
            case("logit-kl", params, logits, lambda x: divergence(x, teacher.double(), direction, temperature, 0.3, top))
    vote = lambda x: 4 * F.kl_div(F.log_softmax(x / 2, -1), voters.double(), reduction="batchmean")
    case("self-distill", {"temperature": 2.0}, {**logits, "votes": voters}, vote)
    rows = {"student": torch.randn(2, 5, 6), "teacher": torch.randn(2, 5, 6)}
    narrow = {"student": torch.randn(2, 5, 4), "teacher": torch.randn(2, 5, 8)}
    for relative in (True, False):
        case("hidden-mse", {"relative": relative}, rows, lambda x: hidden_mse(x, rows["teacher"].double(), relative))
    for inputs in (rows, narrow):
        case("cka", {}, inputs, lambda x: cka(x, inputs["teacher"].double()))
        for distance in ("mse", "kl"):
            loss = lambda x: relations(x, inputs["teacher"].double(), 2, distance)
            case("qkv-relations", {"heads": 2, "distance": distance}, inputs, loss)
    return {"torch": torch.__version__, "objectives": cases, "optimizers": optimizers()}


def lion(parameters, rate, beta1, beta2, decay):
    """arXiv:2302.06675, algorithm 2."""
    state = {}

    def step():
        for p in parameters:
            m = state.setdefault(p, torch.zeros_like(p))
            update = torch.sign(beta1 * m + (1 - beta1) * p.grad)
            p.data.mul_(1 - rate() * (decay if p.ndim == 2 else 0)).add_(update, alpha=-rate())
            m.mul_(beta2).add_(p.grad, alpha=1 - beta2)

    return step


def muon(parameters, rate, **options):
    """torch's, but with Newton and Schulz in the parameters' own precision."""
    module = torch.optim._muon
    source = inspect.getsource(MUONS_OWN)
    assert "dtype=torch.bfloat16" in source
    exec(source.replace("torch.bfloat16", "grad.dtype"), vars(module))
    return torch.optim.Muon(parameters, lr=rate, adjust_lr_fn="match_rms_adamw", **options)


def optimizers():
    """Weights after some of 200 steps; gradients are `w · 0.3 + sin(step · (i + 1))`, so errors would grow."""
    found = []
    kept = [1, 2, 10, 50, 100, 200]
    for name, shape, rate in (
        ("adamw", (6, 10), 1e-2), ("adamw", (7,), 1e-2), ("lion", (6, 10), 1e-3), ("lion", (7,), 1e-3),
        ("muon", (6, 10), 1e-2), ("muon", (10, 6), 1e-2), ("muon", (7,), 1e-2),
    ):
        count = math.prod(shape)
        weight = torch.cos(torch.arange(count, dtype=torch.float64)).float().view(shape)
        weight.requires_grad_()
        decay = 0.1 if len(shape) == 2 else 0.0
        if name == "lion":
            step = lion([weight], lambda: rate, 0.95, 0.98, 1.0)
        elif name == "muon" and len(shape) == 2:
            step = muon([weight], rate, momentum=0.95, nesterov=True, weight_decay=0.1).step
        else:
            step = torch.optim.AdamW([weight], lr=rate, betas=(0.9, 0.95), eps=1e-8, weight_decay=decay).step
        weights = {}
        for number in range(1, 201):
            phases = torch.arange(1, count + 1, dtype=torch.float64) * number
            weight.grad = (torch.sin(phases).float().view(shape) + 0.3 * weight.detach()).contiguous()
            step()
            if number in kept:
                weights[number] = listed(weight)
        found.append({"optimizer": name, "shape": shape, "rate": rate, "weights": weights})
    return found


# Whole trainings.


def load(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def half_of_channels(folder):
    """The model with the first half of each MLP's channels."""
    from transformers import LlamaForCausalLM

    whole = load(folder)
    config = type(whole.config).from_dict(whole.config.to_dict())
    config.intermediate_size //= 2
    student = LlamaForCausalLM(config)
    weights = whole.state_dict()
    for name in list(weights):
        if "gate_proj" in name or "up_proj" in name:
            weights[name] = weights[name][: config.intermediate_size]
        elif "down_proj" in name:
            weights[name] = weights[name][:, : config.intermediate_size]
    student.load_state_dict(weights)
    return student


def inner(model, ids):
    """Logits, the residual stream after each block, and q, k, v of the last attention as they are attended."""
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    streams, projections, hooks = [], {}, []
    for layer in base.model.layers:
        take = lambda _, __, out: streams.append(out[0] if isinstance(out, tuple) else out)
        hooks.append(layer.register_forward_hook(take))
    attention = base.model.layers[-1].self_attn
    for name in "qkv":
        put = lambda _, __, out, name=name: projections.__setitem__(name, out)
        hooks.append(getattr(attention, f"{name}_proj").register_forward_hook(put))
    logits = model(ids).logits
    for hook in hooks:
        hook.remove()
    d_head = base.model.layers[-1].self_attn.head_dim
    split = lambda x: x.view(*x.shape[:2], -1, d_head).transpose(1, 2)
    cos, sin = base.model.rotary_emb(streams[0], torch.arange(ids.shape[1])[None])
    q, k = apply_rotary_pos_emb(split(projections["q"]), split(projections["k"]), cos, sin)
    join = lambda x: x.transpose(1, 2).flatten(2)
    return logits, streams, [join(q), join(k), projections["v"]]


def loss_of(case, student, teacher, ids):
    logits, streams, projections = inner(student, ids)
    with torch.no_grad():
        wanted, teachers_streams, teachers_projections = inner(teacher, ids)
    logits, wanted, targets = logits[:, :-1].flatten(0, 1), wanted[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
    loss = 0
    for objective in case["objectives"]:
        ((name, params),) = objective.items()
        weight = params.get("weight", 1.0)
        if name == "cross-entropy":
            one = F.cross_entropy(logits, targets, label_smoothing=params.get("label_smoothing", 0.0))
        elif name == "logit-kl":
            direction, temperature = params.get("direction", "forward"), params.get("temperature", 1.0)
            one = divergence(logits, wanted, direction, temperature, top=params.get("top"))
        elif name == "hidden-mse":
            one = sum(map(hidden_mse, streams, teachers_streams)) / len(streams)
        elif name == "cka":
            one = sum(map(cka, streams, teachers_streams)) / len(streams)
        else:
            one = sum(relations(a, b, params["heads"], "mse") for a, b in zip(projections, teachers_projections)) / 3
        loss = loss + weight * one
    return loss


def optimizer_of(case, model):
    ((name, options),) = case["optimizer"].items()
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    rate = {"now": 0.0}
    if name == "lion":
        return rate, lion([p for _, p in named], lambda: rate["now"], 0.95, 0.98, options.get("weight_decay", 1.0))
    hidden = [p for key, p in named if p.ndim == 2 and "_proj" in key] if name == "muon" else []
    rest = [p for _, p in named if all(p is not other for other in hidden)]
    groups = [
        {"params": [p for p in rest if p.ndim == 2], "weight_decay": 0.1},
        {"params": [p for p in rest if p.ndim != 2], "weight_decay": 0.0},
    ]
    all_of = [torch.optim.AdamW([group for group in groups if group["params"]], lr=1.0, betas=(0.9, 0.95), eps=1e-8)]
    if hidden:
        all_of.append(muon(hidden, 1.0, momentum=0.95, nesterov=True, weight_decay=0.1))

    def step():
        for one in all_of:
            for group in one.param_groups:
                group["lr"] = rate["now"]
            one.step()

    return rate, step


def train(case, student, teacher, ids):
    rate, step = optimizer_of(case, student)
    warm = math.floor(0.02 * STEPS)
    losses, norms = [], []
    for number in range(STEPS):
        batch = ids[number * SEQUENCES * LENGTH : (number + 1) * SEQUENCES * LENGTH].view(SEQUENCES, LENGTH)
        student.zero_grad()
        loss = loss_of(case, student, teacher, batch)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0).item())
        left = (number - warm) / max(STEPS - warm - 1, 1)
        factor = (number + 1) / (warm + 1) if number < warm else (1 + math.cos(math.pi * left)) / 2
        rate["now"] = case["rate"] * factor
        step()
        losses.append(loss.item())
    return {**case, "losses": losses, "norms": norms}


CASES = [
    {"name": "adamw", "objectives": [{"cross-entropy": {}}], "optimizer": {"adamw": {}}, "rate": 2e-3},
    {"name": "lion", "objectives": [{"cross-entropy": {"label_smoothing": 0.1}}], "optimizer": {"lion": {}}, "rate": 2e-4},
    {"name": "muon", "objectives": [{"logit-kl": {}}], "optimizer": {"muon": {}}, "rate": 2e-3},
    {
        "name": "both", "optimizer": {"adamw": {}}, "rate": 2e-3,
        "objectives": [{"logit-kl": {"temperature": 2.0, "top": 8, "weight": 0.5}}, {"cross-entropy": {}}],
    },
    {
        "name": "inner", "optimizer": {"adamw": {}}, "rate": 2e-3,
        "objectives": [{"hidden-mse": {"weight": 2.0}}, {"cka": {}}, {"qkv-relations": {"heads": 4, "weight": 0.1}}],
    },
    {
        "name": "lora", "objectives": [{"logit-kl": {}}], "optimizer": {"adamw": {}}, "rate": 5e-3,
        "lora": {"rank": 8, "alpha": 32.0, "dora": False},
    },
    {
        "name": "dora", "objectives": [{"cross-entropy": {}}], "optimizer": {"adamw": {}}, "rate": 5e-3,
        "lora": {"rank": 8, "alpha": 32.0, "dora": True},
    },
]


def taper_heal(taper, student, teacher, text, out, case, steps, rate):
    """`taper heal` of `case`; the folder of the result."""
    settings = {"objectives": case["objectives"], "optimizer": case["optimizer"], "lora": case["lora"], "best": False}
    sets = [argument for key, value in settings.items() for argument in ("--set", f"{key}={json.dumps(value)}")]
    command = [taper, "heal", student, "--teacher", teacher, "--data", text, "--out", out]
    numbers = {"steps": steps, "rate": rate, "sequences": SEQUENCES, "length": LENGTH, "seed": SEED}
    told = [argument for key, value in numbers.items() for argument in (f"--{key}", str(value))]
    subprocess.run([str(x) for x in (*command, *told, *sets, "--progress", "silent", "--json")], check=True, stdout=subprocess.PIPE)
    return out / "heal"


def runs(data, taper):
    from peft import PeftModel
    from transformers import AutoTokenizer

    original = data / "models/stories260k"
    # one document, so that its tokens come in their order
    text = (data / "text/tinystories_valid.txt").read_text()[:60_000]
    tokenizer = AutoTokenizer.from_pretrained(original)
    ids = torch.tensor(tokenizer(text).input_ids)
    assert len(ids) > STEPS * SEQUENCES * LENGTH, len(ids)
    teacher = load(original).eval()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        half_of_channels(original).save_pretrained(place / "student")
        tokenizer.save_pretrained(place / "student")
        (place / "text.jsonl").write_text("".join(json.dumps({"text": piece}) + "\n" for piece in text.split("\n\n")))
        for case in CASES:
            student = half_of_channels(original)
            if "lora" in case:
                arguments = (place / "student", original, place / "text.jsonl")
                # a step of next to nothing: adapters as they begin
                begun = taper_heal(taper, *arguments, place / f"{case['name']}-begun", case, 1, 1e-30)
                student = PeftModel.from_pretrained(student, begun / "adapter", is_trainable=True)
                done = taper_heal(taper, *arguments, place / case["name"], case, STEPS, case["rate"])
                sample = ids[: 2 * LENGTH].view(2, LENGTH)
                with torch.no_grad():
                    merged = load(done)(sample).logits
                    beside = PeftModel.from_pretrained(half_of_channels(original), done / "adapter")(sample).logits
                print(f"{case['name']}: logits of the merged model and of peft differ by {(merged - beside).abs().max():.2e}")
            found.append(train(case, student, teacher, ids))
            print(f"{case['name']}: {found[-1]['losses'][0]:.4f} to {found[-1]['losses'][-1]:.4f}")
    shape = {"steps": STEPS, "sequences": SEQUENCES, "length": LENGTH, "seed": SEED, "characters": 60_000}
    return {"torch": torch.__version__, "shape": shape, "runs": found}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["units", "runs"])
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--taper", type=pathlib.Path)
    parser.add_argument("-o", "--output", required=True)
    args = parser.parse_args()
    torch.set_num_threads(2)
    found = units() if args.what == "units" else runs(args.data, args.taper.absolute())
    pathlib.Path(args.output).write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
