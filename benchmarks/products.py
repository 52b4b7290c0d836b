"""Measure the share of a training step that is matrix products, at the rate of bare products of the same shapes.

    uv run python -m benchmarks.products

It alternates between whole steps of train.py (gradients and optimizer) and nothing but the products that such a step
needs, on the same worker processes and threads. The ratio is the fraction of the step that is unavoidable arithmetic.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import train
from harness.workers import Workers
from prepare import MAX_SEQ_LEN, VOCAB_SIZE
from train import ATTENTION_BLOCKS, DEVICE_BATCH_SIZE, HEAD_DIM, MICRO_STEPS, MUON_STEPS, WIDTH, WORKERS

# isort: split
import mlx.core as mx
import numpy as np

from harness import device

ROUNDS = 30
# Count, and the shape of (rows, inner) @ (inner, columns).
Product = tuple[int, tuple[int, int, int]]


def forward_and_backward(rows: int, inner: int, columns: int) -> list[tuple[int, int, int]]:
    """Return the shapes of a product and of the gradients of its left and right operand."""
    return [(rows, inner, columns), (rows, columns, inner), (inner, rows, columns)]


def of_gradients(model: train.GPT) -> list[Product]:
    """Return the products in one worker's share of a micro-step."""
    length = MAX_SEQ_LEN
    rows = DEVICE_BATCH_SIZE // WORKERS
    linears = [module for _, module in model.named_modules() if isinstance(module, train.Linear)]
    products = [
        (1, shape)
        for linear in linears
        for shape in forward_and_backward(rows * length, linear.weight.shape[1], linear.weight.shape[0])
    ]
    heads = len(model.blocks) * rows * WIDTH // HEAD_DIM
    queries = length // ATTENTION_BLOCKS
    for keys in range(queries, length + 1, queries):
        scores, values = forward_and_backward(queries, HEAD_DIM, keys), forward_and_backward(queries, keys, HEAD_DIM)
        products += [(heads, shape) for shape in scores + values]
    return products


def of_muon(model: train.GPT) -> list[Product]:
    """Return the products of a step's Newton-Schulz iterations, which one worker computes."""
    shapes = [
        tuple(sorted(p.shape))
        for name, p in train.flat_parameters(model).items()
        if p.ndim == 2 and name.startswith("blocks.") and not name.endswith("embedding.weight")
    ]
    return [
        (MUON_STEPS, product)
        for small, large in shapes
        for product in ((small, large, small), (small, small, small), (small, small, large))
    ]


def prepared(products: list[Product]) -> Callable[[], None]:
    """Return a function that computes the products, each with its own operands."""
    operands = [
        (mx.random.normal((count, rows, inner)), mx.random.normal((count, inner, columns)))
        for count, (rows, inner, columns) in products
    ]
    mx.eval(operands)
    return lambda: mx.eval([a @ b for a, b in operands])


@functools.cache
def prepared_gradients() -> Callable[[], None]:
    return prepared(of_gradients(train.replica()))


def compute_products(_values: Any, _results: Any, micro_steps: np.ndarray) -> None:
    """Compute what a worker's share of a step needs."""
    for _ in micro_steps:
        prepared_gradients()()


def compute_muon(shapes: list[tuple[int, int]]) -> None:
    """Compute Muon's products as the step does, by NumPy on a thread per core."""
    for rows, columns in sorted(set(shapes)):
        stack = np.ones((shapes.count((rows, columns)), rows, columns), np.float32)
        square = np.ones((len(stack), rows, rows), np.float32)

        def products(x: np.ndarray, square: np.ndarray = square) -> np.ndarray:
            for _ in range(MUON_STEPS):
                x @ x.swapaxes(-1, -2), square[: len(x)] @ square[: len(x)], square[: len(x)] @ x
            return x

        device.on_threads(products, stack, WORKERS)


def flops(products: list[Product]) -> int:
    return sum(2 * count * rows * inner * columns for count, (rows, inner, columns) in products)


def timed(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def main() -> None:
    workers, bare_workers = Workers(WORKERS, train.gradients_of), Workers(WORKERS, compute_products)
    mx.random.seed(train.SEED)
    model = train.GPT()
    parameters = train.flat_parameters(model)
    state = train.optimizer_state(parameters)
    mx.eval(parameters, state)
    step = train.step_on_a_cpu(workers)
    tokens = np.random.default_rng(0).integers(VOCAB_SIZE, size=(MICRO_STEPS, DEVICE_BATCH_SIZE, MAX_SEQ_LEN + 1))
    inputs, targets = tokens[..., :-1].astype(np.int32), tokens[..., 1:].astype(np.int32)
    names = [name for each in train.muon_stacks(parameters).values() for name in each]
    shapes = [(min(parameters[name].shape), max(parameters[name].shape)) for name in names]

    def bare() -> None:
        bare_workers.run({"none": np.zeros(1, np.float32)}, [(np.arange(MICRO_STEPS),)] * WORKERS)
        compute_muon(shapes)

    steps, products = [], []
    for _ in itertools.repeat(None, ROUNDS):
        steps.append(timed(lambda: step(parameters, state, mx.array(1.0), inputs, targets)))
        products.append(timed(bare))
    whole, arithmetic = statistics.median(steps), statistics.median(products)
    work = MICRO_STEPS * WORKERS * flops(of_gradients(model)) + flops(of_muon(model))
    print(
        f"step {1000 * whole:.0f} ms, its products alone {1000 * arithmetic:.0f} ms ({work / arithmetic / 1e9:.0f} "
        f"GFLOP/s on {WORKERS} threads): {100 * arithmetic / whole:.0f} % of the step"
    )


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
