"""Bound the gain of one program over another at all times simultaneously, however often the runs are looked at.

The bound comes from an e-process: the Bayes factor of the two-sample t test with the right-Haar prior on the means and
the noise and a normal prior on the gain in units of the noise (Gönen, Johnson, Lu, Westfall 2005, "The Bayesian
two-sample t test", The American Statistician 59). At the true gain it starts at 1 and is expected to stay there
whatever means and noise are, so by Ville's inequality it ever reaches 1 / alpha with a probability of at most alpha
(Pérez-Ortiz, Lardy, de Heide, Grünwald 2024, "E-statistics, group invariance and anytime-valid testing", Annals of
Statistics 52; Lindon, Ham, Tingley, Bojinov 2022, arXiv 2210.08589, for a linear model, which covers groups that only
add to the noise, and covariates). The gains at which it has not reached that are the interval.

Assumed are normal noise, equal for all programs, and independent runs, or runs of a given autocorrelation. Which side
runs next may depend on the runs so far only through what shift and scale leave unchanged; a verdict also looks at a
prior for the noise. `benchmarks/statement.py` measures what that and other noise cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from agent.decision.equal_steps import SLOPE_NOISE, STEPS, squares
from agent.decision.noise import SURELY_EQUAL
from agent.journal.experiment import Direction, Run, mean, metrics
from agent.journal.state import gain

# Variance of the prior on the gain, in units of the variance of one run: gains of about five times the noise. With 2 to
# 6 runs a side it is within a tenth of the best choice for each, except for 2 against 2 without other groups, where all
# are wide. A smaller one (1) gives 3 against 3 no bound at all, a larger one (400) costs 6 against 6 a fifth.
PRIOR_VARIANCE = 25.0
ALPHA = 0.05
# Assumed correlation of one run and the next of the same program, where the steps do not show what the machine did. On
# a machine that drifts, neighboring runs agree too well. A session has too few runs to estimate this before it matters,
# so it is assumed everywhere. 0.4 barely reaches the target of `benchmarks/statement.py`, 0.5 costs more than it needs.
AUTOCORRELATION = 0.45


@dataclass(frozen=True)
class Interval:
    """The gain of one program over another and the interval that contains it; infinite if the runs are too few."""

    gain: float
    low: float
    high: float


def interval(
    a: Sequence[float],
    b: Sequence[float],
    direction: Direction,
    alpha: float = ALPHA,
    others: Sequence[Sequence[float]] = (),
    correlation: float = 0.0,
) -> Interval:
    """Return the gain of `b` over `a` with the interval that contains the true one at all times at once.

    Args:
        a: metrics of one program, at least one, in the order of its runs. So is `b`.
        alpha: the probability that the interval is ever wrong, at most.
        others: metrics of other programs, one group per program, which only add to the knowledge of the noise.
        correlation: of neighboring runs of one program, from 0 to less than 1; runs further apart are less correlated.

    Raises:
        ValueError: `a` or `b` is empty, or `alpha` is not between 0 and 1.
    """
    if not a or not b or not 0 < alpha < 1:
        raise ValueError(f"expected runs of both programs and an alpha between 0 and 1, got {a}, {b}, {alpha}")
    by = gain(mean(a), mean(b), direction)
    groups = [group for group in (a, b, *others) if group]
    degrees = sum(len(group) - 1 for group in groups)
    # Compare the numbers themselves, as `noise.pooled` does.
    if all(min(group) == max(group) for group in groups):
        width = 0.0 if degrees >= SURELY_EQUAL else math.inf
        return Interval(by, by - width, by + width)
    residual = math.hypot(*_apart(groups))
    expected = sum(len(group) * (1 - variance_of_mean(len(group), correlation)) for group in groups)
    doubt = variance_of_mean(len(a), correlation) + variance_of_mean(len(b), correlation)
    return _around(by, residual / math.sqrt(expected), degrees, doubt, alpha)


def interval_at_equal_steps(
    a: Sequence[Run], b: Sequence[Run], direction: Direction, alpha: float = ALPHA, others: Sequence[Sequence[Run]] = ()
) -> Interval:
    """Return the interval as `interval` does, but covariate-adjusted for the number of steps.

    On a machine whose speed drifts, runs that follow each other are alike, and as measured they are not independent.
    The slope over the logarithm of the steps is one more unknown of the linear model; by SLOPE_NOISE it differs between
    programs. Only for programs whose steps take equally long: otherwise the difference in steps is part of the gain.

    Returns:
        The interval as measured, of correlated runs, if a run does not report its steps or if equal programs make equal
        numbers of steps.
    """
    groups = [group for group in (a, b, *others) if group]
    counted = all(run.secondary.get(STEPS, 0.0) > 0 for group in groups for run in group)
    values = [metrics(group) for group in groups]
    unit = max(map(abs, _apart(values))) or 1.0
    parts = zip(*(squares(group, unit) for group in groups), strict=True) if counted else ((0.0,), (0.0,), (0.0,))
    xx, xy, yy = map(sum, parts)
    if not xx or all(min(each) == max(each) for each in values):
        return interval(metrics(a), metrics(b), direction, alpha, values[2:], AUTOCORRELATION)
    slope, degrees = xy / xx, sum(len(each) - 1 for each in values) - 1
    variance = max(0.0, yy - slope * xy) / degrees if degrees > 0 else 0.0
    distance = _mean_log_steps(b) - _mean_log_steps(a)
    by = gain(mean(values[0]) + slope * unit * distance, mean(values[1]), direction)
    if not variance:
        return Interval(by, -math.inf, math.inf)
    doubt = distance**2 * (1 / xx + (SLOPE_NOISE * slope) ** 2 / variance)
    return _around(by, math.sqrt(variance) * unit, degrees, 1 / len(a) + 1 / len(b) + doubt, alpha)


def _apart(groups: Sequence[Sequence[float]]) -> list[float]:
    """Return how far each value is from the mean of its group."""
    return [value - middle for group in groups for middle in [mean(group)] for value in group]


def variance_of_mean(runs: int, correlation: float) -> float:
    """Return the variance of the mean of consecutive runs, in units of that of one run, if they are autoregressive.

    The variance within them is short of that of one run by as much, on average. For many runs it is that of
    `runs * (1 - correlation) / (1 + correlation)` independent ones (Bayley, Hammersley 1946, "The 'effective' number of
    independent observations in an autocorrelated time series", Supplement to the Journal of the Royal Statistical
    Society 8).
    """
    rest = 1 - correlation
    return (1 + correlation) / rest / runs - 2 * correlation * (1 - correlation**runs) / (runs * rest) ** 2


def _around(by: float, sd: float, degrees: int, doubt: float, alpha: float) -> Interval:
    """Return the interval around a gain.

    Args:
        sd: standard deviation of one run.
        doubt: the variance of the gain, in units of that of one run.
    """
    width = critical(1 / doubt, degrees, alpha) * sd * math.sqrt(doubt)
    return Interval(by, by - width, by + width)


def critical(runs: float, degrees: int, alpha: float) -> float:
    """Return the t statistic at which the e-process reaches `1 / alpha`; infinite if it never does."""
    spread = 1 + runs * PRIOR_VARIANCE
    log_ratio = 2 / (degrees + 1) * (math.log(spread) / 2 - math.log(alpha))
    if log_ratio >= math.log(spread):
        return math.inf
    ratio = math.exp(log_ratio)
    return math.sqrt(degrees * (ratio - 1) / (1 - ratio / spread))


def share(number: int) -> float:
    """Return the part of ALPHA for the interval of the `number`-th keep, from 1. All parts add up to ALPHA.

    Every keep that a session will ever make has an interval of its own, so that a reader may choose among them.
    """
    return ALPHA / (number * (number + 1))


def _mean_log_steps(runs: Sequence[Run]) -> float:
    return mean([math.log(run.secondary[STEPS]) for run in runs])
