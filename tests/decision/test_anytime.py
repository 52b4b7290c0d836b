"""The interval that holds at all times: its formula, its limits, and its coverage under continuous looking."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from agent.decision.anytime import (
    ALPHA,
    AUTOCORRELATION,
    PRIOR_VARIANCE,
    critical,
    interval,
    interval_at_equal_steps,
    share,
    variance_of_mean,
)
from agent.decision.student_t import quantile
from agent.journal.experiment import Run, metrics

pytestmark = pytest.mark.quick


def bayes_factor(a: list[float], b: list[float]) -> float:
    """Integrate the Bayes factor of the two-sample t test over the standardized gain and the noise, numerically.

    The mean of both sides is integrated out under its flat prior, which leaves the same factor on both hypotheses.
    """
    n = len(a) * len(b) / (len(a) + len(b))
    degrees, by = len(a) + len(b) - 2, float(np.mean(b) - np.mean(a))
    squares = float(np.sum((np.array(a) - np.mean(a)) ** 2) + np.sum((np.array(b) - np.mean(b)) ** 2))
    log_sd = np.linspace(-9, 9, 3001)
    sd = np.exp(log_sd)
    effects = np.linspace(-12, 12, 3001) * math.sqrt(PRIOR_VARIANCE)
    prior = np.exp(-(effects**2) / (2 * PRIOR_VARIANCE)) / math.sqrt(2 * math.pi * PRIOR_VARIANCE)
    within = np.exp(-squares / (2 * sd**2)) * sd ** -float(degrees + 1)  # d sd / sd is d log_sd
    null = np.trapezoid(within * np.exp(-n * by**2 / (2 * sd**2)), log_sd)
    inner = [np.trapezoid(prior * np.exp(-n * (by / each - effects) ** 2 / 2), effects) for each in sd]
    return float(np.trapezoid(within * np.array(inner), log_sd) / null)


def log_e(t: float, runs: float, degrees: int) -> float:
    """Return the logarithm of the e-process at a t statistic.

    Args:
        t: the difference from the gain in question, in its standard errors.
        runs: of both sides together, `n1 * n2 / (n1 + n2)`.
        degrees: of freedom of the noise.
    """
    spread = 1 + runs * PRIOR_VARIANCE
    return (degrees + 1) / 2 * (math.log1p(t * t / degrees) - math.log1p(t * t / spread / degrees)) - math.log(
        spread
    ) / 2


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([1.0, 1.3], [0.4, 0.7]),
        ([1.0, 1.3, 0.9], [1.1, 1.2]),
        ([2.0, 2.4, 1.7, 2.2], [0.2, 0.9, 0.4, 0.6, 0.1]),
    ],
)
def test_e_process_is_the_bayes_factor(a: list[float], b: list[float]) -> None:
    n, degrees = len(a) * len(b) / (len(a) + len(b)), len(a) + len(b) - 2
    squares = sum((x - sum(group) / len(group)) ** 2 for group in (a, b) for x in group)
    t = (sum(b) / len(b) - sum(a) / len(a)) / math.sqrt(squares / degrees / n)
    assert log_e(t, n, degrees) == pytest.approx(math.log(bayes_factor(a, b)), abs=2e-3)


@pytest.mark.parametrize(("runs", "degrees", "alpha"), [(1.0, 6, 0.05), (1.5, 4, 0.025), (3.0, 30, 0.004)])
def test_critical_value_is_where_the_e_process_reaches_one_over_alpha(runs: float, degrees: int, alpha: float) -> None:
    assert log_e(critical(runs, degrees, alpha), runs, degrees) == pytest.approx(-math.log(alpha))


def test_interval_is_wider_than_students_and_narrows_with_runs() -> None:
    few = interval([1.0, 1.1, 0.9], [0.7, 0.8, 0.6], "minimize")
    assert few.gain == pytest.approx(0.3)
    assert few.low < 0.3 - 2.776 * 0.1 * math.sqrt(2 / 3)  # Student's t at 95 % and 4 degrees of freedom
    more = interval([1.0, 1.1, 0.9] * 2, [0.7, 0.8, 0.6] * 2, "minimize")
    assert few.low < 0 < more.low < more.gain < more.high
    other = interval([1.0, 1.1, 0.9], [0.7, 0.8, 0.6], "minimize", others=[[3.0, 3.1, 2.9], [7.0, 7.1, 6.9]])
    assert few.low < other.low
    assert interval([1.0, 1.1, 0.9], [0.7, 0.8, 0.6], "maximize").high == pytest.approx(-few.low)


def test_too_few_runs_give_no_bound() -> None:
    for a, b in (([1.0], [0.5]), ([1.0, 1.1], [0.5]), ([1.0, 1.0], [0.5]), ([1.0, 1.1], [0.5, 0.6])):
        found = interval(a, b, "minimize", alpha=share(1))
        assert (found.low, found.high) == (-math.inf, math.inf)
        assert found.gain == pytest.approx(sum(a) / len(a) - sum(b) / len(b))


def test_deterministic_numbers_give_the_gain_itself() -> None:
    found = interval([1.0, 1.0, 1.0], [0.7], "minimize")
    assert found.low == found.gain == found.high == pytest.approx(0.3)
    runs = [Run(1.0, 1.0, {"num_steps": 40.0 + n}) for n in range(3)]
    assert interval_at_equal_steps(runs, [Run(0.7, 1.0, {"num_steps": 41.0})], "minimize") == found


def test_nonsense_is_refused() -> None:
    for a, b, alpha in (([], [1.0], 0.05), ([1.0], [], 0.05), ([1.0], [1.0], 0.0)):
        with pytest.raises(ValueError, match="expected runs of both programs"):
            interval(a, b, "minimize", alpha)


def test_parts_of_all_keeps_add_up_to_alpha() -> None:
    assert sum(share(number) for number in range(1, 10000)) == pytest.approx(ALPHA, rel=1e-3)
    assert share(1) == ALPHA / 2


def test_steps_explain_a_drift() -> None:
    """As measured the difference is the machine's; at equal steps it is the program's."""

    def runs(steps: list[float], offset: float, errors: list[float]) -> list[Run]:
        return [
            Run(offset - 2 * math.log(each) + error, 1.0, {"num_steps": each})
            for each, error in zip(steps, errors, strict=True)
        ]

    a = runs([40, 42, 44, 41], 10.0, [0.002, -0.001, 0.0, 0.001])
    b = runs([50, 49, 47, 48], 9.9, [0.001, 0.0, -0.002, 0.0])
    measured = interval(metrics(a), metrics(b), "minimize")
    adjusted = interval_at_equal_steps(a, b, "minimize")
    assert measured.gain == pytest.approx(0.1 + 2 * math.log(48.5 / 41.7), abs=0.01)
    assert adjusted.gain == pytest.approx(0.1, abs=0.01)
    without = [Run(run.metric, 1.0) for run in a]
    correlated = interval(metrics(a), metrics(b), "minimize", correlation=AUTOCORRELATION)
    assert interval_at_equal_steps(without, b, "minimize") == correlated
    assert correlated.gain == measured.gain
    assert correlated.low < measured.low


@pytest.mark.parametrize(("runs", "correlation"), [(1, 0.5), (2, 0.0), (2, 0.5), (5, 0.45), (40, 0.9)])
def test_variance_of_mean_is_that_of_an_autoregressive_process(runs: int, correlation: float) -> None:
    lags = np.abs(np.subtract.outer(np.arange(runs), np.arange(runs)))
    assert variance_of_mean(runs, correlation) == pytest.approx(float(np.mean(correlation**lags)))


def test_interval_covers_correlated_runs_under_continuous_looking() -> None:
    """The interval for independent runs misses, and the one for correlated runs holds, at the same looks."""
    rng, sessions, wrong, naive = random.Random(5), 200, 0, 0
    rest = math.sqrt(1 - AUTOCORRELATION**2)
    for _ in range(sessions):
        sides: list[list[float]] = [[rng.gauss(0, 1)], [rng.gauss(0, 1)]]
        missed = [False, False]
        for turn in range(40):
            side = sides[turn % 2]
            side.append(AUTOCORRELATION * side[-1] + rest * rng.gauss(0, 1))
            for index, correlation in enumerate((0.0, AUTOCORRELATION)):
                found = interval(sides[0], sides[1], "minimize", 0.1, correlation=correlation)
                missed[index] |= not found.low <= 0.0 <= found.high
        naive, wrong = naive + missed[0], wrong + missed[1]
    assert wrong / sessions <= 0.1 + 2 * math.sqrt(0.1 * 0.9 / sessions)
    assert naive / sessions > 0.2


@pytest.mark.parametrize("extra", [0, 6])
def test_interval_covers_under_continuous_looking(extra: int) -> None:
    """Runs of either side arrive one by one, and the interval is read each time, in units that say nothing."""
    rng, sessions, wrong, usual = random.Random(3), 400, 0, 0
    for _ in range(sessions):
        sd, shift, by = math.exp(rng.gauss(0, 2)), rng.gauss(0, 10), rng.gauss(0, 3)
        a, b = [rng.gauss(shift, sd)], [rng.gauss(shift - by, sd)]
        others = [[rng.gauss(0, sd) for _ in range(extra)]]
        missed = naive = False
        for _ in range(40):
            side = rng.random() < 0.5
            (a if side else b).append(rng.gauss(shift if side else shift - by, sd))
            found = interval(a, b, "minimize", 0.1, others)
            missed |= not found.low <= by <= found.high
            t = interval_of_student(a, b, others)
            naive |= abs(found.gain - by) > t
        wrong, usual = wrong + missed, usual + naive
    assert wrong / sessions <= 0.1 + 2 * math.sqrt(0.1 * 0.9 / sessions)
    assert wrong > 0  # it is no trivial bound
    assert usual / sessions > 0.2  # what looking costs an interval for one look at 90 %


def interval_of_student(a: list[float], b: list[float], others: list[list[float]]) -> float:
    groups = [group for group in (a, b, *others) if group]
    degrees = sum(len(group) - 1 for group in groups)
    squares = sum((x - sum(group) / len(group)) ** 2 for group in groups for x in group)
    return quantile(0.95, degrees) * math.sqrt(squares / degrees * (1 / len(a) + 1 / len(b)))


@pytest.mark.parametrize("unit", [2.0**-970, 2.0**-530, 2.0**330, 2.0**970])
def test_interval_scales_with_the_unit_of_the_metric(unit: float) -> None:
    rng = random.Random(3)
    steps = [rng.uniform(80, 120) for _ in range(16)]
    values = [(5.0 if index < 8 else 1.0) - 0.3 * math.log(n) + rng.gauss(0, 0.1) for index, n in enumerate(steps)]
    plain, scaled = (
        [Run(value * each, 10.0, {"num_steps": n}) for value, n in zip(values, steps, strict=True)]
        for each in (1.0, unit)
    )
    for how in (interval_at_equal_steps, lambda a, b, to: interval(metrics(a), metrics(b), to)):
        usual, found = how(plain[:8], plain[8:], "minimize"), how(scaled[:8], scaled[8:], "minimize")
        ends = (usual.gain, usual.low, usual.high)
        assert (found.gain / unit, found.low / unit, found.high / unit) == pytest.approx(ends)
        assert all(map(math.isfinite, ends))
