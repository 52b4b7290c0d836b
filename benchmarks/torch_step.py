"""Compare the speed of our optimizer step on a CPU with PyTorch's: the same model, batch and optimizers, float32.

    uv run python -m benchmarks.torch_step --python PATH [--rounds 10]

PATH is the interpreter of an environment that has PyTorch, such as one made by `uv venv DIR && uv pip install --python
DIR/bin/python torch==2.13.0 numpy`. It is not a dependency: it is as large as everything else together. The two take
turns, a few steps at a time, so that a machine whose speed changes does so for both.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import train
from harness import blas
from prepare import MAX_SEQ_LEN, VOCAB_SIZE

STEPS = 5  # of each in a turn; the first is not counted
CONSTANTS = (
    *("DEPTH", "HEAD_DIM", "WIDTH", "MLP_RATIO", "GATE_CHANNELS", "NEGATIVE_SLOPE", "SHARPNESS", "SMEAR", "ROPE_BASE"),
    *("BIGRAM_ROWS", "MICRO_STEPS", "DEVICE_BATCH_SIZE", "MUON_STEPS", "MUON_MOMENTUM", "MUON_BETA2", "MATRIX_LR"),
    *("WEIGHT_DECAY", "ADAM_BETA1", "ADAM_BETA2"),
)


def settings() -> dict[str, Any]:
    values = {name: getattr(train, name) for name in CONSTANTS}
    valued = [train.VALUE_EMBEDDINGS == "all" or (train.DEPTH - layer) % 2 == 1 for layer in range(train.DEPTH)]
    return {
        **values,
        "T": MAX_SEQ_LEN,
        "V": VOCAB_SIZE,
        "valued": valued,
        "polar": train.POLAR_EXPRESS,
        "threads": blas.cores(),
        "parameters": sum(each.size for each in train.flat_parameters(train.GPT()).values()),
    }


TORCH = """
import json, sys, time
import torch
import torch.nn.functional as F
from torch import nn

c = type("C", (), json.loads(sys.argv[1]))
torch.set_num_threads(c.threads)
torch.manual_seed(42)
B, HEADS = c.DEVICE_BATCH_SIZE, c.WIDTH // c.HEAD_DIM
norm = lambda x: F.rms_norm(x, (x.shape[-1],), eps=1e-5)
angles = torch.outer(torch.arange(c.T), c.ROPE_BASE ** (-torch.arange(0, c.HEAD_DIM, 2) / c.HEAD_DIM))
COS, SIN = angles.cos(), angles.sin()
linear = lambda inputs, outputs: nn.Linear(inputs, outputs, bias=False)

def rope(x):
    a, b = x.chunk(2, -1)
    return torch.cat([a * COS - b * SIN, a * SIN + b * COS], -1)

class Attention(nn.Module):
    def __init__(self, valued):
        super().__init__()
        self.q, self.k, self.v, self.out = (linear(c.WIDTH, c.WIDTH) for _ in range(4))
        nn.init.zeros_(self.out.weight)
        self.value_embedding = nn.Embedding(c.V, c.WIDTH) if valued else None
        if valued:
            self.gate = linear(c.GATE_CHANNELS, HEADS)
            nn.init.zeros_(self.gate.weight)
    def forward(self, x, tokens):
        q, k, v = (f(x).view(B, c.T, HEADS, c.HEAD_DIM) for f in (self.q, self.k, self.v))
        if self.value_embedding is not None:
            gate = 2 * torch.sigmoid(self.gate(x[..., : c.GATE_CHANNELS]))
            v = v + gate[..., None] * self.value_embedding(tokens).view(v.shape)
        q, k, v = (y.transpose(1, 2) for y in (q, k, v))
        scale = c.SHARPNESS * c.HEAD_DIM**-0.5
        y = F.scaled_dot_product_attention(norm(rope(q)), norm(rope(k)), v, is_causal=True, scale=scale)
        return self.out(y.transpose(1, 2).reshape(B, c.T, c.WIDTH))

class Block(nn.Module):
    def __init__(self, valued):
        super().__init__()
        self.attention = Attention(valued)
        self.up, self.down = linear(c.WIDTH, c.MLP_RATIO * c.WIDTH), linear(c.MLP_RATIO * c.WIDTH, c.WIDTH)
        nn.init.zeros_(self.down.weight)
        for name, value in (("residual_scale", 1.0), ("x0_scale", 0.1), ("bigram_scale", 0.1)):
            setattr(self, name, nn.Parameter(torch.tensor(value)))
    def forward(self, x, x0, bigrams, tokens):
        x = self.residual_scale * x + self.x0_scale * x0
        if bigrams is not None:
            x = x + self.bigram_scale * bigrams
        x = x + self.attention(norm(x), tokens)
        return x + self.down(F.leaky_relu(self.up(norm(x)), c.NEGATIVE_SLOPE).square())

class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(c.V, c.WIDTH)
        if c.SMEAR:
            self.smear, self.share = linear(c.GATE_CHANNELS, 1), nn.Parameter(torch.tensor(c.SMEAR))
            nn.init.zeros_(self.smear.weight)
        if c.BIGRAM_ROWS:
            self.bigram = nn.Embedding(c.BIGRAM_ROWS, c.WIDTH)
        self.blocks = nn.ModuleList(Block(valued) for valued in c.valued)
        self.head = linear(c.WIDTH, c.V)
    def forward(self, tokens, targets):
        x0 = norm(self.embedding(tokens))
        if c.SMEAR:
            gate = 2 * torch.sigmoid(self.smear(x0[:, 1:, : c.GATE_CHANNELS])) * self.share
            x0 = torch.cat([x0[:, :1], x0[:, 1:] + gate * x0[:, :-1]], 1)
        bigrams = None
        if c.BIGRAM_ROWS:
            pairs = (36313 * tokens[:, 1:] ^ 27191 * tokens[:, :-1]) % (c.BIGRAM_ROWS - 1)
            bigrams = self.bigram(F.pad(pairs, (1, 0), value=c.BIGRAM_ROWS - 1))
        x = x0
        for block in self.blocks:
            x = block(x, x0, bigrams, tokens)
        return F.cross_entropy(self.head(norm(x)).view(-1, c.V), targets.reshape(-1))

model = GPT()
parameters = sum(p.numel() for p in model.parameters())
assert parameters - (0 if c.BIGRAM_ROWS else c.DEPTH) == c.parameters, (parameters, c.parameters)
matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and n.startswith("blocks.") and "embed" not in n]
theirs = {id(p) for p in matrices}
rest = [p for p in model.parameters() if id(p) not in theirs]
adam = torch.optim.AdamW(rest, lr=1e-3, betas=(c.ADAM_BETA1, c.ADAM_BETA2), eps=1e-10, weight_decay=0, fused=True)
stacks = {}
for p in matrices:
    stacks.setdefault(tuple(sorted(p.shape)), []).append(p)
momentum = {shape: torch.zeros(len(ps), *shape) for shape, ps in stacks.items()}
variance = {shape: torch.zeros(len(ps), shape[0], 1) for shape, ps in stacks.items()}
wide = lambda x: x.T if x.shape[0] > x.shape[1] else x

def orthogonalize(x):
    x = x / (1.01 * x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for a, b, d in c.polar[: c.MUON_STEPS]:
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=d), x, beta=a)
    return x

@torch.no_grad()
def muon():
    for shape, ps in stacks.items():
        gradient = torch.stack([wide(p.grad) for p in ps])
        first = momentum[shape].lerp_(gradient, 1 - c.MUON_MOMENTUM)
        x = orthogonalize(gradient.lerp(first, c.MUON_MOMENTUM))
        if c.MUON_BETA2:
            variance[shape].lerp_(x.square().mean(-1, keepdim=True), 1 - c.MUON_BETA2)
            even = x * variance[shape].clamp(min=1e-10).rsqrt()
            x = even * (x.norm(dim=(-2, -1), keepdim=True) / even.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-10))
        for p, direction in zip(ps, x):
            rows, columns = p.shape
            direction = direction.T if rows > columns else direction
            decay = c.WEIGHT_DECAY * p * (direction * p >= 0)
            p.sub_(c.MATRIX_LR * (max(1, rows / columns) ** 0.5 * direction + decay))

tokens = torch.randint(c.V, (c.MICRO_STEPS, B, c.T + 1))

def step():
    for rows in tokens:
        (model(rows[:, :-1], rows[:, 1:]) / c.MICRO_STEPS).backward()
    adam.step()
    muon()
    for p in model.parameters():
        p.grad = None

for line in sys.stdin:
    taken = []
    for _ in range(int(line)):
        begun = time.perf_counter()
        step()
        taken.append(time.perf_counter() - begun)
    print(json.dumps(taken), flush=True)
"""

OURS = """
import json, sys, time
from train import *  # before NumPy: it sets the threads of NumPy's BLAS
import numpy as np

workers = Workers(WORKERS, gradients_of)
mx.random.seed(SEED)
model = GPT()
parameters = flat_parameters(model)
state = optimizer_state(parameters)
mx.eval(parameters, state)
step = step_on_a_cpu(workers)
tokens = np.random.default_rng(0).integers(VOCAB_SIZE, size=(MICRO_STEPS, DEVICE_BATCH_SIZE, MAX_SEQ_LEN + 1))
inputs, targets = tokens[..., :-1].astype(np.int32), tokens[..., 1:].astype(np.int32)
for line in sys.stdin:
    taken = []
    for _ in range(int(line)):
        begun = time.perf_counter()
        parameters, state, loss = step(parameters, state, mx.array(1.0), inputs, targets)
        taken.append(time.perf_counter() - begun)
    print(json.dumps(taken), flush=True)
"""


def started(python: str, code: str, *args: str) -> subprocess.Popen[str]:
    root = str(Path(train.__file__).parent)
    env = {name: value for name, value in os.environ.items() if name not in ("OPENBLAS_NUM_THREADS", "PYTHONPATH")}
    pipe = subprocess.PIPE
    return subprocess.Popen([python, "-c", code, *args], stdin=pipe, stdout=pipe, text=True, cwd=root, env=env)


def turn(program: subprocess.Popen[str]) -> list[float]:
    """Return the seconds of the steps of one turn."""
    assert program.stdin is not None and program.stdout is not None
    program.stdin.write(f"{STEPS}\n")
    program.stdin.flush()
    answer = program.stdout.readline()
    if not answer:
        raise SystemExit("a program failed; see its message above")
    return [float(each) for each in json.loads(answer)[1:]]


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare our step on a CPU with PyTorch's.")
    parser.add_argument("--python", required=True, help="an interpreter that has PyTorch")
    parser.add_argument("--rounds", type=int, default=10, help=f"turns of {STEPS} steps (default: 10)")
    options = parser.parse_args()
    with (
        started(sys.executable, OURS) as ours,
        started(options.python, TORCH, json.dumps(settings())) as theirs,
    ):
        turn(ours), turn(theirs)
        rounds = [(turn(ours), turn(theirs)) for _ in range(options.rounds)]
        for program in (ours, theirs):
            assert program.stdin is not None
            program.stdin.close()
    tokens = train.TOTAL_BATCH_SIZE
    for name, index in (("ours", 0), ("PyTorch", 1)):
        taken = statistics.median(each for pair in rounds for each in pair[index])
        print(f"{name:8} {1000 * taken:5.0f} ms a step, {tokens / taken:7,.0f} tokens/s")
    ratios = sorted(statistics.median(torch) / statistics.median(mlx) for mlx, torch in rounds)
    print(
        f"ours makes {statistics.median(ratios):.2f} times PyTorch's tokens per second "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f} over {len(ratios)} rounds)"
    )


if __name__ == "__main__":
    main()
