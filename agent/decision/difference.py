"""The difference between two commits by their held-out runs, and what their spread is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from agent.decision import anytime
from agent.decision.noise import Noise, of_candidate, sd_within
from agent.decision.student_t import f_tail, quantile
from agent.journal.experiment import Direction, beyond_rounding, mean
from agent.journal.state import gain

LEVEL = 0.95
# Levels of F tests: the spread of one program is certainly larger than that of another; and is possibly no larger.
CERTAINLY, POSSIBLY = 0.001, 0.05
# Of a coarse metric: examples that a share is of, decimals of a number, steps between its values; and how far from a
# whole number of examples a rounded share may be.
MOST_PARTS, MOST_DECIMALS, MOST_STEPS, LARGEST_TOLERANCE = 400, 3, 1000, 0.05
# The noise of nothing that was repeated: it adds no degrees of freedom.
NO_NOISE = Noise(math.nan, 0.0)


@dataclass(frozen=True)
class Difference:
    """The improvement of `b` over `a`.

    Attributes:
        gain: positive is better in either direction.
        low: lower bound of the confidence interval at LEVEL; `high` is the upper bound.
        noise: standard deviation of one value, over both sides even if one has its own.
    """

    gain: float
    low: float
    high: float
    noise: float

    @property
    def verdict(self) -> str:
        return "confirmed" if self.low > 0 else "refuted" if self.high < 0 else "not confirmed"


def difference(
    a: Sequence[float],
    b: Sequence[float],
    direction: Direction,
    session: Noise = NO_NOISE,
    looks: int = 0,
    scale: float = 0.0,
) -> Difference:
    """Return the difference of the means with Student's t interval. The variance is pooled over both sides.

    If the session's noise is known, a side whose values clearly differ by more has its own (Welch 1947, Biometrika 34).
    Values of both sides that share a seed usually move together, which makes the interval too wide rather than too
    narrow: it treats them as independent.

    Args:
        a: values of one side, at least one; so is `b`.
        session: the noise estimate of the session, if it is of the same kind as these values; it is pooled too.
        looks: how often these sides have been compared before, with fewer values. Whoever looks again and again finds
            a t interval without zero at some time; above 0 the interval holds however often it is read.
        scale: where the values are differences, the size of the numbers whose rounding they have.
    """
    scale = max(scale, *map(abs, (*a, *b)))
    means = [mean(each) for each in (a, b)]
    by = gain(means[0], means[1], direction)
    apart = [value - middle for each, middle in zip((a, b), means, strict=True) for value in each]
    if session.sd == 0 and all(min(each) == max(each) for each in (a, b)):
        return _rounded(Difference(by, by, by, 0.0), scale)
    known = 0.0 if math.isinf(session.degrees) else session.degrees
    degrees = len(a) + len(b) - 2 + known
    noise = math.hypot(*apart, math.sqrt(known) * session.sd if known else 0.0) / math.sqrt(max(degrees, 1.0))
    always = anytime.interval(a, b, direction) if looks else None
    if always is not None and math.isfinite(always.low):
        return _rounded(Difference(by, always.low, always.high, noise), scale)
    error, degrees = _error(a, b, session) or (noise * math.sqrt(1 / len(a) + 1 / len(b)), degrees)
    width = quantile(0.5 + LEVEL / 2, max(degrees, 1.0)) * error
    return _rounded(Difference(by, by - width, by + width, noise), scale)


def _error(a: Sequence[float], b: Sequence[float], session: Noise) -> tuple[float, float] | None:
    """Return the standard error and its degrees of freedom if a side has a noise of its own."""
    sides = [_noise_of_side(session, values) for values in (a, b)]
    if all(each is session for each in sides):
        return None
    one, other = (noise.sd / math.sqrt(len(values)) for noise, values in zip(sides, (a, b), strict=True))
    error = math.hypot(one, other)
    shares = [(each / error) ** 2 for each in (one, other)]
    return error, 1 / math.fsum(share**2 / noise.degrees for share, noise in zip(shares, sides, strict=True))


def _noise_of_side(session: Noise, values: Sequence[float]) -> Noise:
    """Return the noise of a side: the session's, or its own, of which two values tell no more than the session does.

    By themselves they would have one degree of freedom and an interval 13 standard errors wide either way, which hides
    one of twelve gains of ten times the noise.
    """
    own = of_candidate(session, values)
    if own is session or own.degrees > 1:
        return own
    return replace(own, sd=math.hypot(own.sd, session.sd) / math.sqrt(2), degrees=2.0)


def paired(gains: Sequence[float], session: Noise = NO_NOISE, looks: int = 0, scale: float = 0.0) -> Difference:
    """Return the mean gain of pairs of runs with Student's t interval: each pair ran on one station with one seed.

    Levels of stations and of seeds cancel within a pair, and how stations differ in the gain is part of the spread.

    Args:
        gains: of each pair, at least two.
        session: the noise estimate of the session.
        looks: as in `difference`. Each further look gets half of the error that was left, so that all of them together
            hold (a union bound).
        scale: the size of the numbers whose rounding the gains have.
    """
    by, degrees = mean(gains), len(gains) - 1
    sd = math.hypot(*(gain - by for gain in gains)) / math.sqrt(degrees)
    if beyond_rounding(sd, scale) == 0.0:
        if not session.sd > 0:  # equal programs give equal numbers, or nothing was repeated
            return _rounded(Difference(by, by, by, 0.0), scale)
        sd = math.sqrt(2) * session.sd
    error = (1 - LEVEL) / 2 ** (looks + 1 if looks else 0)
    width = -quantile(error / 2, degrees) * sd / math.sqrt(len(gains))  # 1 - error / 2 would round to 1
    return _rounded(Difference(by, by - width, by + width, sd / math.sqrt(2)), scale)


def _rounded(found: Difference, scale: float) -> Difference:
    by, low, high = (beyond_rounding(each, scale) for each in (found.gain, found.low, found.high))
    return Difference(by, low, high, found.noise)


def by_seed(values: Sequence[tuple[int | None, float]]) -> list[float]:
    """Return the mean of the values with each seed, or without a seed each value: one seed is one observation."""
    groups: dict[object, list[float]] = {}
    for index, (seed, value) in enumerate(values):
        groups.setdefault(("run", index) if seed is None else seed, []).append(value)
    return [mean(each) for each in groups.values()]


def equal_for_seeds(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> bool:
    """Return whether the values of `b` are equal within each group, and those of `a` are not.

    Args:
        a: values of one program for several seeds, in groups of a station; so is `b`.
    """
    return bool(b) and all(len({*each}) == 1 for each in b) and any(len({*each}) > 1 for each in a)


def is_coarse(values: Sequence[float]) -> bool:
    """Return whether values have so few steps that equal ones may be chance, or the end of a scale.

    Such are counts, shares of up to MOST_PARTS examples, rounded as they may be, and numbers of up to three decimals.
    """
    decimals = max(_decimals(value) for value in values)
    tolerance = 0.5 * 10.0**-decimals if decimals > MOST_DECIMALS else 0.0
    # Closer than this to a whole number by chance, a value of that many decimals would be with many of the parts.
    rounded = [parts for parts in range(1, MOST_PARTS + 1) if tolerance * parts <= LARGEST_TOLERANCE]
    return any(
        _are_multiples(values, parts, tolerance * parts + 1e-9)
        for parts in (*rounded, *(10**each for each in range(MOST_DECIMALS + 1)))
    )


def _are_multiples(values: Sequence[float], parts: int, tolerance: float) -> bool:
    """Return whether values are multiples of 1 / parts, different ones of different ones, and few of them apart."""
    if not (max(values) - min(values)) * parts <= MOST_STEPS:
        return False
    whole = {value: round(value * parts) for value in values}
    return len({*whole.values()}) == len(whole) and all(abs(v * parts - n) <= tolerance for v, n in whole.items())


def _decimals(value: float) -> int:
    exponent = Decimal(repr(value)).as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def ignores_seed(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]], machine: Noise) -> bool:
    """Return whether new seeds vary `a` but vary `b` no more than the machine does, by two F tests.

    Args:
        a: values of one program, one for each seed, in groups of a station; so is `b`.
        machine: the noise of runs with the same seed.
    """
    (more, a_degrees), (less, b_degrees) = sd_within(a), sd_within(b)
    if not machine.known or not more or not a_degrees or not b_degrees:
        return False
    # Squares of large numbers are a product here, because `**` raises OverflowError.
    apart, beyond = more / less if less else math.inf, less / machine.sd
    larger = f_tail(apart * apart, a_degrees, b_degrees) <= CERTAINLY
    return larger and f_tail(beyond * beyond, b_degrees, machine.degrees) > POSSIBLY


@dataclass(frozen=True)
class Spread:
    """What makes runs of one program differ. Values are standard deviations of one run.

    Attributes:
        run: over seeds and runs together.
        machine: between runs with the same seed; None if none was repeated.
        seed: the rest; None if the machine's part is unknown.
    """

    run: float
    machine: float | None
    seed: float | None


def spread(run: float, session: Noise, prior: float) -> Spread:
    """Split the spread of one run into the machine's part and the seed's.

    Args:
        run: standard deviation of one run over seeds.
        session: the noise of runs with the same seed.
        prior: degrees of freedom of a noise that nothing was repeated for.
    """
    if session.degrees <= prior:
        return Spread(run, None, None)
    return Spread(run, session.sd, math.sqrt(max(0.0, run - session.sd)) * math.sqrt(run + session.sd))
