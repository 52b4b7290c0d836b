"""Remove the machine's speed from a comparison, if steps are counted.

With a budget in seconds, equal programs differ mostly because the machine allowed them more or fewer steps: on two
shared cores this is more than four fifths of the variance (docs/benchmarks.md). Between programs whose steps take
equally long, a difference in steps also comes from the machine. The incumbent's metric can then be adjusted to the
value it would have reached with the candidate's number of steps. The slope of the metric over the logarithm of the
steps is estimated from repeated runs by analysis of covariance (Fisher 1932).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from agent.decision.noise import Noise
from agent.journal.experiment import Direction, Run, mean, metrics, succeeded

STEPS = "num_steps"  # the secondary metric that counts steps
FEWEST = 3  # repetitions needed to estimate a slope
# Relative standard deviation of the slope of one program around the common slope. Recorded sessions here gave 0.28 to
# 0.45.
SLOPE_NOISE = 0.4


@dataclass(frozen=True)
class Slope:
    """The slope of the metric over the logarithm of the steps.

    Attributes:
        per_log: change of the metric for e times the steps.
        squares: sum of squares of the log steps that the slope was estimated from.
        raw: the noise as measured.
        noise: the noise that remains at equal steps.
    """

    per_log: float
    squares: float
    raw: Noise
    noise: Noise

    def adjusted(self, incumbent: Sequence[Run], candidate: Sequence[Run]) -> list[float]:
        """Return the metrics of the incumbent's runs, adjusted to the candidate's number of steps."""
        target = mean(_logs(candidate))
        return [y + self.per_log * (target - x) for x, y in zip(_logs(incumbent), metrics(incumbent), strict=True)]

    def added_variance(self, incumbent: Sequence[Run], candidate: Sequence[Run]) -> float:
        """Return the variance that the adjustment adds to the incumbent's mean, in units of the noise's variance."""
        return self.variance_at(self.distance(incumbent, candidate))

    def distance(self, incumbent: Sequence[Run], candidate: Sequence[Run]) -> float:
        return mean(_logs(candidate)) - mean(_logs(incumbent))

    def variance_at(self, distance: float) -> float:
        """Return the variance that an adjustment over this distance adds, in units of the noise's variance."""
        return distance**2 * (1 / self.squares + (SLOPE_NOISE * self.per_log / self.noise.sd) ** 2)


def slope_of(
    groups: Sequence[Sequence[Run]], compared: Sequence[Run], raw: Noise, direction: Direction
) -> Slope | None:
    """Estimate the slope from groups of repeated runs.

    Args:
        groups: runs of equal programs, one group per program.
        compared: the runs to be compared with the help of the slope.
        raw: the noise of `groups`.

    Returns:
        None if steps are not counted, do not differ or do not explain the noise, or if there are too few repetitions.
    """
    runs = [run for group in groups for run in group]
    if not all(run.secondary.get(STEPS, 0.0) > 0 for run in (*runs, *compared)) or not runs or not raw.sd:
        return None
    xx, xy, yy = (sum(parts) for parts in zip(*(squares(group, raw.sd) for group in groups), strict=True))
    repetitions = len(runs) - len(groups)
    if repetitions < FEWEST or xx == 0 or (xy > 0) == (direction == "minimize"):
        return None
    # The prior that `raw` contains has no steps, so its part of the variance stays unchanged.
    guessed = max(0.0, raw.degrees - yy)
    degrees = raw.degrees - 1
    sd = raw.sd * math.sqrt(max(0.0, yy - xy * xy / xx + guessed) / degrees)
    return Slope(xy / xx * raw.sd, xx, raw, Noise(sd, degrees)) if 0 < sd < raw.sd else None


def squares(group: Sequence[Run], unit: float = 1.0) -> tuple[float, float, float]:
    """Return the centered sums of squares and products of x = log steps and y = metric: xx, xy, yy.

    Args:
        unit: of y; squares of large or small metrics are infinite or 0.
    """
    logs, values = _logs(group), metrics(group)
    x, y = mean(logs), mean(values)
    xs, ys = [a - x for a in logs], [(b - y) / unit for b in values]
    return sum(a * a for a in xs), sum(a * b for a, b in zip(xs, ys, strict=True)), sum(b * b for b in ys)


def _logs(runs: Sequence[Run]) -> list[float]:
    return [math.log(run.secondary[STEPS]) for run in succeeded(runs)]
