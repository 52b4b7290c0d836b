"""Time our evaluate_bpb against a loop in the model's own process and against the MLX port's, on the same tokens.

    uv run python -m benchmarks.evaluation [--port DIR]

Ours runs as in a session: the evaluator is ready when the model is handed over, uses all cores, and makes the second
pass that checks causality. It is timed again for a candidate that is clearly worse than its incumbent, as most are. The
loop in the process evaluates the rows once, on all cores, and computes the same losses. The port's function comes from
a checkout and gets our constants, validation rows and byte counts; its loss is computed as its model does
(cross-entropy without reduction). All use the same BLAS.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import prepare
from benchmarks.port import ROOT, commit_of
from harness import handover, scoring
from train import EVAL_BATCH_SIZE, GPT, WORKERS

# isort: split
import mlx.core as mx
import mlx.nn as nn

ROUNDS = 3
STARTING_SECONDS = 5.0  # until an evaluator and its processes are up; a run trains for longer


def load(port: Path, tokenizer: prepare.Tokenizer) -> ModuleType:
    """Load the port's prepare.py with our data behind it."""
    spec = importlib.util.spec_from_file_location("port_prepare", port / "prepare.py")
    assert spec is not None and spec.loader is not None
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)

    def batches(*args: Any) -> Iterator[tuple[mx.array, mx.array, int]]:
        for inputs, targets, epoch in prepare.make_dataloader(*args):
            yield mx.array(inputs), mx.array(targets), epoch

    constants = {name: getattr(prepare, name) for name in ("MAX_SEQ_LEN", "EVAL_TOKENS", "VOCAB_SIZE")}
    vars(theirs).update(constants, make_dataloader=batches, get_token_bytes=lambda: mx.array(tokenizer.token_bytes))
    return theirs


@contextmanager
def ready_evaluator(losses: Path, reference: Path | None = None) -> Iterator[None]:
    """Start an evaluator for `evaluate_bpb`, as the loop does before a run.

    Args:
        losses: file for the model's losses.
        reference: losses of an incumbent, or None for a baseline.
    """
    with tempfile.TemporaryDirectory() as folder:
        address = Path(folder) / "socket"
        env = {**os.environ, "AUTORESEARCH_CACHE": str(prepare.CACHE_DIR), "AUTORESEARCH_LOSSES": str(losses)}
        if reference is not None:
            env["AUTORESEARCH_REFERENCE"] = str(reference)
        command = [sys.executable, str(ROOT / "harness" / "evaluator.py"), str(address)]
        with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None and process.stdout is not None
            assert json.loads(process.stdout.readline())["event"] == "ready"
            time.sleep(STARTING_SECONDS)
            os.environ[handover.VARIABLE] = str(address)
            try:
                yield
            finally:
                del os.environ[handover.VARIABLE]
                process.stdin.close()


def in_process(model: GPT, tokenizer: prepare.Tokenizer) -> float:
    """Return bits per byte by a loop over the rows, with each batch divided over the cores."""

    def run(tokens: Any) -> mx.array:
        logits: mx.array = model(mx.array(tokens)).astype(mx.float32)
        mx.eval(logits)
        return logits

    rows = prepare.validation_rows(prepare.SNAPSHOT.directory, prepare.MAX_SEQ_LEN, prepare.EVAL_TOKENS)
    lengths = tokenizer.token_bytes[rows[:, 1:]]
    step = max(1, min(EVAL_BATCH_SIZE, prepare.EVAL_LOGITS_BYTES // (4 * prepare.MAX_SEQ_LEN * prepare.VOCAB_SIZE)))
    total = 0.0
    for begin in range(0, len(rows), step):
        block = rows[begin : begin + step]
        with ThreadPoolExecutor(WORKERS) as threads:
            parts = threads.map(run, np.array_split(block[:, :-1], min(WORKERS, len(block))))
            logits = np.concatenate([np.asarray(part) for part in parts])
        losses = scoring.losses_of(logits, block[:, 1:])
        total += float(losses[lengths[begin : begin + step] > 0].sum())
    return total / (math.log(2) * int(lengths.sum()))


def timed(evaluate: Callable[[], float]) -> tuple[float, float]:
    begun = time.perf_counter()
    value = evaluate()
    return value, time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description="Time our evaluation against a loop in the process and the port's.")
    parser.add_argument("--port", type=Path, help="a checkout of trevin-creator/autoresearch-mlx")
    port: Path | None = parser.parse_args().port
    tokenizer = prepare.Tokenizer.from_directory()
    theirs = load(port.resolve(), tokenizer) if port else None
    mx.random.seed(1)
    model = GPT()
    model.head.weight = 0.02 * mx.random.normal(model.head.weight.shape)
    mx.eval(model.parameters())

    def with_targets(tokens: mx.array, targets: mx.array, **_: str) -> Any:
        return nn.losses.cross_entropy(model(tokens), targets, reduction="none")

    ours, worse, here, port_s = [], [], [], []
    scratch = Path(tempfile.mkdtemp())
    losses, better = scratch / "losses.npy", scratch / "better.npy"
    for _ in range(ROUNDS):
        with ready_evaluator(losses):
            ours.append(timed(lambda: prepare.evaluate_bpb(model, tokenizer, EVAL_BATCH_SIZE)))
        np.save(better, 0.9 * np.load(losses))
        with ready_evaluator(losses, better):
            worse.append(timed(lambda: prepare.evaluate_bpb(model, tokenizer, EVAL_BATCH_SIZE)))
        here.append(timed(lambda: in_process(model, tokenizer)))
        if theirs is not None:
            port_s.append(timed(lambda: theirs.evaluate_bpb(with_targets, tokenizer, EVAL_BATCH_SIZE)))
    print(f"{prepare.EVAL_TOKENS:,} tokens, best of {ROUNDS}")
    value, seconds = ours[0][0], min(s for _, s in ours)
    print(f"ours {seconds:.2f} s, {value:.6f}; clearly worse than the incumbent: {min(s for _, s in worse):.2f} s")
    others = {"a loop in the process": here}
    if port is not None:
        others[f"the port at {commit_of(port.resolve())}"] = port_s
    for name, measured in others.items():
        best, other = min(s for _, s in measured), measured[0][0]
        print(
            f"{name} {best:.2f} s, {other:.6f}: ours takes {seconds / best:.2f} times as long, the numbers differ by "
            f"{abs(value - other):.1e}"
        )


if __name__ == "__main__":
    main()
