"""How much equal programs differ: the standard deviation of one run, pooled over all that was run again."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agent.experiment import Experiment, Run, unbiased

# Before anything was repeated: between the 0.05 % seen on one H100 and the 1 % of short runs on a Mac or a CPU. It
# counts as much as one repetition, so that a few real ones outvote it.
PRIOR = 0.0025
PRIOR_DEGREES = 1.0
SURELY_EQUAL = 2  # repetitions that all gave equal numbers


@dataclass(frozen=True)
class Noise:
    """sd: of one run, in the metric's unit; 0 where equal programs give equal numbers. degrees: of freedom.

    unsure: the repetitions gave equal numbers, and one more tells whether that was chance.
    """

    sd: float
    degrees: float
    unsure: bool = False


def noise_of(experiments: Iterable[Experiment], candidate: Sequence[Run] = ()) -> Noise:
    """From the repeated runs of a session, and of the candidate under way.

    A first run decides whether a candidate is run again, so it is a lucky one: only those after it count.
    """
    groups = [_metrics(candidate)[1:]]
    for experiment in experiments:
        known = unbiased(experiment)
        groups += [_metrics(known), [] if experiment.runs[:1] == known[:1] else _metrics(experiment.runs)[1:]]
    return pooled([group for group in groups if len(group) > 1], _scale(experiments))


def pooled(groups: Sequence[Sequence[float]], scale: float) -> Noise:
    """groups: metrics of equal programs. scale: the size of the metric, for the prior."""
    squares = sum(sum((value - sum(group) / len(group)) ** 2 for value in group) for group in groups)
    degrees = sum(len(group) - 1 for group in groups)
    # Two equal numbers may be chance, where a run is a few steps long.
    if degrees >= SURELY_EQUAL and squares == 0.0:
        return Noise(0.0, math.inf)
    prior = PRIOR * abs(scale)
    total = degrees + PRIOR_DEGREES
    sd = math.sqrt((squares + PRIOR_DEGREES * prior * prior) / total)
    return Noise(sd, total, unsure=degrees > 0 and squares == 0.0)


def _metrics(runs: Iterable[Run]) -> list[float]:
    return [run.metric for run in runs if run.metric is not None]


def _scale(experiments: Iterable[Experiment]) -> float:
    return next((e.metric for e in experiments if e.metric is not None), 0.0)
