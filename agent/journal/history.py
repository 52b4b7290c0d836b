"""Looking back: what an experiment changed and what came of it, and what other sessions measured before this one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.errors import AutoresearchError
from agent.journal.comparable import comparable
from agent.journal.experiment import Experiment
from agent.journal.journal import fold


def experiments_before(journal: Path, fingerprint: Mapping[str, Any], most: int) -> list[Sequence[Experiment]]:
    """The latest experiments of the other sessions beside `journal`, those worked on last at the end.

    fingerprint: of this session; one measured by another harness, or on another machine, snapshot or budget, is left
    out, and so is a journal that cannot be read: a damaged neighbour is no reason to stop. most: experiments, besides
    the incumbents that they were compared with.
    """
    others = (path for path in journal.parent.parent.glob("*/journal.jsonl") if path != journal)
    found: list[Sequence[Experiment]] = []
    for path in sorted(others, key=_worked_on, reverse=True):
        if most <= 0:
            break
        try:
            state = fold(path)
        except (AutoresearchError, OSError):
            continue
        if state.session is not None and comparable(state.session.get("fingerprint", {}), fingerprint):
            found.append(_latest(state.experiments, most))
            most -= len(state.experiments)
    return found[::-1]


def change_of(history: Sequence[Experiment], experiment: Experiment) -> float | None:
    """Its metric less that of the incumbent of that time; None where one of them has none."""
    before = incumbent_before(history, experiment.number)
    if experiment.metric is None or before is None or before.metric is None:
        return None
    return experiment.metric - before.metric


def incumbent_before(history: Sequence[Experiment], number: int) -> Experiment | None:
    return next((e for e in reversed(history[:number]) if e.verdict.status == "keep"), None)


def _ideas_of(history: Sequence[Experiment], experiment: Experiment) -> list[str]:
    """The constants that it moved and in which direction, or the first words of its description."""
    before = incumbent_before(history, experiment.number)
    found = []
    for name, value in experiment.parameters.items():
        old = before.parameters.get(name) if before else None
        if old is None or old == value:
            continue
        if isinstance(value, int | float) and isinstance(old, int | float):
            found.append(f"{name} {'up' if value > old else 'down'}")
        else:
            found.append(f"{name} changed")
    return found or [" ".join(experiment.description.split()[:5])]


def by_idea(history: Sequence[Experiment]) -> dict[str, list[Experiment]]:
    """The experiments after the baseline that tried each idea."""
    groups: dict[str, list[Experiment]] = defaultdict(list)
    for experiment in history[1:]:
        for idea in _ideas_of(history, experiment):
            groups[idea].append(experiment)
    return groups


def _latest(experiments: Sequence[Experiment], most: int) -> Sequence[Experiment]:
    """The last `most`, after the incumbent of that time: reading the logs of a thousand would take seconds."""
    first = max(0, len(experiments) - most)
    while first > 0 and experiments[first].verdict.status != "keep":
        first -= 1
    return experiments[first:]


def _worked_on(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
