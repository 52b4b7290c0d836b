"""Estimate the noise: the standard deviation of one run, pooled over all repeated programs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from agent.decision.estimate import groups_of
from agent.decision.student_t import f_tail
from agent.execution.conditions import undisturbed
from agent.journal.experiment import Experiment, Run, by_station, mean, metrics, succeeded

# The prior for the noise before anything is repeated, as a fraction of the metric: between the 0.03 % seen on one H200
# and the 1 % of short runs on a CPU. It counts as a tenth of one repetition, so that the first real one outweighs it:
# noise differs so much between machines that a guess may be ten times too large, which would cost most of the power.
PRIOR = 0.001
PRIOR_DEGREES = 0.1
LEAST_VARIANCE = 1e-290
SURELY_EQUAL = 2  # repetitions with equal numbers that prove determinism
# Levels of the F test for a larger noise: of a candidate that is judged by its own, and of a discarded one that is left
# out of the session's.
OWN_NOISE, CERTAINLY_OWN = 0.1, 0.001


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


def repeated(experiments: Sequence[Experiment], candidate: Sequence[Run] = ()) -> list[Sequence[Run]]:
    """Return groups of two or more undisturbed runs of equal programs on one station.

    Left out is a discarded candidate whose runs certainly differ by more than those of the kept ones.
    """
    kept, discarded = list[Sequence[Run]](), list[list[Sequence[Run]]]()
    for each in experiments:
        found = cells(groups_of(each, undisturbed))
        if each.kept:
            kept += found
        else:
            discarded.append(found)
    noise = pooled([metrics(group) for group in kept], _scale(experiments))
    stable = (found for found in discarded if not is_less_stable(noise, [metrics(group) for group in found]))
    return [*cells([undisturbed(succeeded(candidate)[1:])]), *kept, *(group for found in stable for group in found)]


def cells(groups: Iterable[Sequence[Run]]) -> list[Sequence[Run]]:
    """Return the runs of each group by station, if there are two or more."""
    return [cell for group in groups for cell in by_station(group).values() if len(cell) > 1]


def of_candidate(noise: Noise, values: Sequence[float]) -> Noise:
    """Return the noise of a comparison: the session's, or the candidate's own if its runs clearly differ by more.

    A candidate may be less stable than all others, so that its best runs are luck of a size that the session never saw.
    The session's noise contains the candidate's runs after the first, so few are told apart while little else is known.

    Args:
        values: metrics of the candidate's runs, at equal steps if the noise is.
    """
    if not is_less_stable(noise, [values], OWN_NOISE):
        return noise
    sd, degrees = sd_within([values])
    return replace(noise, sd=sd, degrees=float(degrees))


def is_less_stable(noise: Noise, groups: Sequence[Sequence[float]], level: float = CERTAINLY_OWN) -> bool:
    """Return whether the values within groups differ by more than the noise, by an F test.

    Args:
        level: the probability of a spread as large by chance.
    """
    sd, degrees = sd_within(groups)
    if degrees < 1 or not noise.sd > 0:
        return False
    ratio = sd / noise.sd  # infinite for numbers that are large enough, which is certainly more
    return f_tail(ratio * ratio, degrees, noise.degrees) <= level


def groups_for_noise(groups: Sequence[Sequence[Run]], base: Sequence[Run], runs: Sequence[Run]) -> list[Sequence[Run]]:
    """Return the groups of repeated runs that tell the noise of a comparison: none if its runs clearly differ by more.

    Programs without noise tell nothing about that of a random one.
    """
    noise = pooled([metrics(group) for group in groups], scale=0.0)
    own = [metrics(side) for side in (base, runs) if side]
    random = noise.exact and any(min(values) < max(values) for values in own)
    less_stable = any(is_less_stable(noise, sides, OWN_NOISE) for sides in (own, own[-1:]))
    return [] if random or less_stable else list(groups)


def sd_within(groups: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Return the standard deviation within groups, and its degrees of freedom; 0 of none."""
    degrees = sum(len(group) - 1 for group in groups if group)
    apart = [value - middle for group in groups if group for middle in [mean(group)] for value in group]
    return math.hypot(*apart) / math.sqrt(max(degrees, 1)), degrees


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
