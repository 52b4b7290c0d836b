"""Our train.py on MLX CUDA against karpathy/autoresearch's train.py on PyTorch: one NVIDIA GPU, depth 8, 300 s each.

    uv run --no-default-groups --extra cuda python -m benchmarks.gpu --pytorch DIR

DIR is a checkout of karpathy/autoresearch whose `uv run prepare.py` has been run; here `uv run prepare.py --source
climbmix --profile mac` must have been: the same documents, 2,048 tokens in a row, a vocabulary of 8,192. The tokenizers
are trained apart, so bits per byte compare and losses do not.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.port import ROOT

DEPTH = 8


def summary(command: list[str], folder: Path) -> dict[str, float]:
    """The figures that a run ends with."""
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed in {folder} with exit code {done.returncode}")
    return {name: float(value) for name, value in re.findall(r"(?m)^(\w+):\s+([\d.]+)\s*$", done.stdout)}


def ours(scratch: Path) -> dict[str, float]:
    shutil.copy(ROOT / "prepare.py", scratch)
    shutil.copytree(ROOT / "harness", scratch / "harness")
    # The second one is that of the profile for any GPU.
    found = list(re.finditer(r"(?m)^    DEPTH = \d+", source := (ROOT / "train.py").read_text()))
    start, end = found[1].span()
    (scratch / "train.py").write_text(f"{source[:start]}    DEPTH = {DEPTH}{source[end:]}")
    return summary([sys.executable, "train.py"], scratch)


def main() -> None:
    parser = argparse.ArgumentParser(description="MLX CUDA against PyTorch on one NVIDIA GPU.")
    parser.add_argument("--pytorch", type=Path, required=True, help="a prepared checkout of karpathy/autoresearch")
    folder = parser.parse_args().pytorch.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        results = {"MLX": ours(Path(scratch)), "PyTorch": summary(["uv", "run", "train.py"], folder)}
    speeds = {}
    for name, found in results.items():
        speeds[name] = found["total_tokens_M"] * 1e6 / found["training_seconds"]
        print(
            f"{name:8}  {found['val_bpb']:.4f} bits per byte  {speeds[name]:12,.0f} tokens/s  "
            f"{found['peak_vram_mb']:,.0f} MB  MFU {found['mfu_percent']:.1f} %"
        )
    print(f"MLX has {speeds['MLX'] / speeds['PyTorch']:.2f} of PyTorch's tokens per second")


if __name__ == "__main__":
    main()
