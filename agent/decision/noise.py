"""How much equal programs differ: the standard deviation of one run, pooled over all that was run again."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agent.decision.estimate import unbiased
from agent.execution.conditions import undisturbed
from agent.journal.experiment import Experiment, Run, metrics, succeeded

# Before anything was repeated, as a share of the metric: between the 0.03 % seen on one H200 and the 1 % of short runs
# on a CPU. It counts as a tenth of one repetition, so that the first real one outvotes it: noise differs more between
# machines than any guess is good for, and a guess ten times too large would cost most of the power.
PRIOR = 0.001
PRIOR_DEGREES = 0.1
SURELY_EQUAL = 2  # repetitions that all gave equal numbers


@dataclass(frozen=True)
class Noise:
    """sd: of one run, in the metric's unit. degrees: of freedom, infinite where equal programs give equal numbers.

    unsure: the repetitions gave equal numbers so far, and one more tells whether that was chance.
    """

    sd: float
    degrees: float
    unsure: bool = False

    @property
    def exact(self) -> bool:
        return math.isinf(self.degrees)


def noise_of(experiments: Iterable[Experiment], candidate: Sequence[Run] = ()) -> Noise:
    """From the repeated runs of a session, and of the candidate under way."""
    return pooled([metrics(group) for group in repeated(experiments, candidate)], _scale(experiments))


def repeated(experiments: Iterable[Experiment], candidate: Sequence[Run] = ()) -> list[Sequence[Run]]:
    """Undisturbed runs of equal programs, two or more in a group, that tell how much they differ.

    A first run decides whether a candidate is run again, so it is a lucky one: only those after it count.
    """
    groups: list[Sequence[Run]] = [undisturbed(succeeded(candidate)[1:])]
    for experiment in experiments:
        known, own = unbiased(experiment), succeeded(experiment.runs)
        groups += [known, [] if any(run in known for run in own) else undisturbed(own[1:])]
    return [group for group in groups if len(group) > 1]


def pooled(groups: Sequence[Sequence[float]], scale: float) -> Noise:
    """groups: metrics of equal programs. scale: the size of the metric, for the prior."""
    squares = sum(sum((value - sum(group) / len(group)) ** 2 for value in group) for group in groups)
    degrees = sum(len(group) - 1 for group in groups)
    # By the numbers themselves: a mean of equal ones may be another in its last digit.
    equal = all(min(group) == max(group) for group in groups)
    # Two equal numbers may be chance, where a run is a few steps long.
    if degrees >= SURELY_EQUAL and equal:
        return Noise(0.0, math.inf)
    prior = PRIOR * abs(scale)
    total = degrees + PRIOR_DEGREES
    sd = math.sqrt((squares + PRIOR_DEGREES * prior * prior) / total)
    return Noise(sd, total, unsure=equal and (degrees > 0 or prior == 0.0))


def _scale(experiments: Iterable[Experiment]) -> float:
    return next((e.metric for e in experiments if e.metric), 0.0)
