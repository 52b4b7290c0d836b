"""Measure how many experiments an hour fit if the agent proposes while a run is in progress, and if it does not.

    uv run python -m benchmarks.ahead [--seconds 8] [--experiments 6] [--rounds 2]

The agent takes as long as a run: both sleep. One of five changes is kept, so that the next proposal has to be merged
onto it. Sessions with and without `--ahead` alternate. Rates are read from the journals, from the row of the first
experiment to that of the last: the first proposal of a session has no run to be made in.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.overhead import ROOT, make_workspace

CONSTANTS = 40
KEPT_EVERY = 5
TARGET = 1.8
TRAIN = """import time

{constants}

if __name__ == "__main__":
    time.sleep({seconds})
    good = [{names}][{every} - 1 :: {every}]
    print("val_bpb:", format(2 - sum(good) / 100, ".6f"))
"""
# Sets the next constant to 1. It counts outside of its copy, so that both sides get the same proposals.
AGENT = """import pathlib, time
count = pathlib.Path({count!r})
number = len(count.read_text()) + 1 if count.exists() else 1
count.write_text("x" * number)
time.sleep({seconds})
train = pathlib.Path("train.py")
train.write_text(train.read_text().replace(f"A{{number}} = 0\\n", f"A{{number}} = 1\\n"))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure experiments an hour with and without proposals made ahead.")
    parser.add_argument("--seconds", type=float, default=8.0, help="of a run, and of the agent")
    parser.add_argument("--experiments", type=int, default=6, help="in each session")
    parser.add_argument("--rounds", type=int, default=2, help="sessions of each side")
    options = parser.parse_args()
    rates: dict[str, list[float]] = {"--no-ahead": [], "--ahead": []}
    for _ in range(options.rounds):
        for side, found in rates.items():
            events = session(side, options.seconds, options.experiments)
            found.append(per_hour(events))
            thrown = sum(each["event"] == "outdated" for each in events)
            print(f"{side}: {found[-1]:.1f} experiments an hour, {thrown} proposals thrown away", flush=True)
    without, ahead = (statistics.fmean(found) for found in rates.values())
    print(f"{ahead:.1f} against {without:.1f} experiments an hour: {ahead / without:.2f} times")
    sys.exit(0 if ahead >= TARGET * without else f"that misses the target of {TARGET} times")


def session(side: str, seconds: float, experiments: int) -> list[dict[str, Any]]:
    """Run a session in a temporary repository and return its events."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_workspace(Path(scratch) / "workspace", _train(seconds))
        agent = Path(scratch) / "agent.py"
        agent.write_text(AGENT.format(count=str(Path(scratch) / "count"), seconds=seconds))
        wanted = ["--proposer", "command", "--agent-cmd", f"{sys.executable} {shlex.quote(str(agent))}", side]
        rules = ["--verdict", "greedy", "--sandbox", "off", "--no-confirm", "--no-report", "--no-keep-awake"]
        command = [sys.executable, "-m", "agent", "run", "--tag", "x", "--max-experiments", str(experiments)]
        subprocess.run(
            [*command, *wanted, *rules],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
        )
        journal = (folder / ".autoresearch/sessions/x/journal.jsonl").read_text()
    return [json.loads(line) for line in journal.splitlines()]


def per_hour(events: list[dict[str, Any]]) -> float:
    """Return the experiments an hour after the first."""
    rows = [float(each["at"]) for each in events if each["event"] == "recorded"][1:]
    return 3600 * (len(rows) - 1) / (rows[-1] - rows[0])


def _train(seconds: float) -> str:
    names = [f"A{number}" for number in range(1, CONSTANTS + 1)]
    constants = "\n".join(f"{name} = 0" for name in names)
    return TRAIN.format(constants=constants, names=", ".join(names), seconds=seconds, every=KEPT_EVERY)


if __name__ == "__main__":
    main()
