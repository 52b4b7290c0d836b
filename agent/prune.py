"""When a run has no chance left against the incumbent, from the two learning curves and this machine's own history.

What is known: Optuna's MedianPruner stops a run below the median of the others at the same step, which stops winners of
a kind that starts slowly; its WilcoxonPruner tests one run against the best. Freeze-thaw optimisation (Swersky et al.,
arXiv 1406.3896) and the termination by predicted probability of Domhan et al. (IJCAI 2015) forecast where a curve ends
and stop where the chance to beat the best is small. This is the last idea with the least model: the forecast is a
regression on finished runs of the same session. It predicts by how much a run ends behind its incumbent (the shortfall)
from how far its loss lies above the incumbent's at the same fraction of the training (the gap) and from how fast that
closes (the trend: train.py prints a running mean, in which a bad start is seen long after it has passed). Prediction
and residuals give a Student t distribution for the shortfall, and the run is pruned where winning is below CHANCE.

Only finished runs calibrate. Which runs are finished depends on the rule itself, so three things keep it from talking
itself into more: a run is pruned by what its curve shows up to a fraction, on which the regression at that fraction is
conditioned; a run pruned later would have made the residuals at earlier fractions look worse for runs like it, and its
absence makes the rule milder; and of the runs that would be pruned a random CONTROL share finishes (`spared`), whose
recoveries, if there are any, are seen.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from agent.curves import Curve, at
from agent.experiment import Direction
from agent.state import gain
from agent.student import cdf

CHANCE = 0.005  # of winning, below which a run is pruned
LEAST = 8  # finished runs that can be compared, before anything is pruned
EARLIEST = 0.2  # of the training
CONTROL = 0.05  # of the runs that would be pruned, allowed to finish
CODE = "code"  # in `changed`: something other than a constant

WINDOW = 0.05  # of the training, over which a gap is averaged
GRID = 5  # places in a window
SPAN = 0.15  # of the training, over which a trend is taken
APART = 0.02  # of the training, between the two looks that must agree
WIDEST = 0.3  # of the training, between neighbouring points: a larger hole is no curve
MOST_FREEDOM = 10.0  # the tails stay as heavy as this, however long the history: real residuals are not normal
DOUBT = 0.25  # of the prediction: what every forecast may be wrong by, whatever the residuals say
CROSSING_DOUBT = 0.3
STRANGE = 2.0  # times the residuals, where no history of the same kind is there to calibrate

# Edits after which a curve may lie above the incumbent's for long and end below it.
CROSSING = {
    "batch": re.compile(r"BATCH|ACCUM|MICRO"),
    "schedule": re.compile(r"WARM|FINAL_LR|DECAY|SCHEDULE|COOLDOWN|ANNEAL"),
    "size": re.compile(r"DEPTH|WIDTH|DIM|RATIO|LAYER|HEAD|HIDDEN|EMBD|WINDOW|CHANNELS"),
}


@dataclass(frozen=True)
class Finished:
    """A run that came to its end, beside the incumbent that it was measured against. changed: as for `hopeless`."""

    curve: Curve
    metric: float
    incumbent_curve: Curve
    incumbent_metric: float
    changed: Collection[str] = field(default_factory=frozenset)


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


def hopeless(
    so_far: Curve,
    incumbent: Curve,
    incumbent_metric: float,
    history: Sequence[Finished],
    changed: Collection[str],
    direction: Direction = "minimize",
    noise: float = 0.0,
    chance: float = CHANCE,
) -> Pruned | None:
    """Whether the run may as well end now. None while it has a chance, or while too little is known to say.

    so_far, incumbent: curves over the same budget; that of an incumbent with several runs is `curves.average` of them.
    history: finished runs with the same budget on the same machine; pruned ones have no metric and no place in it.
    changed: names of the constants in which it differs from the incumbent, and CODE where anything else does.
    noise: standard deviation of the metric between runs of the same code, as far as it is known.
    """
    looks = _looks(so_far)
    forecasts = [
        found
        for fraction in looks
        if (found := forecast(so_far, incumbent, fraction, history, changed, direction, noise)) is not None
        and found.chance < chance
        and found.shortfall > found.recovered
    ]
    if not forecasts or len(forecasts) < len(looks):
        return None
    last, sign = forecasts[-1], 1 if direction == "minimize" else -1
    return Pruned(looks[-1], incumbent_metric + sign * last.shortfall, last.chance, _reason(looks[-1], last))


def forecast(
    so_far: Curve,
    incumbent: Curve,
    fraction: float,
    history: Sequence[Finished],
    changed: Collection[str],
    direction: Direction = "minimize",
    noise: float = 0.0,
) -> Forecast | None:
    """Where a run ends, from its curve up to `fraction`. None with too little history, or if it is not behind."""
    here = features(so_far, incumbent, fraction)
    if here is None or here[0] <= 0:
        return None
    crossing = bool(kinds(changed))
    alike = [run for run in history if bool(kinds(run.changed)) == crossing]
    own = _cases(alike, fraction, direction)
    cases = own if len(own) >= LEAST else _cases(history, fraction, direction)
    if len(cases) < LEAST:
        return None
    fit = _fit(cases, here)
    if fit is None:
        return None
    weights, scale, leverage = fit
    shortfall = _dot(weights, here)
    if crossing and cases is not own:
        scale *= STRANGE
    doubt = (CROSSING_DOUBT if crossing else DOUBT) * shortfall
    spread = math.sqrt(max(scale, noise) ** 2 + (scale * leverage) ** 2 + doubt**2)
    if shortfall <= 0 or spread == 0:
        return None
    freedom = min(len(cases) - len(here), MOST_FREEDOM)
    recovered = max((_dot(weights, x) for x, behind in cases if behind < 0), default=0.0)
    return Forecast(here[0], shortfall, cdf(-shortfall / spread, freedom), len(cases), max(0.0, recovered))


def spared(seed: int, number: int, share: float = CONTROL) -> bool:
    """Whether experiment `number` finishes even if it looks hopeless: a control on the rule, the same at each start."""
    return random.Random(f"control {seed} {number}").random() < share


def kinds(changed: Collection[str]) -> frozenset[str]:
    """The kinds of edit among `changed` after which curves cross."""
    found = {kind for kind, names in CROSSING.items() if any(names.search(name.upper()) for name in changed)}
    return frozenset(found | ({CODE} if CODE in changed else set()))


def features(curve: Curve, incumbent: Curve, fraction: float) -> tuple[float, float] | None:
    """(gap, trend) at `fraction`: how far `curve` lies above the incumbent's, and by how much that has grown lately."""
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
    """The two fractions at which a run is judged, or none yet: one alone may be a slip of the clock or of the log."""
    if not so_far or not EARLIEST <= so_far[-1].fraction < 1:
        return ()
    now = so_far[-1].fraction
    before = next((point.fraction for point in reversed(so_far) if now - point.fraction >= APART), -math.inf)
    return (before, now) if before >= EARLIEST and now - before <= WIDEST else ()


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


Case = tuple[tuple[float, float], float]


def _cases(history: Sequence[Finished], fraction: float, direction: Direction) -> list[Case]:
    """(features, shortfall) of every finished run that has them."""
    return [
        (found, -gain(run.incumbent_metric, run.metric, direction))
        for run in history
        if (found := features(run.curve, run.incumbent_curve, fraction)) is not None and math.isfinite(run.metric)
    ]


def _fit(cases: Sequence[Case], here: tuple[float, float]) -> tuple[tuple[float, float], float, float] | None:
    """Weighted least squares through the origin: (weights of gap and trend, scale of residuals, leverage of `here`).

    Residuals grow with the size of the difference: a run is weighted by how near its size is to that of `here`, at
    which the scale then holds. None where the history says nothing about gap and trend apart.
    """
    size = _dot(here, here)
    weighted = [(2 / (1 + _dot(x, x) / size), x, y) for x, y in cases]
    a = sum(w * x[0] * x[0] for w, x, _ in weighted)
    b = sum(w * x[0] * x[1] for w, x, _ in weighted)
    c = sum(w * x[1] * x[1] for w, x, _ in weighted)
    p, q = (sum(w * x[k] * y for w, x, y in weighted) for k in (0, 1))
    determinant = a * c - b * b
    if determinant <= 1e-9 * a * c:
        return None
    solution = ((c * p - b * q) / determinant, (a * q - b * p) / determinant)
    residual = sum(w * (y - _dot(solution, x)) ** 2 for w, x, y in weighted) / (len(cases) - 2)
    u, v = here
    leverage = math.sqrt(max(0.0, (c * u * u - 2 * b * u * v + a * v * v) / determinant))
    return solution, math.sqrt(residual), leverage


def _dot(a: tuple[float, float], b: tuple[float, float]) -> float:
    return a[0] * b[0] + a[1] * b[1]
