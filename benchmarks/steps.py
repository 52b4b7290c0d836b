"""Measure how much of the noise of recorded runs comes from the number of steps that the machine left time for.

    uv run python -m benchmarks.steps DIR...

DIR is the folder of a `benchmarks.night`. Runs of one program form a group: those of an experiment in its session, or
the held-out runs of a best. The table shows for each group its runs, the slope of the metric against the logarithm of
the steps, and the standard deviation of one run as measured and at equal steps with the group's own slope. The last row
uses one slope for all groups, as decision/equal_steps.py does.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from agent.decision.equal_steps import STEPS, squares
from agent.journal.experiment import Run
from benchmarks.night import state_of

Group = tuple[str, Sequence[Run]]


def groups(out: Path) -> Iterator[Group]:
    """Yield every program of a night with three runs or more."""
    for folder in sorted(each for each in out.iterdir() if (each / ".autoresearch" / "sessions").is_dir()):
        for experiment in state_of(folder).experiments:
            runs = [run for run in (*experiment.runs, *experiment.heldout_runs) if run.metric is not None]
            if len(runs) > 2:
                yield f"{folder.name} #{experiment.number}", runs
    heldout = [json.loads(line) for line in (out / "fresh.jsonl").read_text().splitlines()]
    for name in dict.fromkeys(each["name"] for each in heldout):
        runs = [Run(each["val_bpb"], 0.0, {STEPS: each["steps"]}) for each in heldout if each["name"] == name]
        yield f"{name}, held-out", runs


def row(name: str, parts: Sequence[Sequence[Run]]) -> str:
    xx, xy, yy = (sum(each) for each in zip(*(squares(runs) for runs in parts), strict=True))
    runs = sum(len(each) for each in parts)
    slope, degrees = xy / xx if xx else 0.0, runs - len(parts)
    left = math.sqrt(max(0.0, yy - slope * xy) / (degrees - 1))
    measured, explained = math.sqrt(yy / degrees), slope * xy / yy
    return f"| {name} | {runs} | {slope:+.3f} | {measured:.4f} | {left:.4f} | {explained:.0%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how much of the noise is the number of steps.")
    parser.add_argument("folders", nargs="+", type=Path)
    found = [group for folder in parser.parse_args().folders for group in groups(folder)]
    print("| program | runs | slope | sd of one run | at equal steps | explained |\n|---|---|---|---|---|---|")
    for name, runs in found:
        print(row(name, [runs]))
    print(row("all, one slope", [runs for _, runs in found]))


if __name__ == "__main__":
    main()
