"""Check that the loop stays fast and small over hundreds of experiments with a command that returns at once.

    uv run python -m benchmarks.soak [--experiments 500]

Samples memory and open files of the loop while it runs, and compares the overhead of the first and the last tenth.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.overhead import ROOT, make_workspace, overheads_of

MOST_SLOWDOWN = 1.5
MOST_GROWTH = 1.25


def main() -> None:
    parser = argparse.ArgumentParser(description="Check the loop over a long session.")
    parser.add_argument("--experiments", type=int, default=500)
    experiments = parser.parse_args().experiments
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_workspace(Path(scratch))
        command = [sys.executable, "-m", "agent", "run", "--tag", "x", "--max-experiments", str(experiments)]
        loop = subprocess.Popen(
            command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL
        )
        samples = []
        while loop.poll() is None:
            try:
                process = psutil.Process(loop.pid)
                samples.append((process.memory_info().rss / 2**20, process.num_fds()))
            except psutil.Error:
                break
            time.sleep(0.5)
        journal = (folder / ".autoresearch/sessions/x/journal.jsonl").read_text()
    overheads = overheads_of([json.loads(line) for line in journal.splitlines()])
    part = max(1, len(overheads) // 10)
    first, last = statistics.median(overheads[:part]), statistics.median(overheads[-part:])
    # NumPy is imported at the first proposal of the model; memory must stay flat after that.
    settled = samples[len(samples) // 4 :]
    tenth = max(1, len(settled) // 10)
    memory = [statistics.median(s[0] for s in some) for some in (settled[:tenth], settled[-tenth:])]
    files = [max(s[1] for s in some) for some in (settled[:tenth], settled[-tenth:])]
    print(f"{len(overheads)} experiments, overhead {first:.3f} s, at the end {last:.3f} s: {last / first:.2f} times")
    print(
        f"memory {memory[0]:.0f} MiB after a quarter, {memory[1]:.0f} MiB at the end; open files {files[0]}, {files[1]}"
    )
    flat = last < MOST_SLOWDOWN * first and memory[1] < MOST_GROWTH * memory[0] and files[1] <= files[0] + 2
    sys.exit(0 if flat and len(overheads) == experiments else "not flat")


if __name__ == "__main__":
    main()
