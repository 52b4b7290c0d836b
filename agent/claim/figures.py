"""What the runs of a claim show: means, gain and interval, computed in the same way by author and reader."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from agent.claim.models import Confirmation, Means, Shown, Sides
from agent.decision.difference import Difference, by_seed, difference
from agent.format import figure
from agent.journal.experiment import Direction, mean

Values = Sequence[tuple[int | None, float]]  # the seed of a run, and a value of it


def confirmation_of(runs: Sides, direction: Direction, looks: int = 0) -> Confirmation | None:
    """Return what these runs alone show; None if they do not show a gain.

    A side with one seed says nothing about the noise, so it shows nothing. If a run was scored on the holdout, the
    gain must show there as well, by the seeds that were scored on both sides.

    Args:
        looks: how often the two commits were compared before, with fewer runs.
    """
    a, b = ([(run.seed, run.metric) for run in side] for side in (runs.a, runs.b))
    found = _compared(a, b, direction, looks)
    if found is None or not found[0].low > 0:
        return None
    holdout = _compared(*_scored(runs), direction, looks)
    if is_scored(runs) and (holdout is None or not holdout[0].low > 0):
        return None
    return Confirmation(
        **dict(shown(*found)),
        noise=found[0].noise,
        verdict="confirmed",
        holdout=None if holdout is None else shown(*holdout),
    )


def shown(found: Difference, means: Means) -> Shown:
    return Shown(means=means, gain=found.gain, low=found.low, high=found.high)


def is_scored(runs: Sides) -> bool:
    """Return whether any run was scored on the holdout."""
    return any(run.holdout is not None for run in (*runs.a, *runs.b))


def _scored(runs: Sides) -> tuple[Values, Values]:
    """Return the values on the holdout of both sides, of the seeds that have one on both."""
    a, b = ([(run.seed, run.holdout) for run in side if run.holdout is not None] for side in (runs.a, runs.b))
    both = {seed for seed, _ in a} & {seed for seed, _ in b}
    return [each for each in a if each[0] in both], [each for each in b if each[0] in both]


def _compared(a: Values, b: Values, direction: Direction, looks: int) -> tuple[Difference, Means] | None:
    """Return the difference of values of both sides; None if a side has fewer than two seeds."""
    one, other = by_seed(a), by_seed(b)
    if min(len(one), len(other)) < 2:
        return None
    return difference(one, other, direction, looks=looks), Means(a=mean(one), b=mean(other))


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
    """Return whether two sets of figures agree, up to the rounding of another machine's arithmetic.

    The rounding of a difference has the size of the means, if they are among the figures.
    """
    means = one.get("means")
    sizes = [abs(mean) for mean in means.values()] if isinstance(means, dict) else []
    least = 1e-12 * max(sizes, default=0.0)
    return one.keys() == other.keys() and all(_same(one[name], other[name], least) for name in one)


def _same(one: object, other: object, least: float) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return same(one, other)
    if isinstance(one, float | int) and isinstance(other, float | int):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=least)
    return one == other
