"""Measure the share of a training step that is matrix products, at the rate of bare products of the same shapes.

    uv run python -m benchmarks.products

One process alternates between whole steps of train.py (gradients and optimizer) and nothing but the products that such
a step needs, on the same worker threads. The ratio is the fraction of the step that is unavoidable arithmetic.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import numpy as np

import train
from prepare import MAX_SEQ_LEN, VOCAB_SIZE
from train import DEVICE_BATCH_SIZE, HEAD_DIM, MICRO_STEPS, MUON_STEPS, WIDTH, WORKERS

# isort: split
import mlx.core as mx
from mlx.utils import tree_map

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
    scores = forward_and_backward(length, HEAD_DIM, length)
    values = forward_and_backward(length, length, HEAD_DIM)
    return products + [(heads, shape) for shape in scores + values]


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


def prepared(products: list[Product]) -> Callable[[object], None]:
    """Return a function that computes the products, each with its own operands."""
    operands = [
        (mx.random.normal((count, rows, inner)), mx.random.normal((count, inner, columns)))
        for count, (rows, inner, columns) in products
    ]
    mx.eval(operands)

    def run(_: object) -> None:
        mx.eval([a @ b for a, b in operands])

    return run


def flops(products: list[Product]) -> int:
    return sum(2 * count * rows * inner * columns for count, (rows, inner, columns) in products)


def timed(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def main() -> None:
    mx.random.seed(train.SEED)
    model = train.GPT()
    mx.eval(model.parameters())
    optimizer = train.make_optimizer()
    optimizer.init(model.trainable_parameters())
    zeros = tree_map(mx.zeros_like, model.trainable_parameters())
    mx.eval(zeros)
    micro_step = train.make_micro_step(model)
    tokens = np.random.default_rng(0).integers(VOCAB_SIZE, size=(DEVICE_BATCH_SIZE, MAX_SEQ_LEN + 1))
    inputs, targets = tokens[:, :-1].astype(np.int32), tokens[:, 1:].astype(np.int32)

    def step() -> None:
        gradients = zeros
        for _ in range(MICRO_STEPS):
            _, gradients = micro_step(inputs, targets, gradients)
        optimizer.update(model, gradients)
        mx.eval(model.state, optimizer.state)

    gradient_products, muon_products = of_gradients(model), of_muon(model)
    parts = [prepared(gradient_products) for _ in range(WORKERS)]
    muon = prepared(muon_products)

    def bare() -> None:
        for _ in range(MICRO_STEPS):
            list(train.on_workers(lambda part: part(None), parts))
        muon(None)

    steps, products = [], []
    for _ in itertools.repeat(None, ROUNDS):
        steps.append(timed(step))
        products.append(timed(bare))
    whole, arithmetic = statistics.median(steps), statistics.median(products)
    work = MICRO_STEPS * WORKERS * flops(gradient_products) + flops(muon_products)
    print(
        f"step {1000 * whole:.0f} ms, its products alone {1000 * arithmetic:.0f} ms ({work / arithmetic / 1e9:.0f} "
        f"GFLOP/s on {WORKERS} threads): {100 * arithmetic / whole:.0f} % of the step"
    )


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
