"""Look back: the effect of each change in this session, and the measurements of earlier sessions."""

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
    """Return the latest experiments of the workspace's other sessions, the most recently active session last.

    Sessions with another harness, machine, snapshot or budget are left out, and so are those on stations, whose numbers
    and speeds are not those of this machine, and unreadable journals: the damage of another session must not stop this
    one.

    Args:
        journal: the journal of this session.
        fingerprint: the fingerprint of this session.
        most: maximum number of experiments, not counting the incumbents that they were compared with.
    """
    others = (path for path in journal.parent.parent.glob("*/journal.jsonl") if path != journal)
    found: list[Sequence[Experiment]] = []
    for path in sorted(others, key=worked_on, reverse=True):
        if most <= 0:
            break
        try:
            state = fold(path)
        except (AutoresearchError, OSError):
            continue
        if state.session is None or state.flight.stations:
            continue
        if comparable(state.session.get("fingerprint", {}), fingerprint):
            found.append(_latest(state.experiments, most))
            most -= len(state.experiments)
    return found[::-1]


def change_of(history: Sequence[Experiment], experiment: Experiment) -> float | None:
    """Return an experiment's metric minus that of the incumbent at the time; None if either has no metric."""
    before = incumbent_before(history, experiment.number)
    if experiment.metric is None or before is None or before.metric is None:
        return None
    return experiment.metric - before.metric


def incumbent_before(history: Sequence[Experiment], number: int) -> Experiment | None:
    """Return what an experiment was compared with: the incumbent of its time, or an earlier one by stations."""
    own = history[number] if number < len(history) and history[number].number == number else None
    if own is not None and own.base is not None and own.base < number:
        return history[own.base]
    return next((e for e in reversed(history[:number]) if e.kept), None)


def _ideas_of(history: Sequence[Experiment], experiment: Experiment) -> list[str]:
    """Return the constants that an experiment changed, with directions, or else the first words of its description."""
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
    """Group the experiments after the baseline by the idea that they tried."""
    groups: dict[str, list[Experiment]] = defaultdict(list)
    for experiment in history[1:]:
        for idea in _ideas_of(history, experiment):
            groups[idea].append(experiment)
    return groups


def _latest(experiments: Sequence[Experiment], most: int) -> Sequence[Experiment]:
    """Return the last `most`, preceded by the incumbent at that time. Reading a thousand logs would take seconds."""
    first = max(0, len(experiments) - most)
    while first > 0 and not experiments[first].kept:
        first -= 1
    return experiments[first:]


def worked_on(path: Path) -> float:
    """Return when a file was written last, in seconds since the epoch; 0 if it is gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
