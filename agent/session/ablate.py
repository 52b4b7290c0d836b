"""Find out which kept changes still improve the metric, and offer the recipe without the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.decision.difference import difference
from agent.decision.noise import noise_of
from agent.errors import PreconditionError
from agent.execution.measure import Runner
from agent.format import figure
from agent.journal.experiment import Experiment, metrics
from agent.session.compare import compare
from agent.session.workbench import Workbench

RUNS = 2
BEST, SMALLER = "best", "smaller"


def ablate(bench: Workbench, count: int = RUNS) -> dict[str, Any]:
    """Compare the best with itself minus each kept change, then minus all changes that do not pay.

    Args:
        count: runs per variant.

    Returns:
        Plain data: a verdict for each change, and the commit of the smaller recipe if it loses nothing.

    Raises:
        PreconditionError: nothing was kept.
    """
    runner, journal, state = bench.runner, bench.journal, bench.journal.state
    best = state.incumbent
    kept = [e for e in state.experiments if e.verdict.status == "keep"]
    if best is None or best.number == 0:
        raise PreconditionError("nothing better than the baseline was kept, so no change can be removed")
    texts = runner.workspace.files(best.commit)
    changes = list(zip(kept[1:], kept, strict=False))
    variants = {f"without-{after.number}": _without(runner, texts, [(after, before)]) for after, before in changes}
    commits = {BEST: best.commit}
    for label, files in variants.items():
        if files is not None and files != texts:
            commits[label] = _commit(bench, label, files)
    folder = journal.path.parent / "ablate" / best.commit[:12]
    runs = compare(bench, commits, count, folder, may_fail=commits.keys() - {BEST})
    noise, direction = noise_of(state.experiments), runner.protocol.metric.direction
    found = []
    for after, before in changes:
        label = f"without-{after.number}"
        entry: dict[str, Any] = {"number": after.number, "commit": after.commit, "description": after.description}
        if label in commits and runs[label][-1].metric is None:
            entry |= {"verdict": "pays", "worth": None, "fails": runs[label][-1].error}
        elif label in commits:
            worth = difference(metrics(runs[label]), metrics(runs[BEST]), direction, noise)
            says = "pays" if worth.low > 0 else "harms" if worth.high < 0 else "not shown to pay"
            entry |= {"verdict": says, "worth": worth.gain, "low": worth.low, "high": worth.high}
        else:
            undone = variants[label] is None
            entry |= {"verdict": "cannot be taken back alone" if undone else "undone by a later change", "worth": None}
        found.append((entry, (after, before)))
    idle = [change for entry, change in found if entry["verdict"] in ("not shown to pay", "harms")]
    smaller = _smaller(bench, idle, count) if idle else None
    data = {"best": best.commit, "changes": [entry for entry, _ in found], "runs": count, "smaller": smaller}
    journal.append("ablated", **data)
    return data


def ablate_lines(data: Mapping[str, Any]) -> list[str]:
    shown = []
    for entry in data["changes"]:
        worth = f" {_worth(entry, entry['worth'])}" if entry["worth"] is not None else ""
        worth = f" (without it the run fails: {entry['fails']})" if "fails" in entry else worth
        shown.append(f"#{entry['number']} {entry['verdict']}{worth}: {entry['description']}")
    smaller = data["smaller"]
    if smaller is None:
        return [*shown, "no smaller recipe: every change pays or cannot be removed"]
    without = ", ".join(f"#{number}" for number in smaller["without"])
    if smaller["gain"] is None:
        return [*shown, f"without {without} together the run fails ({smaller['fails']}): keep them"]
    lost = f"{_worth(smaller, smaller['gain'])} against the best"
    if not smaller["offered"]:
        return [*shown, f"without {without}: {lost}; together they pay: keep them"]
    return [*shown, f"without {without}: {lost}", f"use it with `git checkout -b NAME {smaller['commit'][:12]}`"]


def _worth(found: Mapping[str, Any], gain: float) -> str:
    return f"{figure(gain, sign='+')} ({figure(found['low'])} to {figure(found['high'])})"


def _smaller(bench: Workbench, idle: Sequence[tuple[Experiment, Experiment]], count: int) -> dict[str, Any] | None:
    runner, journal = bench.runner, bench.journal
    best = journal.state.incumbent
    assert best is not None
    files = _without(runner, runner.workspace.files(best.commit), idle)
    if files is None:
        return None
    commit = _commit(bench, SMALLER, files)
    folder = journal.path.parent / "ablate" / commit[:12]
    commits, without = {BEST: best.commit, SMALLER: commit}, [after.number for after, _ in idle]
    runs = compare(bench, commits, count, folder, may_fail={SMALLER})
    failed = runs[SMALLER][-1]
    if failed.metric is None:
        nothing = {"gain": None, "low": None, "high": None}
        return {"commit": commit, "without": without, **nothing, "offered": False, "fails": failed.error}
    state, direction = journal.state, runner.protocol.metric.direction
    found = difference(metrics(runs[BEST]), metrics(runs[SMALLER]), direction, noise_of(state.experiments))
    worth = {"gain": found.gain, "low": found.low, "high": found.high}
    # Offered unless it is shown to be worse; the user sees the interval.
    return {"commit": commit, "without": without, **worth, "offered": found.high >= 0}


def _without(
    runner: Runner, texts: Mapping[str, str], changes: Sequence[tuple[Experiment, Experiment]]
) -> dict[str, str] | None:
    """Return the files with the changes undone, the latest first; None if later changes conflict."""
    files = dict(texts)
    for after, before in reversed(changes):
        for path, text in files.items():
            now, then = (runner.workspace.show(each.commit, path) for each in (after, before))
            if now is None or then is None:
                return None
            taken = runner.workspace.without(text, now, then) if now != then else text
            if taken is None:
                return None
            files[path] = taken
    return files


def _commit(bench: Workbench, label: str, files: Mapping[str, str]) -> str:
    workspace, state = bench.runner.workspace, bench.journal.state
    assert state.session is not None
    ref = f"refs/autoresearch/{state.session['tag']}/ablate/{label}"
    known = workspace.resolve(ref)
    if known is not None and workspace.files(known) == files:
        return known  # so that an interrupted ablation continues with the same commits
    assert state.head is not None
    return workspace.commit_candidate(ref, state.head, files, f"ablation: {label}")
