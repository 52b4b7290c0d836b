"""What the device of this machine has and does: its memory, the limits that MLX keeps to, its speed."""

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import numpy as np


def gpu_memory() -> int:
    """Return the bytes of the GPU's memory; 0 if MLX knows of none."""
    info = mx.device_info()
    return int(info.get("memory_size", info.get("total_memory", 0)))


def usable_memory() -> int:
    """Return the bytes that Metal recommends to use at most; 0 on other devices."""
    return int(mx.device_info().get("max_recommended_working_set_size", 0))


def limit_memory(usable: int) -> None:
    """Set the limits of Metal's memory, from what it may use and from what the first steps took.

    MLX itself fails only if a single buffer is too large: with more memory than the GPU may use, macOS swaps.

    Args:
        usable: bytes; 0 leaves the limits as they are.

    Raises:
        MemoryError: the first steps took more than the GPU may use.
    """
    peak = mx.get_peak_memory()
    if not usable:
        return
    if peak > usable:
        raise MemoryError(f"a step takes {peak / 2**20:,.0f} MB, the GPU may use {usable / 2**20:,.0f} MB")
    mx.set_memory_limit(usable)
    mx.set_cache_limit(min(peak, usable - peak))
    # Wired memory is not swapped out. No more than a step takes: to wire everything harms a Mac with 16 GB.
    mx.set_wired_limit(min(usable, peak + peak // 4))


def on_threads(function: Callable[[np.ndarray], np.ndarray], x: np.ndarray, threads: int) -> np.ndarray:
    """Return `function` of an array whose first axis is divided over threads."""
    with ThreadPoolExecutor(threads) as pool:
        return np.concatenate(list(pool.map(function, np.array_split(x, min(threads, len(x))))))


def peak_flops(dtype: mx.Dtype, size: int, threads: int) -> float:
    """Return the peak FLOP/s of plain matrix products, one in each thread, measured for about 0.2 s.

    Args:
        dtype: type of the matrices.
        size: rows and columns of each.
    """
    a = mx.random.normal((size, size)).astype(dtype)
    mx.eval(a)

    def product(_: int) -> None:
        mx.eval(a @ a)

    product(0)
    best, deadline = math.inf, time.perf_counter() + 0.2
    with ThreadPoolExecutor(threads) as pool:
        while (begun := time.perf_counter()) < deadline:
            list(pool.map(product, range(threads)))
            best = min(best, time.perf_counter() - begun)
    return threads * 2 * size**3 / best
