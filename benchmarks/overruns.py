"""Measure what a run over its budget costs now that it is ended early, by repeating failures of recorded sessions.

    uv run python -m benchmarks.overruns --out DIR

DIR is the folder of a `benchmarks.night`. Its classic sessions let every run continue to its end or the hard limit.
Each run without a metric is repeated once with the same budget and limit, and DIR/overruns.jsonl records the seconds of
both. An interrupted benchmark continues with the same command. Run nothing else meanwhile. `benchmarks.pruning` uses
the result.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from agent.execution.measure import Runner, measure
from agent.execution.process import Observer
from agent.journal.experiment import Experiment
from agent.pruning.monitor import RunMonitor
from agent.session.opening import open_runner, prepared
from benchmarks.night import HARD_LIMIT, best_text, clone, state_of

RECORD = "overruns.jsonl"


def failures(out: Path) -> Iterator[tuple[str, Experiment]]:
    """Yield (session name, experiment) for all experiments without a metric that were not pruned."""
    for folder in sorted(each for each in out.iterdir() if (each / ".autoresearch" / "sessions").is_dir()):
        for experiment in state_of(folder).experiments:
            if experiment.runs[-1].metric is None and experiment.runs[-1].pruned is None:
                yield folder.name, experiment


def known(out: Path) -> dict[tuple[str, int], tuple[float, float]]:
    """Return (session, number) -> (seconds before, seconds now) for the runs repeated so far."""
    path = out / RECORD
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {(each["session"], each["number"]): (each["before"], each["now"]) for each in lines}


def again(runner: Runner, text: str, log: Path) -> tuple[float, str]:
    """Run this `train.py` once and return its seconds and how it ended."""
    workspace = runner.workspace
    commit = workspace.commit_candidate("refs/autoresearch/again", workspace.head, {"train.py": text}, log.stem)
    run = measure(runner, commit, log, Observer(tick=RunMonitor(log, runner.limit, runner.training_seconds, None)))
    return run.seconds, run.error or f"{run.metric}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Repeat the failures of recorded sessions.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    out = options.out.resolve()
    folder = clone(out, "again")
    with open_runner(folder, "again", options.seconds, "auto") as bare, prepared(bare, setup=False) as opened:
        runner = replace(opened, protocol=opened.protocol.with_limit(HARD_LIMIT * options.seconds))
        for session, experiment in failures(out):
            if (session, experiment.number) in known(out):
                continue
            log = folder / ".autoresearch" / "again" / f"{session}-{experiment.number}.log"
            now, ended = again(runner, best_text(out / session, experiment.commit), log)
            before = sum(run.seconds for run in experiment.runs)
            print(f"{session} #{experiment.number}: {before:.1f} s, now {now:.1f} s: {ended}", flush=True)
            entry = {"session": session, "number": experiment.number, "before": before, "now": now, "ended": ended}
            with (out / RECORD).open("a") as file:
                file.write(json.dumps(entry) + "\n")
    pairs = list(known(out).values())
    print(f"{len(pairs)} failures: {sum(b for b, _ in pairs):.0f} s before, {sum(n for _, n in pairs):.0f} s now")


if __name__ == "__main__":
    main()
