"""Confirm a gain: compare baseline and best, or any two commits, by held-out runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from agent.decision.noise import noise_of
from agent.decision.schedule import counted
from agent.errors import PreconditionError, UsageError
from agent.execution.measure import Runner
from agent.format import figure
from agent.journal.experiment import Run, reservations, succeeded
from agent.journal.state import PendingComparison, State, experiment_named, side
from agent.session.compare import compare, difference
from agent.session.workbench import Workbench
from agent.system.invocation import typed

RUNS = 3


def sides(runner: Runner, state: State, a: str | None, b: str | None) -> dict[str, str]:
    """Return the two commits to compare, as `a` and `b`.

    Without names these are the baseline and the best. A single name is compared with the baseline.

    Args:
        a: the number of an experiment, `best`, `baseline`, or anything that git resolves to a commit. So is `b`.

    Raises:
        UsageError: a name is not a commit, or both are the same program.
        PreconditionError: there is nothing to compare.
    """
    baseline, best = state.baseline, state.incumbent
    if baseline is None or best is None:
        start = typed(f"run --tag {state.session['tag'] if state.session else 'NAME'}")
        raise PreconditionError("the session has no baseline yet", hint=f"run it first with `{start}`")
    if a is not None and b is None:
        a, b = None, a
    if b is None and best.number == 0:
        raise PreconditionError("nothing better than the baseline was kept, so no gain can be confirmed")
    found = {
        "a": baseline.commit if a is None else _commit(runner, state, a),
        "b": best.commit if b is None else _commit(runner, state, b),
    }
    own = {label: _experiment_of(runner, state, commit) for label, commit in found.items()}
    if own["a"] == own["b"] and found["a"] != found["b"]:
        raise UsageError(
            f"{a or 'baseline'} and {b} are the same program",
            hint="choose two that differ, such as two experiment numbers",
        )
    return own


def _commit(runner: Runner, state: State, name: str) -> str:
    found = experiment_named(state, name)
    commit = found.commit if found is not None else runner.workspace.resolve(name)
    if commit is None:
        raise UsageError(f"unknown commit {name[:80]!r}", hint="use an experiment number, or a hash from results.tsv")
    return commit


def _experiment_of(runner: Runner, state: State, commit: str) -> str:
    """Return the commit of the experiment with the same program, else the commit itself.

    A commit that only adds rows has the same program, and its result counts for the experiment.
    """
    commits = dict.fromkeys(e.commit for e in reversed(state.experiments))
    if commit in commits:
        return commit
    return next((own for own in commits if not runner.workspace.diff(own, commit)), commit)


def confirm(bench: Workbench, commits: Mapping[str, str], count: int = RUNS) -> dict[str, Any]:
    """Compare the commits `a` and `b`, and journal and return the evidence as plain data.

    All held-out runs of the two count, including those of earlier confirmations.

    Args:
        count: new runs per commit.
    """
    runner, journal = bench.runner, bench.journal
    pair = set(commits.values())
    earlier = [each for each in journal.state.compared if len(pair) > 1 and set(each.commits.values()) == pair]
    folder = journal.path.parent / "confirm" / f"{commits['a'][:12]}-{commits['b'][:12]}"
    if earlier:
        folder = folder.with_name(f"{folder.name}-{len(earlier) + 1}")
    latest = compare(bench, commits, count, folder)
    runs = {label: [*_runs_of(earlier, commit), *latest[label]] for label, commit in commits.items()}
    found = difference(runs["a"], runs["b"], noise_of(journal.state.experiments), runner.protocol.metric.direction)
    values = {label: [run.metric for run in each if run.metric is not None] for label, each in runs.items()}
    data = {
        **commits,
        "names": {label: side(journal.state, label, commit) for label, commit in commits.items()},
        "metric": runner.protocol.metric.name,
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


def _runs_of(comparisons: Sequence[PendingComparison], commit: str) -> list[Run]:
    return [
        run
        for each in comparisons
        for label in each.commits
        if each.commits[label] == commit
        for run in succeeded(counted(each, label))
    ]


def confirm_lines(data: Mapping[str, Any]) -> list[str]:
    names = data["names"]
    wide = max(map(len, names.values()))
    shown = [
        f"{names[label]:{wide}}  {data[label][:12]}  {figure(data['means'][label])} {data['metric']}, "
        f"mean of {data['runs'][label]}: " + " ".join(figure(value) for value in data["values"][label])
        for label in ("a", "b")
    ]
    by, low, high = (figure(data[name], data["means"]["a"]) for name in ("gain", "low", "high"))
    interval = f"95 % interval {low} to {high}, noise of one run {data['noise']:.2g}"
    words = "".join(f", {word}" for word in data.get("reservations", ()))
    return [*shown, f"gain {by} {data['verdict']}{words}: {interval}"]
