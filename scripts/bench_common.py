"""What the benchmarks share: programs that do one order a line, measured from outside, and figures of what was measured."""

import json
import os
import random
import statistics
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

PAUSE = 0.3  # seconds between measurements: thread pools of the other program stop spinning


@dataclass(frozen=True)
class Shape:
    """A Llama with random weights, and the tokens it is measured with."""

    d_model: int
    blocks: int
    heads: int
    d_ff: int
    vocab: int
    sequences: int
    length: int

    def __str__(self):
        model = f"d_model {self.d_model}, {self.blocks} blocks, {self.heads} heads, d_ff {self.d_ff}, vocab {self.vocab}"
        return f"{model}; {self.sequences} × {self.length} tokens"

    def setting(self, folder, kept=0.5, rank=64):
        """Writes the checkpoint and ids if they are not there; what the programs are started with."""
        model = folder / f"d{self.d_model}-b{self.blocks}-h{self.heads}-f{self.d_ff}-v{self.vocab}"
        if not (model / "config.json").exists():
            self.write(model)
        ids = folder / f"ids-{self.vocab}-{self.sequences}x{self.length}.json"
        if not ids.exists():
            draw = random.Random(0)
            ids.write_text(json.dumps([draw.randrange(self.vocab) for _ in range(self.sequences * self.length)]))
        rank = min(rank, self.d_model)
        return {"model": str(model), "ids": str(ids), "length": self.length, "kept": kept, "rank": rank}

    def write(self, folder):
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        torch.manual_seed(0)
        config = LlamaConfig(
            hidden_size=self.d_model,
            num_hidden_layers=self.blocks,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            intermediate_size=self.d_ff,
            vocab_size=self.vocab,
            max_position_embeddings=max(self.length, 2048),
            initializer_range=0.02,
            tie_word_embeddings=False,
        )
        LlamaForCausalLM(config).float().save_pretrained(folder)


@dataclass
class Measured:
    """One order, once. Seconds as the program measured them; the rest as the system saw the process."""

    seconds: float
    flops: float
    cpu_seconds: float | None
    peak_bytes: int | None
    loss: float | None
    value: float | None
    attention_flops: float = 0.0


class Program:
    """A process that reads orders and answers each with a JSON object."""

    def __init__(self, command, setting, threads):
        names = ("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        environment = os.environ | dict.fromkeys(names, str(threads))
        self.process = subprocess.Popen(
            [*map(str, command), json.dumps(setting)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()

    def do(self, order):
        time.sleep(PAUSE)
        before = self._cpu_seconds()
        self._reset_peak()
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args[:-1]} ended with {self.process.wait()} at {order}")
        after, answer = self._cpu_seconds(), json.loads(line)
        cpu = after - before if after is not None else None
        return Measured(cpu_seconds=cpu, peak_bytes=self._peak(), **answer)

    def _proc(self, name):
        return Path(f"/proc/{self.process.pid}/{name}")

    def _cpu_seconds(self):
        """User and system time of all threads, where there is a /proc."""
        if not self._proc("stat").exists():
            return None
        fields = self._proc("stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _reset_peak(self):
        if self._proc("clear_refs").exists():
            self._proc("clear_refs").write_text("5")

    def _peak(self):
        if not self._proc("status").exists():
            return None
        lines = self._proc("status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


@dataclass
class Subject:
    """Who does what, and how it went."""

    name: str
    program: Program
    order: object
    runs: list[Measured] = field(default_factory=list)

    def median(self, what):
        values = [getattr(run, what) for run in self.runs]
        return statistics.median(values) if None not in values else None

    def rates(self):
        """GFLOP/s of each run."""
        return [run.flops / run.seconds / 1e9 for run in self.runs]


def in_turns(subjects, rounds):
    """One warm-up each that does not count, then `rounds` of all, each round begun by another."""
    for subject in subjects:
        subject.program.do(subject.order)
    for index in range(rounds):
        at = index % len(subjects)
        for subject in subjects[at:] + subjects[:at]:
            subject.runs.append(subject.program.do(subject.order))


def spread(values, digits=3):
    """`median (least to most)`."""
    least, middle, most = (f"{x:.{digits}g}" for x in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({least} to {most})"


def ratios(over, under):
    """Seconds of one subject over those of another, round by round."""
    return [a.seconds / b.seconds for a, b in zip(over.runs, under.runs, strict=True)]


def table(head, rows):
    """In markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
