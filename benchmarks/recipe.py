"""Compare our recipe with the MLX port's: the same machine, clock, snapshot and evaluated tokens.

    uv run python -m benchmarks.recipe --port DIR [--seconds 60] [--runs 3] [--as-installed]

Runs of both alternate. The port gets our BLAS with all cores, and float32, which the BLAS needs: once with its own
learning rates, and once with our batch and rates tuned for this machine. --as-installed adds the port without these
changes.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.port import NO_BLAS, ROOT, SCALED, TUNED, commit_of, make_workspace

START = f"""
import sys
sys.path[:0] = ["", {str(ROOT)!r}]
import os, runpy
from harness import blas
if os.path.exists({NO_BLAS!r}):
    blas.load = lambda: None
blas.load()
runpy.run_path("train.py", run_name="__main__")
"""


@dataclass(frozen=True)
class Result:
    bpb: float
    steps: int
    tokens_per_second: float
    evaluation_seconds: float
    peak_mb: float


def train(folder: Path, seconds: float, env: dict[str, str]) -> Result:
    """Run train.py in `folder` and read its summary."""
    settings = {"AUTORESEARCH_TRAINING_SECONDS": f"{seconds:g}", **env}
    # The port imports MLX first, so the BLAS must be loaded before it.
    command = [sys.executable, "-c", START]
    done = subprocess.run(command, cwd=folder, env={**os.environ, **settings}, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{folder / 'train.py'} failed: {done.stderr[-1000:]}")
    batch = re.search(r"(?m)^ *TOTAL_BATCH_SIZE = ([\d*]+)", (folder / "train.py").read_text())
    assert batch is not None
    base, _, exponent = batch[1].partition("**")
    found = dict(re.findall(r"(?m)^(\w+):\s+([\d.]+)$", done.stdout))
    evaluation = re.search(r"(?i)eval\w*(?: completed in|:) ([\d.]+)s", done.stdout)
    return Result(
        float(found["val_bpb"]),
        int(found["num_steps"]),
        int(found["num_steps"]) * int(base) ** int(exponent or 1) / float(found["training_seconds"]),
        float(evaluation[1]) if evaluation else 0.0,
        float(found["peak_vram_mb"]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare our recipe with the MLX port's.")
    parser.add_argument("--port", type=Path, required=True, help="a checkout of trevin-creator/autoresearch-mlx")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--as-installed", action="store_true", help="also without the BLAS, in bfloat16")
    options = parser.parse_args()
    threads = str(os.cpu_count())
    with tempfile.TemporaryDirectory() as scratch:
        folders: dict[str, tuple[Path, dict[str, str]]] = {"ours": (ROOT, {})}
        kinds = [("port, its own rates", SCALED, True), ("port, our batch", TUNED, True)]
        if options.as_installed:
            kinds.append(("port, as installed", SCALED, False))
        for number, (name, constants, fast) in enumerate(kinds):
            folder = Path(scratch) / str(number)
            folder.mkdir()
            make_workspace(options.port.resolve(), folder, constants, fast=fast)
            folders[name] = (folder, {"OPENBLAS_NUM_THREADS": threads} if fast else {})
        results: dict[str, list[Result]] = {name: [] for name in folders}
        for number in range(options.runs):
            for name, (folder, env) in folders.items():
                if name == "port, as installed" and number:
                    continue  # it takes minutes to evaluate, and one run shows its place
                result = train(folder, options.seconds, env)
                results[name].append(result)
                print(f"{name:20}  {result}", file=sys.stderr, flush=True)
    print(f"{options.seconds:g} s of training, the port at {commit_of(options.port)}")
    ours = statistics.mean(result.bpb for result in results["ours"])
    for name, found in results.items():
        values = [result.bpb for result in found]
        mean = statistics.mean(values)
        spread = f"sd {statistics.stdev(values):.4f}" if len(values) > 1 else "one run"
        speed = statistics.median(result.tokens_per_second for result in found)
        steps = ", ".join(str(result.steps) for result in found)
        print(
            f"{name:20}  {mean:.4f} ({spread})  ours is lower by {100 * (1 - ours / mean):5.1f} %  "
            f"{speed:7,.0f} tokens/s  steps {steps}  evaluation {found[0].evaluation_seconds:.1f} s  "
            f"peak {found[0].peak_mb:.0f} MB"
        )


if __name__ == "__main__":
    main()
