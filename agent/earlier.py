"""What other sessions of the workspace measured under the same conditions: history that a new one need not wait for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.errors import AutoresearchError
from agent.experiment import Experiment
from agent.journal import fold


def experiments_before(journal: Path, fingerprint: Mapping[str, Any], most: int) -> list[Sequence[Experiment]]:
    """The latest experiments of the other sessions beside `journal`, those worked on last at the end.

    fingerprint: of this session; one measured on another machine, snapshot or budget is left out, and so is a journal
    that cannot be read: a damaged neighbour is no reason to stop. most: experiments, besides the incumbents that they
    were compared with.
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
        if state.session is not None and state.session.get("fingerprint") == fingerprint:
            found.append(_latest(state.experiments, most))
            most -= len(state.experiments)
    return found[::-1]


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
