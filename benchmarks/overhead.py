"""Measure the loop's overhead per experiment, excluding the command and the proposer.

    uv run python -m benchmarks.overhead [--experiments 30] [--stations 16]

Runs a session in a temporary repository, with a command that returns at once, and reads the times from its journal: the
time from a proposal on disk to its row, minus the run itself. With stations, experiments overlap: it is the time from
the first candidate to the last row, with the runs of all stations of this machine, for each row.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
TRAIN = """A = 0.1  # search: 0.0001..10 log
B = 0.1  # search: 0.0001..10 log
C = 0.5  # search: 0.0..1.0
print("val_bpb:", format(1 + (A - 0.4) ** 2 + (B - 2) ** 2 + (C - 0.3) ** 2, ".12f"))
"""
TARGET_SECONDS = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the loop's overhead per experiment.")
    parser.add_argument("--experiments", type=int, default=30)
    parser.add_argument("--stations", type=int)
    options = parser.parse_args()
    stations = [] if options.stations is None else ["--stations", str(options.stations)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_workspace(Path(scratch) / "work")
        command = [sys.executable, "-m", "agent", "run", "--tag", "x", "--max-experiments", str(options.experiments)]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "AUTORESEARCH_CACHE": str(Path(scratch) / "cache")}
        # What follows the loop is no overhead of it.
        subprocess.run(
            [*command, *stations, "--no-confirm", "--no-report"], cwd=folder, env=env, check=True, capture_output=True
        )
        journal = (folder / ".autoresearch/sessions/x/journal.jsonl").read_text()
    events = [json.loads(line) for line in journal.splitlines()]
    if stations:
        each = seconds_for_each(events)
        print(f"{options.experiments} experiments on {options.stations} stations: {each:.3f} s for each")
        sys.exit(0 if each < TARGET_SECONDS else f"this exceeds the target of {TARGET_SECONDS:g} s")
    overheads = overheads_of(events)
    median, worst = statistics.median(overheads), max(overheads)
    print(f"{len(overheads)} experiments: overhead median {median:.3f} s, worst {worst:.3f} s")
    sys.exit(0 if worst < TARGET_SECONDS else f"the worst exceeds the target of {TARGET_SECONDS:g} s")


def make_workspace(folder: Path, train: str = TRAIN) -> Path:
    folder.mkdir(exist_ok=True)
    protocol = json.loads((ROOT / "protocol.json").read_bytes())
    protocol["meta"]["archetype"] = "benchmark_opt"
    protocol["environment"]["setupCommands"] = []
    protocol["execution"]["command"] = f"{sys.executable} -S train.py"
    (folder / "protocol.json").write_text(json.dumps(protocol))
    (folder / "train.py").write_text(train)
    (folder / "prepare.py").write_text("")
    git = ["git", "-c", "user.name=bench", "-c", "user.email=bench@example.invalid"]
    for arguments in (["init", "--quiet"], ["add", "-A"], ["commit", "--quiet", "-m", "start"]):
        subprocess.run([*git, *arguments], cwd=folder, check=True)
    return folder


def seconds_for_each(events: list[dict[str, object]]) -> float:
    """Return the seconds from the first candidate to the last row, divided by the number of rows between them."""
    began = next(float(str(event["at"])) for event in events if event["event"] == "candidate")
    rows = [float(str(event["at"])) for event in events if event["event"] == "recorded" and event["number"] != 0]
    return (rows[-1] - began) / len(rows)


def overheads_of(events: list[dict[str, object]]) -> list[float]:
    """Return the overhead of each experiment in seconds. The baseline is left out: it includes the session's start."""
    found, proposed, run = [], 0.0, 0.0
    for event in events:
        at = float(str(event["at"]))
        if event["event"] == "proposed":
            proposed = at
        elif event["event"] == "measured":
            run = float(str(event["seconds"]))
        elif event["event"] == "recorded" and event["number"] != 0:
            found.append(at - proposed - run)
    return found


if __name__ == "__main__":
    main()
