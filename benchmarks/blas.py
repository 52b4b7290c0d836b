"""Compare matrix products in MLX with its own BLAS and with the one that harness/blas.py loads first.

Run it with `uv run python -m benchmarks.blas`.
"""

import argparse
import subprocess
import sys
from pathlib import Path

SIZES = (128, 512, 1024)
ROUNDS = 5
PROBE = """
import sys, time
from harness import blas
print(blas.load() if sys.argv[1] == "with" else "as built into MLX")
import mlx.core as mx
for size in map(int, sys.argv[2:]):
    a = mx.random.normal((size, size))
    mx.eval(a @ a)
    best = float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        mx.eval(a @ a)
        best = min(best, time.perf_counter() - begun)
    print(2 * size**3 / best / 1e9)
"""


def measure(which: str) -> tuple[str, list[float]]:
    """Return the BLAS and the GFLOP/s of a float32 product of each size.

    Each call starts a process, because a process cannot change its BLAS.
    """
    command = [sys.executable, "-c", PROBE, which, *map(str, SIZES)]
    root = Path(__file__).parent.parent
    served, *speeds = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.splitlines()
    return served, [float(speed) for speed in speeds]


def main() -> None:
    # Alternate, so that other load on the machine slows both; the best of all rounds counts.
    slow, fast = [0.0] * len(SIZES), [0.0] * len(SIZES)
    served = ""
    for _ in range(ROUNDS):
        _, speeds = measure("without")
        slow = [max(pair) for pair in zip(slow, speeds, strict=True)]
        served, speeds = measure("with")
        fast = [max(pair) for pair in zip(fast, speeds, strict=True)]
    print(f"as built into MLX against {served}, float32, GFLOP/s")
    for size, before, after in zip(SIZES, slow, fast, strict=True):
        print(f"{size:5d}-cube  {before:7.1f}  {after:7.1f}  {after / before:6.1f}x")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
