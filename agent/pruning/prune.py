"""Prune a run that can no longer beat the incumbent, based on both learning curves and the history of this machine.

Related work: Optuna's MedianPruner stops a run below the median of the others at the same step, which stops winners
that start slowly. Its WilcoxonPruner tests one run against the best. Freeze-thaw optimization (Swersky et al., arXiv
1406.3896) and the predictive termination of Domhan et al. (IJCAI 2015) forecast the end of a curve and stop if the
probability of beating the best is small. This module does the same with a minimal model: the forecast is a regression
on runs that finished on the same machine. It predicts by how much a run ends behind its incumbent (the shortfall) from
two features at the same fraction of the training: how far its loss is above the incumbent's (the gap) and how fast that
grows (the trend; train.py prints a running mean, which shows a bad start long after it has passed). Prediction and
residuals give a Student t distribution of the shortfall. A run is pruned if the probability of winning is below CHANCE.

Only finished runs calibrate the forecast, and the rule itself decides which runs finish. Three facts prevent it from
reinforcing itself. First, it decides by gap and trend at a fraction, which are the variables that the regression is
conditioned on there, so this selection does not bias the regression. Second, runs that were pruned later were getting
worse; without them, earlier residuals overstate recovery, which makes the rule milder. Third, a random fraction CONTROL
of the runs that it would prune is allowed to finish (`spared`).
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from agent.decision.student_t import cdf
from agent.journal.experiment import Direction
from agent.journal.state import gain
from agent.pruning.curves import Curve, at, pace
from agent.source.diff import kinds

CHANCE = 0.0075  # probability of winning below which a run is pruned
LEAST = 8  # comparable finished runs needed before anything is pruned
MOST_HISTORY = 200  # latest finished runs to learn from: machines change, and the work must be bounded
EARLIEST = 0.1  # of the training, before which nothing is pruned
CONTROL = 0.05  # fraction of the runs to be pruned that may finish

WINDOW = 0.05  # of the training; a gap is averaged over it
SLOWER = 0.8  # of the incumbent's steps per second; less means a busy machine, unless the edit explains it
GRID = 3  # points in a window
SPAN = 0.1  # of the training; a trend is measured over it
APART = 0.02  # of the training, between the two checks that must agree
WIDEST = 0.3  # of the training; the largest gap between the two checks
MOST_FREEDOM = 20.0  # degrees of freedom at most, whatever the history: real residuals have heavy tails
RIDGE = 1e-3  # of the gaps' sum of squares, added to that of the trends, which is zero for parallel curves
MODEL_ERROR = 0.1  # of the prediction: the error that every forecast may have, whatever the residuals
CROSSING_ERROR = 0.15  # the same for an edit that may change the shape of the curve
STRANGE = 2.0  # factor on the residuals without enough history of such edits


@dataclass(frozen=True)
class Finished:
    """A finished run and the incumbent that it was compared with. `changed` is as in `Rival`."""

    curve: Curve
    metric: float
    incumbent_curve: Curve
    incumbent_metric: float
    changed: Collection[str] = field(default_factory=frozenset)


@dataclass(frozen=True)
class Rival:
    """The incumbent that a candidate must beat, and the history of comparable runs.

    Attributes:
        curve: the incumbent's curve over the same budget; `curves.average` of its runs if there are several.
        metric: the incumbent's metric.
        history: finished runs with the same budget on the same machine; pruned runs have no metric and are excluded.
        changed: the candidate's edits relative to the incumbent, as returned by `source.diff.changed`.
        noise: standard deviation of the metric between runs of the same code; 0 if unknown.
    """

    curve: Curve
    metric: float
    history: Sequence[Finished]
    changed: Collection[str]
    direction: Direction = "minimize"
    noise: float = 0.0


@dataclass(frozen=True)
class Pruned:
    """The decision to prune a run.

    Attributes:
        fraction: fraction of the training done.
        estimate: forecast of the final metric, for the search to learn from. It is not a measurement.
        chance: forecast probability of winning.
    """

    fraction: float
    estimate: float
    chance: float
    reason: str


@dataclass(frozen=True)
class Forecast:
    """The forecast of a run.

    Attributes:
        gap: how far its loss is above the incumbent's now.
        shortfall: expected final shortfall, in the metric's unit; positive is worse.
        chance: probability of winning.
        runs: number of finished runs that calibrate the forecast.
        recovered: the largest predicted shortfall of a run that still won; 0 if none did.
    """

    gap: float
    shortfall: float
    chance: float
    runs: int
    recovered: float


def hopeless(so_far: Curve, rival: Rival, chance: float = CHANCE) -> Pruned | None:
    """Return the decision to prune the run; None if it may still win, or if too little is known."""
    if slowed_by_machine(so_far, rival.curve, rival.changed):
        return None
    forecasts = []
    for fraction in _looks(so_far):
        found = forecast(so_far, rival, fraction)
        if found is None or found.chance >= chance or found.shortfall <= found.recovered:
            return None
        forecasts.append((fraction, found))
    if not forecasts:
        return None
    (fraction, now), sign = forecasts[0], 1 if rival.direction == "minimize" else -1
    return Pruned(fraction, rival.metric + sign * now.shortfall, now.chance, _reason(fraction, now))


def forecast(so_far: Curve, rival: Rival, fraction: float) -> Forecast | None:
    """Forecast the end of a run from its curve up to `fraction`; None with too little history, or if not behind."""
    here = features(so_far, rival.curve, fraction)
    if here is None or here[0] <= 0:
        return None
    known = rival.history[-MOST_HISTORY:]
    history = [run for run in known if not slowed_by_machine(run.curve, run.incumbent_curve, run.changed)]
    cases = _cases(history, fraction, rival.direction)
    fit = _fit(cases, here) if len(cases) >= LEAST else None
    if fit is None:
        return None
    shortfall = _dot(fit.slopes, here)
    crossing = bool(kinds(rival.changed))
    alike = _cases([run for run in history if bool(kinds(run.changed)) == crossing], fraction, rival.direction)
    if len(alike) >= LEAST:
        scale = fit.scale(alike, len(alike) - 1)
    else:
        alike, scale = cases, fit.scale(cases, len(cases) - 2) * (STRANGE if crossing else 1)
    model_error = (CROSSING_ERROR if crossing else MODEL_ERROR) * shortfall
    error = math.hypot(max(scale, rival.noise), scale * fit.leverage, model_error)
    if shortfall <= 0 or error == 0:
        return None
    freedom = min(len(alike) - 1, len(cases) - 2, MOST_FREEDOM)
    recovered = max((_dot(fit.slopes, x) for x, behind in alike if behind < 0), default=0.0)
    return Forecast(here[0], shortfall, cdf(-shortfall / error, freedom), len(alike), max(0.0, recovered))


def spared(seed: int, number: int) -> bool:
    """Return whether experiment `number` may finish even if hopeless, as a control; the same after each resume."""
    return random.Random(f"control {seed} {number}").random() < CONTROL


def slowed_by_machine(so_far: Curve, incumbent: Curve, changed: Collection[str]) -> bool:
    """Return whether a run makes so few steps per second, with no edit to explain it, that the machine must be busy.

    Such a run must be repeated, neither judged nor learned from. Ending it early is left to the caller that repeats it.
    """
    ratio = pace(so_far, incumbent)
    return ratio is not None and ratio < SLOWER and not kinds(changed)


def features(curve: Curve, incumbent: Curve, fraction: float) -> tuple[float, float] | None:
    """Return (gap, trend) at `fraction`: how far `curve` is above the incumbent's, and how much that grew over SPAN."""
    now, before = gap(curve, incumbent, fraction), gap(curve, incumbent, fraction - SPAN)
    return None if now is None or before is None else (now, now - before)


def gap(curve: Curve, incumbent: Curve, fraction: float) -> float | None:
    """Return the mean difference of the losses over the WINDOW up to `fraction`; None if a curve is too short."""
    if not curve or not incumbent:
        return None
    start = max(curve[0].fraction, incumbent[0].fraction)
    places = [max(start, fraction - WINDOW * k / (GRID - 1)) for k in range(GRID)]
    ours, theirs = [at(curve, place) for place in places], [at(incumbent, place) for place in places]
    differences = [a - b for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
    mean = sum(differences) / len(differences) if len(differences) == GRID else math.nan
    return mean if math.isfinite(mean) else None


def _looks(so_far: Curve) -> tuple[float, ...]:
    """Return two fractions at which to check a run, the latest first, or none yet. A single check may be an outlier."""
    if not so_far or not EARLIEST <= so_far[-1].fraction < 1:
        return ()
    now = so_far[-1].fraction
    before = next((point.fraction for point in reversed(so_far) if now - point.fraction >= APART), -math.inf)
    return (now, before) if before >= EARLIEST and now - before <= WIDEST else ()


def _reason(fraction: float, found: Forecast) -> str:
    most = f"none recovered from more than {found.recovered:.3g}"
    recovery = most if found.recovered > 0 else "none that fell behind recovered"
    return (
        f"pruned at {fraction:.0%}: the loss is {found.gap:.3g} above the incumbent's at that point, "
        f"which predicts a final shortfall of {found.shortfall:.3g}; of {found.runs} earlier runs, {recovery}"
    )


Pair = tuple[float, float]
Comparison = tuple[Pair, float]


@dataclass(frozen=True)
class Fit:
    """A weighted linear fit of the shortfall.

    Attributes:
        slopes: slopes of the shortfall in gap and trend.
        size: squared length of the (gap, trend) vector that the weights are centered on.
        leverage: the error of the prediction from the slopes, as a multiple of the residuals' scale.
    """

    slopes: Pair
    size: float
    leverage: float

    def scale(self, cases: Sequence[Comparison], freedom: int) -> float:
        """Return the standard deviation of the residuals of `cases`, scaled to a run of this size.

        Args:
            freedom: degrees of freedom.
        """
        squares = sum(_weight(x, self.size) * (y - _dot(self.slopes, x)) ** 2 for x, y in cases)
        return math.sqrt(squares / freedom)


def _cases(history: Sequence[Finished], fraction: float, direction: Direction) -> list[Comparison]:
    """Return (features, shortfall) of every finished run that has both."""
    return [
        (found, -gain(run.incumbent_metric, run.metric, direction))
        for run in history
        if (found := features(run.curve, run.incumbent_curve, fraction)) is not None and math.isfinite(run.metric)
    ]


def _fit(cases: Sequence[Comparison], here: Pair) -> Fit | None:
    """Fit weighted least squares through the origin; None if no run of the history has a gap."""
    # At least the median size: with the size of a tie, all residuals would get no weight.
    size = max(_dot(here, here), statistics.median(_dot(x, x) for x, _ in cases))
    if size == 0:
        return None
    weighted = [(_weight(x, size), x, y) for x, y in cases]
    a = sum(w * x[0] * x[0] for w, x, _ in weighted)
    b = sum(w * x[0] * x[1] for w, x, _ in weighted)
    c = sum(w * x[1] * x[1] for w, x, _ in weighted) + RIDGE * a
    p, q = (sum(w * x[k] * y for w, x, y in weighted) for k in (0, 1))
    determinant = a * c - b * b
    if determinant <= 0:
        return None
    u, v = here
    variance = (c * u * u - 2 * b * u * v + a * v * v) / determinant
    return Fit(((c * p - b * q) / determinant, (a * q - b * p) / determinant), size, math.sqrt(max(0.0, variance)))


def _weight(x: Pair, size: float) -> float:
    """Weight a residual, because residuals grow with the features: 1 at this size, 2 for a tie, near 0 for a wreck."""
    return 2 / (1 + _dot(x, x) / size)


def _dot(a: Pair, b: Pair) -> float:
    return a[0] * b[0] + a[1] * b[1]
