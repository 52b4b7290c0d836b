"""Compare a candidate with the incumbent over stations: by differences within them, or by the sums of a model.

The difference within each station is free of its level. The differences are pooled with the weights of their
precision, as in a meta-analysis; what stations disagree by adds to their variance. The model of `levels` also compares
runs on different stations, but what it says is a prediction: it may discard a candidate, and never keeps one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from agent.decision.equal_steps import Slope
from agent.decision.levels import Records, interaction
from agent.decision.noise import Noise
from agent.decision.sequential_test import EFFECT, MOST_EFFECT
from agent.journal.experiment import Direction, Evidence, Run, beyond_rounding, mean, metrics
from agent.journal.state import gain

Sides = Mapping[str, Sequence[Run]]  # station -> runs of one side
Key = TypeVar("Key")
# In standard errors. Stations disagree clearly if the candidate is better on one by more than noise explains, not
# better on another, and their difference is this large.
BETTER, APART = 2.0, 3.0


@dataclass(frozen=True)
class Pooled:
    """A gain over several stations.

    Attributes:
        variance: of the gain.
        noise: of one run, on average over the stations.
        runs: of the candidate; `incumbent_runs` those of the incumbent.
        gains: station -> gain there; empty for a prediction.
        errors: station -> standard error of that gain, by the noise alone.
        effect: the gain to detect, in units of the noise.
        adjusted: whether the gain is at equal steps.
        noise_ratio: the noise in units of the session's, above 1 if it is the candidate's own.
    """

    gain: float
    variance: float
    noise: Noise
    runs: int
    incumbent_runs: int
    gains: Mapping[str, float] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)
    effect: float = EFFECT
    adjusted: bool = False
    noise_ratio: float = 1.0

    def with_own_noise(self, ratio: float, degrees: float) -> Pooled:
        """Return the same gain of a candidate whose noise is so many times the session's.

        The whole variance grows as much, that of the base and of the stations' disagreement too: it errs on the side of
        a discard.
        """
        noise = replace(self.noise, sd=self.noise.sd * ratio, degrees=degrees)
        return replace(self, noise=noise, variance=self.variance * ratio * ratio, noise_ratio=ratio)

    def for_loss(self) -> Pooled:
        """Return the same gain with the loss to rule out as its effect: an unstable candidate may not lose more."""
        return replace(self, effect=self.effect / self.noise_ratio)

    def evidence(self, incumbent: float, direction: Direction) -> Evidence:
        """Return the evidence, given the incumbent's value on the scale of the reference station."""
        mean = incumbent - self.gain if direction == "minimize" else incumbent + self.gain
        error, sd = math.sqrt(self.variance), self.noise.sd
        plain = 1 / self.runs + 1 / self.incumbent_runs
        ratio = error / sd if sd else 0.0
        more = ratio * ratio - plain if sd else 0.0  # a power would raise where a product is infinite
        doubt = max(0.0, more) if self.adjusted or more > 1e-9 * plain else None
        sigmas = self.gain / error if error and sd else None
        how = "confirmed" if self.runs > 1 or self.noise.exact else "one run"
        return Evidence(
            how,
            mean,
            self.runs,
            incumbent,
            self.incumbent_runs,
            self.gain,
            sd,
            sigmas,
            doubt,
            dict(self.gains),
            self.adjusted,
            self.noise_ratio > 1,
            None if self.noise.exact else self.noise.degrees,
        )


def within(
    candidate: Sides, incumbent: Sides, records: Records, direction: Direction, slope: Slope | None = None
) -> Pooled | None:
    """Return the gain pooled from the differences within stations; None if no station ran both.

    Args:
        slope: the slope of the metric over steps, if only the machine can change the candidate's number of steps.
    """
    names = [name for name in candidate if candidate[name] and incumbent.get(name)]
    if not names:
        return None
    gains, counts = {}, {}
    for name in names:
        own, other = candidate[name], incumbent[name]
        values = slope.adjusted(other, own) if slope else metrics(other)
        gains[name] = gain(mean(values), mean(metrics(own)), direction)
        counts[name] = 1 / len(own) + 1 / len(other)
    shrink = slope.noise.sd / slope.raw.sd if slope else 1.0
    noises = {name: records.noise_on(name) for name in names}
    own_variance = {name: counts[name] * shrink**2 * noises[name].variance for name in names}
    between = 2 * interaction(records.levels, *_excess(gains, own_variance)) if len(records.present) > 1 else 0.0
    shares = _shares({name: own_variance[name] + between for name in names})
    by = math.fsum(shares[name] * gains[name] for name in names)
    parts = {name: shares[name] ** 2 * own_variance[name] for name in names}
    noise = _noise(parts, {name: shares[name] ** 2 * counts[name] for name in names}, noises, records, slope)
    variance = sum(parts.values()) + between * sum(share**2 for share in shares.values())
    if slope:
        log_steps = math.fsum(shares[name] * slope.distance(incumbent[name], candidate[name]) for name in names)
        variance += slope.variance_at(log_steps) * noise.variance
    return Pooled(
        by,
        variance,
        noise,
        sum(len(candidate[name]) for name in names),
        sum(len(incumbent[name]) for name in names),
        gains,
        {name: math.sqrt(own_variance[name]) for name in names},
        min(EFFECT / shrink, MOST_EFFECT) if slope else EFFECT,
        slope is not None,
    )


def predicted(candidate: Sides, incumbent: Sides, records: Records, direction: Direction) -> Pooled | None:
    """Return the gain by the model of levels, whatever stations both ran on; None if it does not know them."""
    known, between = records.levels, interaction(records.levels)
    sides = [
        {name: runs for name, runs in side.items() if runs and name in known.values} for side in (candidate, incumbent)
    ]
    if not all(sides):
        return None
    values, variance, contrast = [], 0.0, dict.fromkeys(known.values, 0.0)
    parts, units = {}, {}
    for sign, side in zip((1, -1), sides, strict=True):
        noises = {name: records.noise_on(name).variance / len(runs) for name, runs in side.items()}
        shares = _shares({name: noise + between for name, noise in noises.items()})
        values.append(math.fsum(shares[n] * (mean(metrics(runs)) - known.values[n]) for n, runs in side.items()))
        for name, share in shares.items():
            contrast[name] += sign * share
            parts[name, sign] = share**2 * noises[name]
            units[name, sign] = share**2 / len(side[name])
            variance += share**2 * (noises[name] + between)
    variance += known.variance(contrast)
    by_name = {key: records.noise_on(key[0]) for key in parts}
    noise = _noise(parts, units, by_name, records, None)
    runs, incumbent_runs = (sum(map(len, side.values())) for side in sides)
    by = beyond_rounding(gain(values[1], values[0], direction), *values)
    return Pooled(by, variance, noise, runs, incumbent_runs)


def value_on_reference(runs: Sides, records: Records) -> float | None:
    """Return the mean of a program's runs on the scale of the reference station; None if no level is known."""
    levels = records.levels.values
    known = {name: own for name, own in runs.items() if own and name in levels}
    if not known:
        return None
    shares = _shares({name: records.noise_on(name).variance / len(own) for name, own in known.items()})
    return math.fsum(shares[name] * (mean(metrics(own)) - levels[name]) for name, own in known.items())


def disagreement(found: Pooled) -> str | None:
    """Return how stations clearly disagree: `better on studio (+0.012), not on mini (-0.004)`; None otherwise."""
    best, worst = (pick(found.gains, key=found.gains.__getitem__) for pick in (max, min))
    high, low = found.gains[best], found.gains[worst]
    if low > 0 or high <= BETTER * found.errors[best]:
        return None
    apart = high - low > APART * math.hypot(found.errors[best], found.errors[worst])
    return f"better on {best} ({high:+.4g}), not on {worst} ({low:+.4g})" if apart else None


def _excess(gains: Mapping[str, float], variances: Mapping[str, float]) -> tuple[float, float]:
    """Return by how much the differences vary beyond their own variances, as `levels.interaction` counts it."""
    if len(gains) < 2 or not all(variances.values()):
        return 0.0, 0.0
    weights = {name: 1 / variance for name, variance in variances.items()}
    total = sum(weights.values())
    mean = sum(weights[name] * each for name, each in gains.items()) / total
    squares = sum(weights[name] * (each - mean) ** 2 for name, each in gains.items())
    # Each difference has the interaction of two programs.
    return squares - (len(gains) - 1), 2 * (total - sum(each * (each / total) for each in weights.values()))


def _shares(variances: Mapping[str, float]) -> dict[str, float]:
    """Return weights in proportion to the precisions, which sum to 1."""
    if not all(variances.values()):
        return dict.fromkeys(variances, 1 / len(variances))
    total = sum(1 / variance for variance in variances.values())
    return {name: 1 / variance / total for name, variance in variances.items()}


def _noise(
    parts: Mapping[Key, float],
    units: Mapping[Key, float],
    noises: Mapping[Key, Noise],
    records: Records,
    slope: Slope | None,
) -> Noise:
    """Return the noise of one run that explains the sum of `parts`, with degrees of freedom by Satterthwaite (1946).

    Args:
        units: the parts for a variance of 1.
    """
    common, total = slope.noise if slope else records.noise, sum(parts.values())
    if not total:
        return common
    spread = sum((part / total) ** 2 / noises[key].degrees for key, part in parts.items())
    return Noise(math.sqrt(total / sum(units.values())), min(common.degrees, 1 / spread), common.unsure)
