"""Is the gain there? Baseline and best, or any two commits, by fresh runs that chose neither."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from agent.compare import compare, difference
from agent.errors import PreconditionError, UsageError
from agent.experiment import reservations
from agent.interrupts import Interrupts
from agent.journal import Journal
from agent.measure import Bench
from agent.noise import noise_of
from agent.state import State
from agent.views.text import figure

RUNS = 3


def sides(bench: Bench, state: State, a: str | None, b: str | None) -> dict[str, str]:
    """The two commits. Without names the baseline and the best; one name alone is compared with the baseline.

    Raises UsageError for what is no commit, PreconditionError where there is nothing to compare.
    """
    baseline, best = state.baseline, state.incumbent
    if baseline is None or best is None:
        raise PreconditionError("the session has no baseline yet: let it run first")
    if a is not None and b is None:
        a, b = None, a
    if b is None and best.number == 0:
        raise PreconditionError("nothing better than the baseline was kept: there is no gain to confirm")
    named = {"a": a or baseline.commit, "b": b or best.commit}
    found = {label: bench.workspace.resolve(name) for label, name in named.items()}
    for label, commit in found.items():
        if commit is None:
            raise UsageError(f"{named[label]!r} is no commit here: take a hash from results.tsv")
    return {label: commit for label, commit in found.items() if commit is not None}


def confirm(
    bench: Bench, journal: Journal, interrupts: Interrupts, commits: Mapping[str, str], count: int = RUNS
) -> dict[str, Any]:
    """Compare the commits `a` and `b`, journal what came of it, and return that: the evidence, as plain data."""
    folder = journal.path.parent / "confirm" / f"{commits['a'][:12]}-{commits['b'][:12]}"
    runs = compare(bench, journal, interrupts, commits, count, folder)
    found = difference(runs["a"], runs["b"], noise_of(journal.state.experiments), bench.protocol.metric.direction)
    values = {label: [run.metric for run in each if run.metric is not None] for label, each in runs.items()}
    data = {
        **commits,
        "metric": bench.protocol.metric.name,
        "values": values,
        "means": {label: math.fsum(each) / len(each) for label, each in values.items()},
        "runs": {label: len(each) for label, each in values.items()},
        "gain": found.gain,
        "low": found.low,
        "high": found.high,
        "noise": found.noise,
        "verdict": found.verdict,
        "reservations": reservations([*runs["a"], *runs["b"]]),
    }
    journal.append("confirmed", **data)
    return data


def lines(data: Mapping[str, Any]) -> list[str]:
    shown = [
        f"{label}  {data[label][:12]}  {figure(data['means'][label])} {data['metric']}, mean of {data['runs'][label]}: "
        + " ".join(figure(value) for value in data["values"][label])
        for label in ("a", "b")
    ]
    by, low, high = (figure(data[name], data["means"]["a"]) for name in ("gain", "low", "high"))
    interval = f"95 % interval {low} to {high}, noise of a run {data['noise']:.2g}"
    words = "".join(f", {word}" for word in data.get("reservations", ()))
    return [*shown, f"gain {by} {data['verdict']}{words}: {interval}"]
