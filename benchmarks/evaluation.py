"""Our evaluate_bpb against the MLX port's: seconds for the same tokens of the same model, and the difference.

    uv run python -m benchmarks.evaluation --port DIR

The port's function is taken from a checkout and given our constants, our validation rows and our count of bytes, with
the loss computed as its model does (cross-entropy without reduction). Ours gets the model as train.py hands it over:
on all cores. Both have the same BLAS.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import prepare
from benchmarks.port import commit_of
from train import EVAL_BATCH_SIZE, GPT, on_all_workers

# isort: split
import mlx.core as mx
import mlx.nn as nn

ROUNDS = 3


def load(port: Path, tokenizer: prepare.Tokenizer) -> ModuleType:
    """The port's prepare.py with our data behind it."""
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


def timed(evaluate: Callable[[], float]) -> tuple[float, float]:
    begun = time.perf_counter()
    value = evaluate()
    return value, time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description="Our evaluation against the MLX port's.")
    parser.add_argument("--port", type=Path, required=True, help="a checkout of trevin-creator/autoresearch-mlx")
    port = parser.parse_args().port.resolve()
    tokenizer = prepare.Tokenizer.from_directory()
    theirs = load(port, tokenizer)
    mx.random.seed(1)
    model = GPT()
    model.head.weight = 0.02 * mx.random.normal(model.head.weight.shape)
    mx.eval(model.parameters())

    def with_targets(tokens: mx.array, targets: mx.array, **_: str) -> Any:
        return nn.losses.cross_entropy(model(tokens), targets, reduction="none")

    ours, port_s = [], []
    for _ in range(ROUNDS):
        ours.append(timed(lambda: prepare.evaluate_bpb(on_all_workers(model), tokenizer, EVAL_BATCH_SIZE)))
        port_s.append(timed(lambda: theirs.evaluate_bpb(with_targets, tokenizer, EVAL_BATCH_SIZE)))
    seconds, port_seconds = min(s for _, s in ours), min(s for _, s in port_s)
    tokens = prepare.EVAL_TOKENS
    print(f"{tokens:,} tokens, best of {ROUNDS}, the port at {commit_of(port)}")
    print(f"port {port_seconds:.2f} s, {port_s[0][0]:.6f}\nours {seconds:.2f} s, {ours[0][0]:.6f}")
    difference = abs(ours[0][0] - port_s[0][0])
    print(f"ours takes {seconds / port_seconds:.2f} of the time, the numbers differ by {difference:.1e}")


if __name__ == "__main__":
    main()
