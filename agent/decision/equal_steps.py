"""The machine's speed taken out of a comparison, where steps are counted.

With a budget in seconds, equal programs differ mostly because the machine let them take more steps or fewer: on two
shared cores that is more than four fifths of the variance (docs/benchmarks.md). Between programs whose steps take
equally long, a difference in steps is the machine's too, and the incumbent can be restated: what it would have given
with as many steps as the candidate had. How the metric goes with the logarithm of the steps is learnt from repeated
runs, as the slope of an analysis of covariance (Fisher 1932).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from agent.decision.noise import Noise
from agent.journal.experiment import Direction, Run, metrics, succeeded

STEPS = "num_steps"  # the secondary metric that counts them
FEWEST = 3  # repetitions to learn from
# Of the slope: by so much that of one program differs from that of all. Recorded sessions here gave 0.28 to 0.45.
DOUBT = 0.4


@dataclass(frozen=True)
class Slope:
    """per_log: change of the metric with e times the steps. spread: sum of squares of what it was learnt from.

    raw: the noise as measured; noise: what remains of it at equal steps.
    """

    per_log: float
    spread: float
    raw: Noise
    noise: Noise

    def restated(self, incumbent: Sequence[Run], candidate: Sequence[Run]) -> list[float]:
        """Metrics of the incumbent's runs, with as many steps as the candidate had."""
        target = _mean(_logs(candidate))
        return [y + self.per_log * (target - x) for x, y in zip(_logs(incumbent), metrics(incumbent), strict=True)]

    def doubt(self, incumbent: Sequence[Run], candidate: Sequence[Run]) -> float:
        """Variance that restating adds to the incumbent's mean, in units of the noise's own."""
        away = _mean(_logs(candidate)) - _mean(_logs(incumbent))
        return away**2 * (1 / self.spread + (DOUBT * self.per_log / self.noise.sd) ** 2)


def slope_of(
    groups: Sequence[Sequence[Run]], compared: Sequence[Run], raw: Noise, direction: Direction
) -> Slope | None:
    """How the metric goes with the steps in `groups` of repeated runs, whose noise is `raw`.

    compared: the runs that are to be compared by it. None where steps are not counted, do not differ or do not explain
    the noise, and where too little was repeated.
    """
    runs = [run for group in groups for run in group]
    if not all(run.secondary.get(STEPS, 0.0) > 0 for run in (*runs, *compared)) or not runs or not raw.sd:
        return None
    xx, xy, yy = (sum(parts) for parts in zip(*(squares(group) for group in groups), strict=True))
    repetitions = len(runs) - len(groups)
    if repetitions < FEWEST or xx == 0 or (xy > 0) == (direction == "minimize"):
        return None
    # The guess that `raw` holds stays in as it is: it has no steps.
    guessed = max(0.0, raw.sd**2 * raw.degrees - yy)
    degrees = raw.degrees - 1
    sd = math.sqrt(max(0.0, yy - xy * xy / xx + guessed) / degrees)
    return Slope(xy / xx, xx, raw, Noise(sd, degrees)) if 0 < sd < raw.sd else None


def squares(group: Sequence[Run]) -> tuple[float, float, float]:
    """Sums of squares and products about the means: logarithms of steps, these and the metric, the metric."""
    xs, ys = _logs(group), metrics(group)
    x, y = _mean(xs), _mean(ys)
    return (
        sum((a - x) ** 2 for a in xs),
        sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)),
        sum((b - y) ** 2 for b in ys),
    )


def _logs(runs: Sequence[Run]) -> list[float]:
    return [math.log(run.secondary[STEPS]) for run in succeeded(runs)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
