"""When a run has no chance left against the incumbent: from both learning curves and this machine's own history.

What is known: Optuna's MedianPruner stops a run below the median of the others at the same step, which stops winners of
a kind that starts slowly; its WilcoxonPruner tests one run against the best. Freeze-thaw optimisation (Swersky et al.,
arXiv 1406.3896) and the termination by predicted probability of Domhan et al. (IJCAI 2015) forecast where a curve ends
and stop where the chance to beat the best is small. This is the last idea with the least model: the forecast is a
regression on runs that finished on the same machine. It predicts by how much a run ends behind its incumbent (the
shortfall) from how far its loss lies above the incumbent's at the same fraction of the training (the gap) and from how
fast that grows (the trend: train.py prints a running mean, in which a bad start is seen long after it has passed).
Prediction and residuals give the shortfall a Student t distribution; a run is pruned where winning is below CHANCE.

Only finished runs calibrate, and the rule itself decides which finish. Three things keep it from talking itself into
more. What it decides on at a fraction, gap and trend, is what the regression is conditioned on there, and choosing runs
by that does not bend it. Runs pruned later on were getting worse, so without them the earlier residuals look more like
recovery than they are: a milder rule. And a random CONTROL share of those it would prune finishes (`spared`).
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

CHANCE = 0.0075  # of winning, below which a run is pruned
LEAST = 8  # finished runs that can be compared, before anything is pruned
MOST_HISTORY = 200  # finished runs that it learns from, the latest: machines change, and the work is bounded
EARLIEST = 0.1  # of the training
CONTROL = 0.05  # of the runs that would be pruned, allowed to finish

WINDOW = 0.05  # of the training, over which a gap is averaged
SLOWER = 0.8  # times the incumbent's steps a second: less is a busy machine where the edit does not explain it
GRID = 3  # places in a window
SPAN = 0.1  # of the training, over which a trend is taken
APART = 0.02  # of the training, between the two looks that must agree
WIDEST = 0.3  # of the training, between neighbouring points: a larger hole is no curve
MOST_FREEDOM = 20.0  # the tails stay as heavy as this, however long the history: real residuals are not normal
RIDGE = 1e-3  # of the gaps' squares, added to the trends': curves that all run in parallel have none to learn from
DOUBT = 0.1  # of the prediction: what every forecast may be wrong by, whatever the residuals say
CROSSING_DOUBT = 0.15
STRANGE = 2.0  # times the residuals, where no history of the same kind is there to calibrate


@dataclass(frozen=True)
class Finished:
    """A run that came to its end, beside the incumbent that it was measured against. changed: as for `Rival`."""

    curve: Curve
    metric: float
    incumbent_curve: Curve
    incumbent_metric: float
    changed: Collection[str] = field(default_factory=frozenset)


@dataclass(frozen=True)
class Rival:
    """The incumbent that a candidate has to beat, and what is known of runs like the candidate's.

    curve: over the same budget; that of an incumbent with several runs is `curves.average` of them.
    history: finished runs with the same budget on the same machine; pruned ones have no metric and no place in it.
    changed: what the candidate changes in the incumbent: `source.diff.changed` of their files.
    noise: standard deviation of the metric between runs of the same code, as far as it is known.
    """

    curve: Curve
    metric: float
    history: Sequence[Finished]
    changed: Collection[str]
    direction: Direction = "minimize"
    noise: float = 0.0


@dataclass(frozen=True)
class Pruned:
    """fraction: of the training done. estimate: of the final metric, for a search to learn from; it is no measurement.

    chance: of winning, as forecast.
    """

    fraction: float
    estimate: float
    chance: float
    reason: str


@dataclass(frozen=True)
class Forecast:
    """shortfall: expected, in the metric's unit, positive is worse. recovered: the largest of those that still won."""

    gap: float
    shortfall: float
    chance: float
    runs: int
    recovered: float


def hopeless(so_far: Curve, rival: Rival, chance: float = CHANCE) -> Pruned | None:
    """Return why the run may as well end now. None while it has a chance, or while too little is known to say."""
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
    """Where a run ends, from its curve up to `fraction`. None with too little history, or if it is not behind."""
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
    doubt = (CROSSING_DOUBT if crossing else DOUBT) * shortfall
    spread = math.hypot(max(scale, rival.noise), scale * fit.leverage, doubt)
    if shortfall <= 0 or spread == 0:
        return None
    freedom = min(len(alike) - 1, len(cases) - 2, MOST_FREEDOM)
    recovered = max((_dot(fit.slopes, x) for x, behind in alike if behind < 0), default=0.0)
    return Forecast(here[0], shortfall, cdf(-shortfall / spread, freedom), len(alike), max(0.0, recovered))


def spared(seed: int, number: int, share: float = CONTROL) -> bool:
    """Whether experiment `number` finishes even if it looks hopeless: a control on the rule, the same at each start."""
    return random.Random(f"control {seed} {number}").random() < share


def slowed_by_machine(so_far: Curve, incumbent: Curve, changed: Collection[str]) -> bool:
    """Return whether a run takes so few steps a second, without an edit to explain it, that its machine must be busy.

    It is to be measured again and neither judged nor learnt from: ending it early is up to whoever repeats it.
    """
    ratio = pace(so_far, incumbent)
    return ratio is not None and ratio < SLOWER and not kinds(changed)


def features(curve: Curve, incumbent: Curve, fraction: float) -> tuple[float, float] | None:
    """(gap, trend) at `fraction`: how far `curve` lies above the incumbent's, and by how much that grew over SPAN."""
    now, before = gap(curve, incumbent, fraction), gap(curve, incumbent, fraction - SPAN)
    return None if now is None or before is None else (now, now - before)


def gap(curve: Curve, incumbent: Curve, fraction: float) -> float | None:
    """Mean difference of the losses over the WINDOW that ends at `fraction`. None where a curve does not reach it."""
    if not curve or not incumbent:
        return None
    start = max(curve[0].fraction, incumbent[0].fraction)
    places = [max(start, fraction - WINDOW * k / (GRID - 1)) for k in range(GRID)]
    ours, theirs = [at(curve, place) for place in places], [at(incumbent, place) for place in places]
    differences = [a - b for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
    mean = sum(differences) / len(differences) if len(differences) == GRID else math.nan
    return mean if math.isfinite(mean) else None


def _looks(so_far: Curve) -> tuple[float, ...]:
    """Two fractions at which a run is judged, the latest first, or none yet: one alone may be a slip of the log."""
    if not so_far or not EARLIEST <= so_far[-1].fraction < 1:
        return ()
    now = so_far[-1].fraction
    before = next((point.fraction for point in reversed(so_far) if now - point.fraction >= APART), -math.inf)
    return (now, before) if before >= EARLIEST and now - before <= WIDEST else ()


def _reason(fraction: float, found: Forecast) -> str:
    came_back = (
        f"none came back from more than {found.recovered:.3g}"
        if found.recovered > 0
        else "none that was behind came back"
    )
    return (
        f"pruned at {fraction:.0%}: the loss is {found.gap:.3g} above the incumbent's there, "
        f"from which a run ends {found.shortfall:.3g} behind, and of {found.runs} runs {came_back}"
    )


Pair = tuple[float, float]
Comparison = tuple[Pair, float]


@dataclass(frozen=True)
class Fit:
    """slopes: of the shortfall in gap and trend. size: of the gap and trend for which it holds, squared.

    leverage: by which the scale of the residuals is multiplied for the error of the slopes there.
    """

    slopes: Pair
    size: float
    leverage: float

    def scale(self, cases: Sequence[Comparison], freedom: int) -> float:
        """Standard deviation of the residuals of `cases`, as it is for a run of this size."""
        squares = sum(_weight(x, self.size) * (y - _dot(self.slopes, x)) ** 2 for x, y in cases)
        return math.sqrt(squares / freedom)


def _cases(history: Sequence[Finished], fraction: float, direction: Direction) -> list[Comparison]:
    """(features, shortfall) of every finished run that has them."""
    return [
        (found, -gain(run.incumbent_metric, run.metric, direction))
        for run in history
        if (found := features(run.curve, run.incumbent_curve, fraction)) is not None and math.isfinite(run.metric)
    ]


def _fit(cases: Sequence[Comparison], here: Pair) -> Fit | None:
    """Weighted least squares through the origin. None where no run of the history has a gap."""
    # Not below the usual one: that of a tie would leave nothing of the residuals.
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
    """Residuals grow with the differences they belong to: 1 for a run of the same size, 2 for a tie, 0 for a wreck."""
    return 2 / (1 + _dot(x, x) / size)


def _dot(a: Pair, b: Pair) -> float:
    return a[0] * b[0] + a[1] * b[1]
