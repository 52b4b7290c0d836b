"""Estimate the noise: the standard deviation of one run, pooled over all repeated programs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agent.decision.estimate import groups_of
from agent.execution.conditions import undisturbed
from agent.journal.experiment import Experiment, Run, by_station, metrics, succeeded

# The prior for the noise before anything is repeated, as a fraction of the metric: between the 0.03 % seen on one H200
# and the 1 % of short runs on a CPU. It counts as a tenth of one repetition, so that the first real one outweighs it:
# noise differs so much between machines that a guess may be ten times too large, which would cost most of the power.
PRIOR = 0.001
PRIOR_DEGREES = 0.1
LEAST_VARIANCE = 1e-290
SURELY_EQUAL = 2  # repetitions with equal numbers that prove determinism


@dataclass(frozen=True)
class Noise:
    """The noise of one run.

    Attributes:
        sd: standard deviation of one run, in the metric's unit.
        degrees: degrees of freedom; infinite if equal programs give equal numbers.
        unsure: the repetitions gave equal numbers so far; another one is needed to rule out chance.
    """

    sd: float
    degrees: float
    unsure: bool = False

    @property
    def exact(self) -> bool:
        return math.isinf(self.degrees)

    @property
    def variance(self) -> float:
        """The square of `sd`, 0 if it is too small to be divided by: metrics may be as small as 1e-300."""
        found = self.sd * self.sd
        return found if found > LEAST_VARIANCE else 0.0

    @property
    def known(self) -> float | None:
        """The standard deviation, 0 if runs are deterministic; None as long as nothing but the prior tells."""
        return None if self.unsure or self.degrees <= PRIOR_DEGREES else self.sd


def noise_of(experiments: Iterable[Experiment], candidate: Sequence[Run] = ()) -> Noise:
    """Estimate the noise from the repeated runs of a session and, unless that is deterministic, of the candidate."""
    known = list(experiments)
    found = pooled([metrics(group) for group in repeated(known)], _scale(known))
    if found.exact or not candidate:
        return found
    return pooled([metrics(group) for group in repeated(known, candidate)], _scale(known))


def repeated(experiments: Iterable[Experiment], candidate: Sequence[Run] = ()) -> list[Sequence[Run]]:
    """Return groups of two or more undisturbed runs of equal programs on one station."""
    groups: list[Sequence[Run]] = [undisturbed(succeeded(candidate)[1:])]
    groups += [group for each in experiments for group in groups_of(each, undisturbed)]
    return [cell for group in groups for cell in by_station(group).values() if len(cell) > 1]


def pooled(groups: Sequence[Sequence[float]], scale: float) -> Noise:
    """Pool the variance within groups.

    Args:
        groups: metrics of equal programs, one group per program.
        scale: typical size of the metric, for the prior.
    """
    apart = [[value - sum(group) / len(group) for value in group] for group in groups]
    degrees = sum(len(group) - 1 for group in groups)
    # Compare the numbers themselves: the mean of equal numbers may differ from them in the last digit.
    equal = all(min(group) == max(group) for group in groups)
    # Two equal numbers may be a coincidence if a run is only a few steps long.
    if degrees >= SURELY_EQUAL and equal:
        return Noise(0.0, math.inf)
    prior = PRIOR * abs(scale)
    total = degrees + PRIOR_DEGREES
    # Squares of large or small metrics are infinite or 0. A power of 2 as unit changes no digit of the others.
    unit = math.ldexp(1.0, math.frexp(max(prior, *(abs(each) for group in apart for each in group), 0.0))[1] - 1)
    squares = sum(sum((each / unit) ** 2 for each in group) for group in apart)
    sd = math.sqrt((squares + PRIOR_DEGREES * (prior / unit) * (prior / unit)) / total) * unit
    return Noise(sd, total, unsure=equal and (degrees > 0 or prior == 0.0))


def _scale(experiments: Iterable[Experiment]) -> float:
    return next((e.metric for e in experiments if e.metric), 0.0)
