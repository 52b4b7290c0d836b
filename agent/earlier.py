"""What other sessions of the workspace measured under the same conditions: history that a new one need not wait for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.errors import AutoresearchError
from agent.experiment import Experiment
from agent.journal import read
from agent.state import replay


def experiments_before(journal: Path, fingerprint: Mapping[str, Any], most: int) -> list[Sequence[Experiment]]:
    """The experiments of the other sessions beside `journal`, those worked on last at the end: `most` or a few more.

    fingerprint: of this session; one measured on another machine, snapshot or budget is left out, and so is a journal
    that cannot be read: a damaged neighbour is no reason to stop.
    """
    others = (path for path in journal.parent.parent.glob("*/journal.jsonl") if path != journal)
    found: list[Sequence[Experiment]] = []
    for path in sorted(others, key=_worked_on, reverse=True):
        if sum(len(each) for each in found) >= most:
            break
        try:
            state = replay(read(path))
        except (AutoresearchError, OSError):
            continue
        if state.session is not None and state.session.get("fingerprint") == fingerprint:
            found.append(state.experiments)
    return found[::-1]


def _worked_on(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
