#!/usr/bin/env python3
"""The kernels of kernels/ on a GPU without Rust: checked against PyTorch in f32, timed, in other tile sizes too.

    python3 scripts/gpu_attention.py [check] [attention] [elementwise]     (all, if none is named)

Needs nvcc, torch and cupy; has not run on a GPU yet. Prints one line a measurement: medians of 7 runs by the device's own
clock. TFLOP/s count what causal attention needs (half of the products; 5 products backward, of which 7 are done);
GB/s count each array once. Variants replace `#define`s of the sources; the first of each list is what the launchers take
(crates/kernels/src/cuda/attention.rs), and a better one is to be written there and into the source.
"""

import concurrent.futures
import math
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

import cupy
import numpy as np
import torch

KERNELS = pathlib.Path(__file__).resolve().parent.parent / "kernels"
# The forward's warps, sets of 16 queries a warp, keys of a tile; the least blocks a multiprocessor is to hold, 0 for any.
FORWARD = [(4, 2, 48, 0), (4, 2, 64, 0), (4, 2, 32, 0), (8, 2, 48, 0), (8, 1, 64, 0), (4, 1, 64, 3)]
# The backward's warps, rows of a tile, and the least blocks as above.
BACKWARD = [(8, 64, 0), (4, 64, 0), (4, 64, 3), (4, 32, 0), (8, 128, 0)]
NAMES = {"attention_mma.cu": ("WARPS", "SETS", "KEYS"), "attention_backward_mma.cu": ("WARPS", "TILE")}
D_HEADS = (16, 64, 80, 128, 256)
BF16 = torch.bfloat16
MOST = 1e-2  # relative to the norm of the reference, as in crates/kernels/tests/cuda
EPS = 1e-5

work = tempfile.TemporaryDirectory()


def variant(text, defines, blocks):
    """The source with other `#define`s, and its registers limited so that `blocks` fit."""
    for name, value in defines.items():
        text, found = re.subn(rf"^#define {name} .*$", f"#define {name} {value}", text, flags=re.M)
        assert found == 1, f"#define {name} occurs {found} times"
    if blocks:
        bound = f'extern "C" __global__ void __launch_bounds__(THREADS, {blocks}) '
        text = re.sub(r"^KERNEL (?=attention(_dq)?\()", bound, text, flags=re.M)
    return text


def build(job):
    """Compiles `(file, d_head, defines, blocks)`; the path of the binary."""
    file, d_head, defines, blocks = job
    name = "-".join(str(part) for part in (file, d_head, *defines.values(), blocks))
    source = pathlib.Path(work.name, f"{name}.cu")
    source.write_text(variant((KERNELS / file).read_text(), defines, blocks))
    major, minor = torch.cuda.get_device_capability()
    binary = source.with_suffix(".cubin")
    command = ["nvcc", "-std=c++17", f"-arch=sm_{major}{minor}", "-DSTORAGE_BF16=1", f"-DD_HEAD={d_head}", f"-I{KERNELS}"]
    subprocess.run([*command, "-cubin", "-o", str(binary), str(source)], check=True)
    return str(binary)


class Kernel:
    """A kernel of a binary; called with grid, threads, arguments and bytes of shared memory."""

    def __init__(self, binary, name):
        self.function = cupy.RawModule(path=binary).get_function(name)
        self.cost = f"{self.function.num_regs} registers, {self.function.local_size_bytes} B local"

    def __call__(self, grid, threads, arguments, shared=0):
        if shared > 48 * 1024:
            self.function.max_dynamic_shared_size_bytes = shared
        self.function(tuple(grid), (threads,), tuple(arguments), shared_mem=shared)


def pointer(tensor):
    return np.uint64(0 if tensor is None else tensor.data_ptr())


def median_ms(run, runs=7, warm=2):
    for _ in range(warm):
        run()
    times = []
    for _ in range(runs):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def away(got, want):
    return ((got.float() - want).norm() / want.norm()).item()


def random(*shape):
    return torch.randn(*shape, device="cuda").to(BF16)


class Attention:
    """Inputs and outputs of one call. `window` 0 is full; `starts` are where documents start."""

    def __init__(self, sequences, tokens, heads, kv_heads, d_head, window, kv_of=None, starts=()):
        self.size = (sequences, tokens, heads, kv_heads, d_head)
        self.window = window
        self.q, self.dout = (random(sequences * tokens, heads * d_head) for _ in range(2))
        self.k, self.v = (random(sequences * tokens, kv_heads * d_head) for _ in range(2))
        kv_of = kv_of or [head * kv_heads // heads for head in range(heads)]
        self.kv_of = torch.tensor(kv_of, device="cuda", dtype=torch.int32)
        first = [max([start for start in starts if start <= token], default=0) for token in range(tokens)]
        self.first = torch.tensor(first * sequences, device="cuda", dtype=torch.int32) if starts else None
        self.out, self.dq = (torch.zeros_like(self.q) for _ in range(2))
        self.dk, self.dv = (torch.zeros_like(self.k) for _ in range(2))
        self.log_sums, self.along = (torch.zeros(sequences * heads * tokens, device="cuda") for _ in range(2))

    def call(self, kernel, pointers, rows, threads, shared, across):
        sequences, tokens, heads, kv_heads, d_head = self.size
        last = [np.int32(tokens), np.int32(heads), np.int32(kv_heads), np.int32(self.window)]
        arguments = [pointer(tensor) for tensor in (*pointers, self.kv_of, self.first)]
        grid = (-(-tokens // rows), across, sequences)
        kernel(grid, threads, [*arguments, *last, np.float32(1 / math.sqrt(d_head))], shared)

    def forward(self, kernel, shape):
        warps, sets, keys = shape
        rows = 16 * warps * sets
        shared = (rows + 4 * keys) * (self.size[4] + 8) * 2
        self.call(kernel, (self.out, self.log_sums, self.q, self.k, self.v), rows, 32 * warps, shared, self.size[2])

    def sum_along(self, kernel):
        sequences, tokens, heads, _, _ = self.size
        arguments = [pointer(tensor) for tensor in (self.along, self.out, self.dout)]
        kernel((-(-tokens // 4), heads, sequences), 128, [*arguments, np.int32(tokens), np.int32(heads)])

    def given(self):
        return (self.q, self.k, self.v, self.dout, self.log_sums, self.along)

    def backward_q(self, kernel, shape):
        warps, tile = shape
        shared = 4 * tile * (self.size[4] + 8) * 2
        self.call(kernel, (self.dq, *self.given()), 16 * warps, 32 * warps, shared, self.size[2])

    def backward_kv(self, kernel, shape):
        warps, tile = shape
        shared = 4 * tile * (self.size[4] + 8) * 2 + 16 * tile
        self.call(kernel, (self.dk, self.dv, *self.given()), 16 * warps, 32 * warps, shared, self.size[3])

    def reference(self):
        """out, dq, dk and dv in f32."""
        sequences, tokens, heads, _, d_head = self.size
        split = lambda x: x.float().view(sequences, tokens, -1, d_head).transpose(1, 2).clone().requires_grad_()
        q, k, v = (split(x) for x in (self.q, self.k, self.v))
        place = torch.arange(tokens, device="cuda")
        behind = place[:, None] - place[None, :]
        seen = (behind >= 0) & (behind < self.window) if self.window else torch.ones_like(behind, dtype=torch.bool)
        seen = seen[None].repeat(sequences, 1, 1)
        if self.first is not None:
            seen &= place[None, None, :] >= self.first.view(sequences, tokens)[:, :, None]
        scores = q @ k[:, self.kv_of.long()].transpose(2, 3) / math.sqrt(d_head)
        out = scores.masked_fill(~seen[:, None], -torch.inf).softmax(-1) @ v[:, self.kv_of.long()]
        out.backward(self.dout.float().view(sequences, tokens, heads, d_head).transpose(1, 2))
        return [x.transpose(1, 2).reshape(sequences * tokens, -1) for x in (out.detach(), q.grad, k.grad, v.grad)]


def cases(d_head):
    yield Attention(2, 300, 4, 2, d_head, 300)
    yield Attention(1, 517, 2, 2, d_head, 0)
    yield Attention(1, 333, 3, 2, d_head, 100, kv_of=[0, 1, 1])
    yield Attention(2, 700, 2, 1, d_head, 700, starts=[1, 30, 64, 65, 128, 500])
    yield Attention(1, 400, 2, 2, d_head, 70, starts=[37, 200])


def furthest(d_head, kernels, forward, backward):
    """The largest difference from the references, over all cases."""
    ahead, along, queries, keys = kernels
    most = 0.0
    for case in cases(d_head):
        case.forward(ahead, forward)
        case.sum_along(along)
        case.backward_q(queries, backward)
        case.backward_kv(keys, backward)
        for got, want in zip((case.out, case.dq, case.dk, case.dv), case.reference()):
            difference = away(got, want)
            most = max(most, difference if difference == difference else math.inf)
    return f"away {most:.1e}" + ("" if most < MOST else " WRONG")


def shapes_of(d_head):
    """As the launchers choose."""
    forward = FORWARD[0][:3] if d_head <= 128 else (4, 1, 32)
    return forward, (BACKWARD[0][:2] if d_head <= 128 else (4, 32))


def load(binaries, d_head, forward=None, backward=None):
    """The four kernels, of variants or as they are."""
    ahead = Kernel(binaries[key("attention_mma.cu", d_head, forward)], "attention")
    along = Kernel(binaries[key("attention.cu", d_head)], "attention_along")
    back = binaries[key("attention_backward_mma.cu", d_head, backward)]
    return ahead, along, Kernel(back, "attention_dq"), Kernel(back, "attention_dkv")


def key(file, d_head, values=None):
    defines = dict(zip(NAMES[file], values)) if values else {}
    return file, d_head, tuple(defines.items()), values[-1] if values else 0


def build_all(jobs):
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        paths = pool.map(lambda job: build((job[0], job[1], dict(job[2]), job[3])), jobs)
        return dict(zip(jobs, paths))


def check():
    files = ("attention_mma.cu", "attention.cu", "attention_backward_mma.cu")
    binaries = build_all([key(file, d_head) for d_head in D_HEADS for file in files])
    for d_head in D_HEADS:
        print(f"d_head {d_head}: {furthest(d_head, load(binaries, d_head), *shapes_of(d_head))}", flush=True)


def attention():
    d_head = 128
    jobs = [key("attention.cu", d_head), key("attention_mma.cu", d_head), key("attention_backward_mma.cu", d_head)]
    jobs += [key("attention_mma.cu", d_head, values) for values in FORWARD]
    jobs += [key("attention_backward_mma.cu", d_head, values) for values in BACKWARD]
    binaries = build_all(jobs)
    long = Attention(2, 4096, 32, 32, d_head, 4096)
    flops = 4 * 2 * 32 * 4096**2 * d_head / 2
    rate = lambda factor, ms: f"{ms:.3f} ms, {factor * flops / ms / 1e9:.0f} TFLOP/s"
    forward, backward = shapes_of(d_head)
    for values in FORWARD:
        kernels = load(binaries, d_head, forward=values)
        ms = median_ms(lambda: long.forward(kernels[0], values[:3]))
        costs = f"{rate(1, ms)}, {kernels[0].cost}"
        print(f"forward {values}: {costs}, {furthest(d_head, kernels, values[:3], backward)}", flush=True)
    kernels = load(binaries, d_head)
    long.forward(kernels[0], forward)
    ms = median_ms(lambda: long.sum_along(kernels[1]))
    print(f"along: {ms:.4f} ms, {2 * 2 * long.q.numel() / ms / 1e6:.0f} GB/s")
    for values in BACKWARD:
        kernels = load(binaries, d_head, backward=values)
        dq = median_ms(lambda: long.backward_q(kernels[2], values[:2]))
        dkv = median_ms(lambda: long.backward_kv(kernels[3], values[:2]))
        costs = f"{rate(2.5, dq + dkv)}, dq {dq:.3f} ms ({kernels[2].cost}), dkv {dkv:.3f} ms ({kernels[3].cost})"
        print(f"backward {values}: {costs}, {furthest(d_head, kernels, forward, values[:2])}", flush=True)
    split = lambda x: x.view(2, 4096, 32, d_head).transpose(1, 2).contiguous()
    q, k, v = (split(x).requires_grad_() for x in (long.q, long.k, long.v))
    attend = lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
        ms, out = median_ms(attend), attend()
    back = median_ms(lambda: torch.autograd.grad(out, (q, k, v), split(long.dout), retain_graph=True))
    print(f"PyTorch's flash attention: forward {rate(1, ms)}; backward {rate(2.5, back)}")


def elementwise():
    files = ("add.cu", "gate.cu", "rope.cu", "norm.cu")
    binaries = build_all([(file, 1, (), 0) for file in files])
    kernel = lambda file, name: Kernel(binaries[file, 1, (), 0], name)

    def line(name, run, bytes, difference):
        ms = median_ms(run)
        wrong = "" if difference < MOST else " WRONG"
        print(f"{name}: {ms * 1e3:.1f} us, {bytes / ms / 1e6:.0f} GB/s, away {difference:.1e}{wrong}", flush=True)

    for rows, d in ((8192, 4096), (100, 577)):
        x, dy, base, w = random(rows, d), random(rows, d), random(rows, d), random(d)
        y, threads = torch.empty_like(x), 32 * min(16, -(-d // (32 * 32)))
        wide = x.float().requires_grad_()
        want = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPS) * w.float()
        want.backward(dy.float())
        size = [np.int32(d), np.float32(EPS)]
        norm, back = kernel("norm.cu", "rms_norm"), kernel("norm.cu", "rms_norm_backward")
        run = lambda: norm((rows,), threads, [pointer(y), pointer(x), pointer(w), *size])
        run()
        line(f"rms_norm [{rows}, {d}]", run, 4 * x.numel(), away(y, want.detach()))
        run = lambda: back((rows,), threads, [*map(pointer, (y, base, x, w, dy)), *size])
        run()
        line(f"rms_norm_backward [{rows}, {d}]", run, 8 * x.numel(), away(y, wide.grad + base.float()))
    for n in (8192 * 11008, 12345):
        gate, up, dh = (random(n) for _ in range(3))
        h, other, blocks, count = torch.empty_like(gate), torch.empty_like(gate), (-(-n // 2048),), np.int64(n)
        act = torch.nn.functional.silu(gate.float())
        kernel_gate, kernel_back = kernel("gate.cu", "gate"), kernel("gate.cu", "gate_backward")
        run = lambda: kernel_gate(blocks, 256, [*map(pointer, (h, gate, up)), count, np.int32(0)])
        run()
        line(f"swiglu [{n}]", run, 6 * n, away(h, act * up.float()))
        run = lambda: kernel_back(blocks, 256, [*map(pointer, (h, other, gate, up, dh)), count, np.int32(0)])
        run()
        line(f"swiglu_backward [{n}]", run, 10 * n, away(other, act * dh.float()))
        add = kernel("add.cu", "add")
        run = lambda: add(blocks, 256, [*map(pointer, (h, gate, up)), count])
        run()
        line(f"add [{n}]", run, 6 * n, away(h, gate.float() + up.float()))
    sequences, tokens, heads, half = 16, 4096, 12, 64
    x = random(sequences * tokens, heads * 2 * half)
    angles = torch.arange(tokens, device="cuda")[:, None] * torch.logspace(0, -4, half, device="cuda")[None]
    cosines, sines = angles.cos().contiguous(), angles.sin().contiguous()
    low, high = x.float().view(sequences, tokens, heads, 2, half).unbind(3)
    c, s = cosines[None, :, None], sines[None, :, None]
    want = torch.stack([low * c - high * s, high * c + low * s], 3).reshape(x.shape)
    parts, turn = sequences * tokens * heads * half // 8, kernel("rope.cu", "rope")
    sizes = [np.int64(parts), np.int32(heads), np.int32(half), np.int32(tokens), np.float32(1)]
    run = lambda: turn((-(-parts // 256),), 256, [*map(pointer, (x, cosines, sines)), *sizes])
    run()
    line("rope", run, 4 * x.numel(), away(x, want))
    a = torch.empty(2**28, device="cuda", dtype=torch.uint8)
    b = torch.empty_like(a)
    line("copy", lambda: b.copy_(a), 2 * a.numel(), 0.0)


def main():
    parts = {"check": check, "attention": attention, "elementwise": elementwise}
    asked = sys.argv[1:] or list(parts)
    if not set(asked) <= set(parts):
        sys.exit(__doc__)
    torch.manual_seed(0)
    for name in asked:
        parts[name]()


if __name__ == "__main__":
    main()
