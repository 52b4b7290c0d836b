"""Workspaces with the real harness, whose train.py trains for real in less than a second."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from agent.execution.allowance import NO_REFERENCES, References
from agent.execution.measure import Runner, measure
from agent.journal.experiment import Run
from tests.common.workspaces import ROOT, make_repository, quick_protocol

# Real training of a very small model. The code of a case is inserted at {top}, {middle} or {late}.
TRAIN = """
import sys
{top}
from prepare import MAX_SEQ_LEN, TIME_BUDGET, VOCAB_SIZE, Tokenizer, evaluate_bpb, make_dataloader
import prepare, time, os
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
import numpy as np

class Bigram(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.embedding, self.head = nn.Embedding(VOCAB_SIZE, width), nn.Linear(width, VOCAB_SIZE)
    def __call__(self, tokens):
        return self.head(self.embedding(tokens))

def loss_fn(model, inputs, targets):
    return nn.losses.cross_entropy(model(inputs), targets, reduction="mean")

tokenizer = Tokenizer.from_directory()
model, optimizer = Bigram(), optim.AdamW(0.02)
batches = make_dataloader(tokenizer, 4, MAX_SEQ_LEN, "train", seed=1)
step = nn.value_and_grad(model, loss_fn)
{middle}
began, steps = time.perf_counter(), 0
while time.perf_counter() - began < TIME_BUDGET:
    inputs, targets, _ = next(batches)
    loss, gradients = step(model, mx.array(inputs), mx.array(targets))
    optimizer.update(model, gradients)
    mx.eval(model.state, optimizer.state)
    steps += 1
batch_size = 64
{late}
val_bpb = evaluate_bpb(model, tokenizer, batch_size)
{end}
print(f"val_bpb:          {val_bpb:.6f}")
print("peak_vram_mb:     10.0")
print(f"num_steps:        {steps}")
"""


def script(where: str = "", code: str = "") -> str:
    """Return TRAIN with the code of a case at one of its places."""
    text = TRAIN
    for place in ("top", "middle", "late", "end"):
        text = text.replace(f"{{{place}}}", code if place == where else "")
    return text


def slow_learner() -> str:
    """Return a train.py whose RATE is so low that a higher one is a clear win, with a seed."""
    text = script().replace("optim.AdamW(0.02)", "optim.AdamW(RATE)").replace("seed=1)", "seed=SEED)")
    constants = "SEED = 42  # search: off\nRATE = 0.0001  # search: off\nmx.random.seed(SEED)\n"
    return text.replace("tokenizer = Tok", f"{constants}tokenizer = Tok")


def make_training(folder: Path, text: str = "") -> None:
    """Make a workspace with the real harness and this train.py."""
    folder.mkdir()
    shutil.copy(ROOT / "prepare.py", folder)
    shutil.copytree(ROOT / "harness", folder / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    protocol = quick_protocol()
    protocol["meta"]["archetype"] = "ml_train"
    (folder / "protocol.json").write_text(json.dumps(protocol))
    (folder / "train.py").write_text(text)
    make_repository(folder)


def run_script(runner: Runner, where: str, code: str, references: References = NO_REFERENCES) -> Run:
    """Run a case in its room; its log is in the folder `logs` beside the workspace."""
    workspace = runner.workspace
    commit = workspace.commit_candidate("refs/t/1", workspace.head, {"train.py": script(where, code)}, "a script")
    return measure(runner, commit, workspace.folder.parent / "logs" / "run-1.log", references=references)
