"""Search while other stations measure candidates.

Many candidates start from one incumbent before the next keep, so several of them may be better than it, each by another
change. Only one of them can be the next incumbent. The changes of the best ones together are therefore candidates too,
and the model chooses among them. None of this applies to a session of one machine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from itertools import combinations

from agent.decision.estimate import estimate
from agent.journal.experiment import Value
from agent.proposers.base import Context
from agent.proposers.search.candidates import point
from agent.proposers.search.space import Space

# So many of the best candidates are combined, at most so many at a time.
BEST, TOGETHER = 6, 3


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


def combined(space: Space, context: Context) -> list[dict[str, Value]]:
    """Return changes of the incumbent: those of the best other candidates, alone and together."""
    if not context.flight:
        return []
    sign = 1.0 if context.direction == "minimize" else -1.0
    keeps = [each.parameters for each in context.history if each.verdict.status == "keep"]
    values = [(each.parameters, estimate(each)) for each in context.history if each.verdict.status == "discard"]
    known = measured(context) + [(parameters, sign * value) for parameters, value in values if value is not None]
    known.sort(key=lambda pair: pair[1])
    changes = [_changes(space, parameters, keeps) for parameters, _ in known[:BEST]]
    own, found = space.values(), []
    for count in range(1, TOGETHER + 1):
        for several in combinations(changes, count):
            # Where two changed the same constant, the better one decides.
            merged = {key: value for each in reversed(several) for key, value in each.items() if own.get(key) != value}
            if merged and merged not in found:
                found.append(merged)
    return found


def _changes(space: Space, parameters: Mapping[str, Value], keeps: list[Mapping[str, Value]]) -> dict[str, Value]:
    """Return the constants that a candidate changed of the incumbent that it started from: the one most like it."""
    differences = [
        {
            d.key: parameters[d.key]
            for d in space.dimensions
            if d.key in parameters and keep.get(d.key) != parameters[d.key]
        }
        for keep in keeps
    ]
    return min(differences, key=len, default={})
