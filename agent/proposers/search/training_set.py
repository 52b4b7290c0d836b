"""Turn experiments into what a model of the metric is fitted to: points and targets."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Mapping, Sequence

from agent.decision.estimate import estimate
from agent.journal.experiment import Direction, Experiment, Value
from agent.proposers.base import Context
from agent.proposers.search.candidates import point
from agent.proposers.search.space import Space

FEWEST = 4  # values that a model needs to learn from
FARTHEST = 3.0  # limit of the targets that the model learns


def training_set(
    space: Space, history: Sequence[Experiment], direction: Direction
) -> tuple[list[list[float]], list[float]]:
    """Return the points and the targets that the model is fitted to, for others to fit it; empty if it learns nothing.

    Smaller targets are better.
    """
    rows, values = measured(space, history, direction)
    known = sum(value is not None for value in values)
    return (rows, targets(values)) if known >= FEWEST else ([], [])


def measured(
    space: Space, history: Sequence[Experiment], direction: Direction
) -> tuple[list[list[float]], list[float | None]]:
    """Return the points of the experiments and their values, None for a failure; smaller values are better.

    Experiments that lack a constant of the space are left out.

    Args:
        history: aligned with the space (`alignment.aligned`).
    """
    rows, values = [], []
    for experiment in history:
        if experiment.ended_by_fault:
            continue
        try:
            rows.append(point(space, experiment.parameters))
        except (KeyError, TypeError):
            continue
        value = value_of(experiment)
        values.append(value if value is None or direction == "minimize" else -value)
    return rows, values


def targets(values: Sequence[float | None]) -> list[float]:
    """Return the targets of the model: the distance to the best value in units of the median distance.

    Above 1 the distance grows logarithmically, up to FARTHEST, so that an outlier (9 among values of 1.1) does not hide
    the differences between the others. A failure counts as the worst value.
    """
    known = [value for value in values if value is not None]
    best = min(known)
    usual = statistics.median(value - best for value in known) or max(known) - best or 1.0
    scaled = [None if value is None else (value - best) / usual for value in values]
    bent = [None if z is None else min(z if z <= 1 else 1 + math.log(z), FARTHEST) for z in scaled]
    worst = max(1.0, *(z for z in bent if z is not None))
    return [worst if z is None else z for z in bent]


def value_of(experiment: Experiment) -> float | None:
    """Return the metric, estimated for a pruned run; None if there is nothing to learn from.

    The search reads metrics nowhere else.
    """
    metric = estimate(experiment)
    return metric if metric is not None and math.isfinite(metric) else None


def pending_points(space: Space, context: Context) -> list[list[float]]:
    """Return the points of the candidates in flight that no run has finished of."""
    rows = []
    for each in context.flight:
        with contextlib.suppress(KeyError, TypeError):  # it lacks a constant of the current space
            if each.metric is None:
                rows.append(point(space, each.parameters))
    return rows


def measured_in_flight(context: Context) -> list[tuple[Mapping[str, Value], float]]:
    """Return the constants of the candidates in flight with the values of their runs; smaller is better."""
    sign = 1.0 if context.direction == "minimize" else -1.0
    return [(each.parameters, sign * each.metric) for each in context.flight if each.metric is not None]
