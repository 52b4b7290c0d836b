"""Workspaces for `field`: recipes that print what train.py prints, in milliseconds."""

from __future__ import annotations

from pathlib import Path

from tests.common.workspaces import commit_all

TIMED = '''"""Prints what train.py prints."""

import os
import sys
import time

DEPTH = 4  # search: 1..8
HEADS = 2  # search: off
TOTAL_BATCH_SIZE = 1000  # search: off

assert DEPTH % HEADS == 0

if __name__ == "__main__":
    began = time.perf_counter()
    seconds = float(os.environ["AUTORESEARCH_TRAINING_SECONDS"])
    print("data: 0.0s | profile test")
    print("first step, with any compilation: 0.0s", flush=True)
    # HERE
    print("evaluation: 0.0s")
    print("---")
    print(f"val_bpb:          {2 - DEPTH / 10:.6f}")
    print("training_seconds: 0.1")
    print("peak_vram_mb:     128.0")
    print("mfu_percent:      40.00")
    print("num_steps:        10")
'''
MEMORY = "RuntimeError: [metal::malloc] Attempting to allocate 1 bytes which is greater than the maximum"


def make_timed(folder: Path, does: str = "") -> None:
    """Replace the recipe of a quick workspace.

    Args:
        does: a statement that the recipe executes before it evaluates.
    """
    (folder / "train.py").write_text(TIMED.replace("# HERE", does) if does else TIMED)
    commit_all(folder, "timed")
