"""How much of the noise of recorded runs is the number of steps that the machine left time for.

    uv run python -m benchmarks.steps DIR...

DIR is that of `benchmarks.night`. Runs of one program are a group: those of an experiment in its session, and the fresh
ones of a best. Of each: its runs, the slope of the metric in the logarithm of the steps, and the standard deviation of
one run as measured and at equal steps, by its own slope. The last row has one slope for all, as
decision/equal_steps.py does.
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
    """Every program of a night that was run three times or more."""
    for folder in sorted(each for each in out.iterdir() if (each / ".autoresearch" / "sessions").is_dir()):
        for experiment in state_of(folder).experiments:
            runs = [run for run in (*experiment.runs, *experiment.heldout_runs) if run.metric is not None]
            if len(runs) > 2:
                yield f"{folder.name} #{experiment.number}", runs
    fresh = [json.loads(line) for line in (out / "fresh.jsonl").read_text().splitlines()]
    for name in dict.fromkeys(each["name"] for each in fresh):
        runs = [Run(each["val_bpb"], 0.0, {STEPS: each["steps"]}) for each in fresh if each["name"] == name]
        yield f"{name}, fresh", runs


def row(name: str, parts: Sequence[Sequence[Run]]) -> str:
    xx, xy, yy = (sum(each) for each in zip(*(squares(runs) for runs in parts), strict=True))
    runs = sum(len(each) for each in parts)
    slope, degrees = xy / xx if xx else 0.0, runs - len(parts)
    left = math.sqrt(max(0.0, yy - slope * xy) / (degrees - 1))
    measured, explained = math.sqrt(yy / degrees), slope * xy / yy
    return f"| {name} | {runs} | {slope:+.3f} | {measured:.4f} | {left:.4f} | {explained:.0%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="The noise that is the number of steps.")
    parser.add_argument("folders", nargs="+", type=Path)
    found = [group for folder in parser.parse_args().folders for group in groups(folder)]
    print("| program | runs | slope | sd of one run | at equal steps | explained |\n|---|---|---|---|---|---|")
    for name, runs in found:
        print(row(name, [runs]))
    print(row("all, one slope", [runs for _, runs in found]))


if __name__ == "__main__":
    main()
