"""Search while other stations measure candidates: what the model knows of those in flight."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from agent.journal.experiment import Value
from agent.proposers.base import Context
from agent.proposers.search.candidates import point
from agent.proposers.search.space import Space


def pending(space: Space, context: Context) -> list[list[float]]:
    """Return the points of the candidates in flight that no run has finished of."""
    rows = []
    for each in context.flight:
        with contextlib.suppress(KeyError, TypeError):  # it lacks a constant of the current space
            if each.metric is None:
                rows.append(point(space, each.parameters))
    return rows


def measured(context: Context) -> list[tuple[Mapping[str, Value], float]]:
    """Return the constants of the candidates in flight with the values of their runs; smaller is better."""
    sign = 1.0 if context.direction == "minimize" else -1.0
    return [(each.parameters, sign * each.metric) for each in context.flight if each.metric is not None]
