"""What the runs of a claim show: means, gain and interval, computed in the same way by author and reader."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from agent.claim.models import ClaimedRun, Confirmation, Means, Shown, Sides
from agent.decision.difference import Difference, by_seed, difference, mean
from agent.format import figure
from agent.journal.experiment import Direction


def confirmation_of(runs: Sides, direction: Direction) -> Confirmation | None:
    """Return what these runs alone show; None if they do not show a gain.

    A side with one seed says nothing about the noise, so it shows nothing.
    """
    found = _compared(runs, lambda run: run.metric, direction)
    if found is None or not found[0].low > 0:
        return None
    holdout = _compared(runs, lambda run: run.holdout, direction)
    if holdout is not None and not holdout[0].low > 0:
        return None
    return Confirmation(
        **dict(shown(*found)),
        noise=found[0].noise,
        verdict="confirmed",
        holdout=None if holdout is None else shown(*holdout),
    )


def shown(found: Difference, means: Means) -> Shown:
    return Shown(means=means, gain=found.gain, low=found.low, high=found.high)


def _compared(
    runs: Sides, value: Callable[[ClaimedRun], float | None], direction: Direction
) -> tuple[Difference, Means] | None:
    """Return the difference of a value of the runs; None if one lacks it, or a side has fewer than two seeds."""
    sides = [[(run.seed, value(run)) for run in side] for side in (runs.a, runs.b)]
    known = [[(seed, each) for seed, each in side if each is not None] for side in sides]
    if known != sides:
        return None
    a, b = (by_seed(side) for side in known)
    if min(len(a), len(b)) < 2:
        return None
    return difference(a, b, direction), Means(a=mean(a), b=mean(b))


def in_words(gain: float, low: float, high: float, baseline: float) -> str:
    """Describe a gain: `0.8 % better, 95 % interval 0.6 to 1.0 %`."""
    if not baseline:
        return f"{figure(abs(gain))} {_word(gain)}, 95 % interval {figure(low)} to {figure(high)}"
    share = [100 * value / abs(baseline) for value in (gain, low, high)]
    decimals = _decimals(share)
    by, least, most = (f"{value:.{decimals}f}" for value in (abs(share[0]), *share[1:]))
    return f"{by} % {_word(gain)}, 95 % interval {least} to {most} %"


def _word(gain: float) -> str:
    return "worse" if gain < 0 else "better"


def _decimals(share: Sequence[float]) -> int:
    """Return the decimals that show a digit of the smaller of the gain and half of its interval."""
    sizes = [size for size in (abs(share[0]), (share[2] - share[1]) / 2) if size > 0 and math.isfinite(size)]
    return 1 if not sizes else min(6, max(1, -math.floor(math.log10(min(sizes)))))


def same(one: Mapping[str, object], other: Mapping[str, object]) -> bool:
    """Return whether two sets of figures agree, up to the rounding of another machine's arithmetic."""
    return all(_same(one[name], other.get(name)) for name in one) and one.keys() == other.keys()


def _same(one: object, other: object) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return same(one, other)
    if isinstance(one, float | int) and isinstance(other, float | int):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
    return one == other
