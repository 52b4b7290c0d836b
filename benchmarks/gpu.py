"""Compare our train.py on MLX CUDA with karpathy/autoresearch's on PyTorch: one NVIDIA GPU, depth 8, 300 s each.

    uv run --no-default-groups --extra cuda python -m benchmarks.gpu --pytorch DIR

First run `uv run prepare.py` in DIR, a checkout of karpathy/autoresearch, and `uv run prepare.py --source climbmix
--profile mac` here. Both then have the same documents, 2,048 tokens per row and a vocabulary of 8,192. The tokenizers
are trained separately, so bits per byte are comparable and losses are not.
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
    """Run `command` and return the figures that it prints at its end."""
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed in {folder} with exit code {done.returncode}")
    return {name: float(value) for name, value in re.findall(r"(?m)^(\w+):\s+([\d.]+)\s*$", done.stdout)}


def ours(scratch: Path) -> dict[str, float]:
    shutil.copy(ROOT / "prepare.py", scratch)
    shutil.copytree(ROOT / "harness", scratch / "harness")
    # The second DEPTH belongs to the profile for GPUs.
    found = list(re.finditer(r"(?m)^    DEPTH = \d+", source := (ROOT / "train.py").read_text()))
    start, end = found[1].span()
    (scratch / "train.py").write_text(f"{source[:start]}    DEPTH = {DEPTH}{source[end:]}")
    return summary([sys.executable, "train.py"], scratch)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare MLX CUDA with PyTorch on one NVIDIA GPU.")
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
    print(f"MLX reaches {speeds['MLX'] / speeds['PyTorch']:.2f} times PyTorch's tokens per second")


if __name__ == "__main__":
    main()
