"""Count the operations of an optimizer step on the path of a GPU, and the bytes that they read and write.

    uv run python -m benchmarks.kernels

They come from MLX's graph, which is built without computing it, so that no GPU is needed. On a CPU, MLX has no kernels
for norms, rotary positions, attention and the cross-entropy, and its graph has the operations that they consist of: a
GPU has fewer. Without a C++ compiler on PATH nothing is fused, and both counts are the same.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import train
from prepare import MAX_SEQ_LEN

# isort: split
import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

# They move no data.
VIEWS = {"Broadcast", "BroadcastAxes", "ExpandDims", "Reshape", "Squeeze", "StopGradient", "Transpose", "Flatten"}
VIEWS |= {"Unflatten", "Slice", "Split", "AsStrided", "Depends", "CustomTransforms", "Contiguous"}


def operations(function: Callable[..., Any], *args: Any) -> tuple[int, int]:
    """Return the number of operations of a function's graph, and the bytes of their inputs and outputs."""
    count, size = 0, 0

    def seen(part: dict[str, Any]) -> None:
        nonlocal count, size
        if part["type"] == "primitive" and part["name"] not in VIEWS:
            count += 1
            size += sum(math.prod(shape) * dtype.size for _, shape, dtype in (*part["inputs"], *part["outputs"]))

    mx.export_function(seen, function, *args)
    return count, size


def fused(function: Callable[..., Any], *args: Any) -> int:
    """Return the number of kernels after compilation."""
    outputs = [array for _, array in tree_flatten(mx.compile(function)(*args))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.dot"
        mx.export_to_dot(str(path), *outputs)
        names = Counter(line.split('"')[1] for line in path.read_text().splitlines() if "shape=rectangle" in line)
    return sum(number for name, number in names.items() if name not in VIEWS)


def main() -> None:
    train.ON_CPU, train.DTYPE = False, mx.bfloat16
    model = train.GPT()
    parameters = train.flat_parameters(model)
    state = train.optimizer_state(parameters)
    mx.eval(parameters, state)
    names, moments = list(parameters), list(state)
    tokens = mx.zeros((train.ROWS, MAX_SEQ_LEN), mx.int32)

    def gradients(inputs: mx.array, targets: mx.array, *values: mx.array) -> list[mx.array]:
        train.load_parameters(model, dict(zip(names, values, strict=True)))
        loss, found = nn.value_and_grad(model, train.loss_fn)(model, inputs, targets)
        return [loss, *dict(tree_flatten(found)).values()]

    def update(*values: mx.array) -> list[mx.array]:
        old, new, held = values[: len(names)], values[len(names) : 2 * len(names)], values[2 * len(names) :]
        by_name = dict(zip(names, old, strict=True)), dict(zip(names, new, strict=True))
        return [
            *(
                array
                for part in train.update(*by_name, dict(zip(moments, held, strict=True)), mx.array(1.0))
                for array in part.values()
            )
        ]

    values = list(parameters.values())
    work: dict[str, tuple[Callable[..., Any], tuple[mx.array, ...]]] = {
        f"gradients of {train.ROWS} rows": (gradients, (tokens, tokens, *values)),
        "update": (update, (*values, *values, *state.values())),
    }
    for name, (function, args) in work.items():
        count, size = operations(function, *args)
        print(
            f"{name:24} {count:5} operations, {size / 2**20:8,.0f} MB; {fused(function, *args):5} kernels when compiled"
        )


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
