"""Forecast from a short training whether the verdict on a full one would be a keep.

A rung is a training budget at which a change was judged. At the short rung, candidate and incumbent are both trained
for less, each with its whole schedule. How far the candidate is ahead there (the lead) forecasts its gain at the full
rung. The forecast is a regression of gains on leads over pairs: candidates of this workspace that were measured at both
rungs. The line passes through the origin, where the incumbent is. Its residuals give a Student t distribution of the
gain, and a keep needs a gain of about NEEDED times the noise of a run (the power of `decision.sequential_test`).

Errors are about as large as the noise for small gains, and proportional to the gain for large ones. The inverse
hyperbolic sine of gain / UNIT turns both into one spread (Durbin et al., "A variance-stabilizing transformation for
gene-expression microarray data", Bioinformatics 18, 2002), so one wreck does not weigh more than all the others.

Edits differ in how well a short training forecasts them. A good rate stays good, but a smaller batch or model makes
more steps, which pays most in a short training. So each kind of edit has pairs and a line of its own, with a prior that
counts as PRIOR pairs. Edits of rates are discarded by the prior alone; all others only once their own pairs agree at
both rungs: Kendall's tau (M. G. Kendall, "A new measure of rank correlation", Biometrika 30, 1938) is positive, with a
probability below AGREEMENT if leads said nothing about gains.

Related work: successive halving (Jamieson, Talwalkar, AISTATS 2016) and Hyperband (Li et al., JMLR 18, 2018) promote a
fixed share of the candidates of each rung, which loses wins where the ranks differ between rungs. This rule discards by
the probability of a keep. Only pairs calibrate it, and it decides itself which candidates become pairs. As in `prune`,
this does not bias the regression, which is conditioned on the lead; and some candidates that it would discard go on as
controls, which count the keeps among them.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from agent.decision.estimate import estimate
from agent.decision.student_t import cdf
from agent.journal.experiment import Direction, Experiment
from agent.journal.state import gain
from agent.source.diff import CODE, kinds, same_work

CHANCE = 0.03  # probability of a keep below which a candidate is discarded at the short rung
NEEDED = 1.7  # gain of a keep in noises of one run: half of the gains of this size are kept
LEAST = 8  # pairs of a kind without a prior, before any of it is discarded
AGREEMENT = 0.01  # probability of the rank agreement of pairs that do not agree, at most
FIRST_CONTROLS, CONTROL = 1, 0.05  # of each kind so many candidates to be discarded go on, and then this share
TRIAL, PAYS = 16, 0.25  # of the latest candidates of a kind, this share must be discarded to pay for the screens
MOST_SCREENED = 200  # latest candidates of a kind to learn from

RATES, OTHER = "rates", "other"
WORST_FIRST = (CODE, "size", "batch", "schedule", OTHER)
UNIT = 4.0  # in noises of one run: gains far above count by their logarithm
PRIOR, PRIOR_ERROR = 5.0, 0.4  # pairs on a line of slope 1 that the prior counts as, and their residuals
LEAST_ERROR = 0.2  # standard deviation of residuals at least, whatever the pairs
MOST_FREEDOM = 20.0  # degrees of freedom at most: real residuals have heavy tails
FARTHEST = 50.0  # of leads and gains after the inverse hyperbolic sine: so large a wreck would overflow

Pair = tuple[float, float]


@dataclass(frozen=True)
class Screened:
    """A candidate that was measured at the short rung, and maybe at the full one.

    Attributes:
        kind: of its edit, as returned by `kind_of`.
        lead: how much better than the incumbent it was at the short rung; positive is better.
        gain: the same at the full rung; None if it has no metric there. That of a pruned run is an estimate.
        kept: whether the verdict at the full rung was a keep.
        stopped: whether it was discarded at the short rung, or would have been if it had not been a control.
    """

    kind: str
    lead: float
    gain: float | None = None
    kept: bool = False
    stopped: bool = False


@dataclass(frozen=True)
class Forecast:
    """The forecast of a candidate from its lead at the short rung.

    Attributes:
        gain: expected gain at the full rung.
        chance: probability that the verdict there would be a keep.
        pairs: number of pairs behind it.
    """

    gain: float
    chance: float
    pairs: int


def kind_of(changed: Collection[str]) -> str:
    """Return the kind of an edit: of the kinds that it touches, the one that a short training forecasts worst.

    Args:
        changed: what it changes, as returned by `source.diff.changed`.
    """
    found = {_kind_of_one(name) for name in changed}
    return next((kind for kind in WORST_FIRST if kind in found), RATES)


def screened_of(experiments: Iterable[Experiment], rung: float, direction: Direction) -> list[Screened]:
    """Return the candidates of a session that were screened at this rung, without those that say nothing."""
    found: list[Screened] = []
    incumbent: Experiment | None = None
    for each in experiments:
        screen = each.screens[-1] if each.screens else None
        if incumbent is not None and screen is not None and screen.lead is not None and screen.rung == rung:
            stopped, kept = screen.then in ("discard", "control"), each.kept
            by = None if screen.then == "discard" else _gain(each, incumbent, direction)
            found.append(Screened(screen.edit, screen.lead, by, kept, stopped))
        if each.kept:
            incumbent = each
    return found


def is_open(kind: str, screened: Sequence[Screened]) -> bool:
    """Return whether candidates of this kind may be discarded at the short rung."""
    pairs = _pairs(kind, screened)
    return agreement(pairs) < AGREEMENT if len(pairs) >= LEAST else kind == RATES


def is_worth_a_screen(kind: str, screened: Sequence[Screened], seed: int, number: int) -> bool:
    """Return whether a candidate should be measured at the short rung: to be judged there, or to make a pair.

    After TRIAL candidates, a kind must pay for its screens. Otherwise few more are made.
    """
    latest = _of(kind, screened)[-TRIAL:]
    pays = len(latest) < TRIAL or sum(each.stopped for each in latest) >= PAYS * TRIAL
    return pays or _drawn("pair", seed, number, CONTROL)


def forecast(
    kind: str, lead: float, screened: Sequence[Screened], noise: float, *, leaner: bool = False
) -> Forecast | None:
    """Forecast the gain at the full rung; None with too few pairs.

    Args:
        lead: of the candidate; positive is better.
        noise: standard deviation of one run at the full rung; positive.
        leaner: whether the candidate is kept as a simplification if nothing is lost.
    """
    unit = UNIT * noise
    pairs = [(_within(math.asinh(x / unit)), _within(math.asinh(y / unit))) for x, y in _pairs(kind, screened)]
    if not pairs and kind != RATES:
        return None
    squares = sum(x * x for x, _ in pairs) + PRIOR
    slope = (sum(x * y for x, y in pairs) + PRIOR) / squares
    rest = sum((y - slope * x) ** 2 for x, y in pairs) + PRIOR * PRIOR_ERROR**2
    freedom = PRIOR + len(pairs) - 1
    here = _within(math.asinh(lead / unit))
    error = math.sqrt(max(rest / freedom, LEAST_ERROR**2) * (1 + here * here / squares))
    chance = cdf((slope * here - math.asinh((0.0 if leaner else NEEDED) / UNIT)) / error, min(freedom, MOST_FREEDOM))
    return Forecast(unit * math.sinh(_within(slope * here)), chance, len(pairs))


def discards(kind: str, lead: float, screened: Sequence[Screened], found: Forecast) -> bool:
    """Return whether a candidate is discarded at the short rung, unless it is a control.

    Not if a candidate of its kind that was at least as far behind was kept.
    """
    if lead >= 0 or found.chance >= CHANCE or not is_open(kind, screened):
        return False
    return not any(each.kept and each.lead <= lead for each in _of(kind, screened))


def is_control(kind: str, screened: Sequence[Screened], seed: int, number: int) -> bool:
    """Return whether a candidate goes on although it would be discarded; the same after each resume."""
    before = sum(each.stopped and each.gain is not None for each in _of(kind, screened))
    return before < FIRST_CONTROLS or _drawn("control", seed, number, CONTROL)


def agreement(pairs: Sequence[Pair]) -> float:
    """Return the probability that leads rank gains at least this well by chance: Kendall's tau, which is nearly normal.

    Its score is the number of pairs of pairs in the same order, minus those in opposite order.
    """
    n = len(pairs)
    if n < 2:
        return 1.0
    score = sum(_sign(a[0] - b[0]) * _sign(a[1] - b[1]) for index, a in enumerate(pairs) for b in pairs[:index])
    variance = n * (n - 1) * (2 * n + 5) / 18
    # Scores differ by two, so one is the correction for continuity.
    return 1 - statistics.NormalDist().cdf((score - 1) / math.sqrt(variance))


def _kind_of_one(name: str) -> str:
    """Return the kind of an edit of one constant. WARMDOWN_RATIO is a schedule, although RATIO alone is a size."""
    found = kinds({name})
    first = next((kind for kind in (CODE, "schedule", "batch", "size") if kind in found), None)
    return first or (RATES if same_work({name}) else OTHER)


def _gain(each: Experiment, incumbent: Experiment, direction: Direction) -> float | None:
    """Return the gain that its verdict saw, or that its pruned run was forecast to have; None if it failed, or voided.

    What was voided gained by other means than its edit.
    """
    if each.voided:
        return None
    if each.verdict.evidence is not None:
        return each.verdict.evidence.gain
    value, before = estimate(each), estimate(incumbent)
    return None if value is None or before is None else gain(before, value, direction)


def _of(kind: str, screened: Sequence[Screened]) -> list[Screened]:
    return [each for each in screened if each.kind == kind][-MOST_SCREENED:]


def _pairs(kind: str, screened: Sequence[Screened]) -> list[Pair]:
    """Return (lead, gain) of the candidates of a kind that were measured at both rungs."""
    return [(each.lead, each.gain) for each in _of(kind, screened) if each.gain is not None]


def _within(value: float) -> float:
    return min(max(value, -FARTHEST), FARTHEST)


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _drawn(what: str, seed: int, number: int, share: float) -> bool:
    return random.Random(f"{what} {seed} {number}").random() < share
