"""Estimate how much each constant matters, from the model of the search, with an interval.

The importance of a constant is its total Sobol index: the fraction of the variance of the model's function, over the
values that were tried, that is lost if only this constant stays fixed, alone or together with others (Jansen, Analysis
of variance designs for model output, 1999, equation for the total index). Values are exchanged between experiments, so
that the model is asked near what was measured; this is the model reliance of Fisher, Rudin and Dominici (All Models are
Wrong, but Many are Useful, 2019). The interval comes from functions drawn from the posterior (Marrel et al.,
Calculations of Sobol indices for the Gaussian process metamodel, 2009) of models of random parts of the experiments,
which covers the uncertainty of the length scales and of the exchanges (Le Gratiet et al., A Bayesian approach for
global sensitivity analysis of (multifidelity) computer codes, 2014). Length scales themselves are no measure of
importance: a linear effect has a long one (Paananen et al., Variable selection for Gaussian processes, 2019).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from agent.journal.experiment import Direction, Experiment, Value
from agent.proposers.search.alignment import aligned
from agent.proposers.search.candidates import groups
from agent.proposers.search.space import LARGEST, Dimension, Space
from agent.proposers.search.threads import one_thread
from agent.proposers.search.training_set import training_set

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

# Models, each of a part of the experiments, and functions drawn from each.
REFITS, DRAWS = 12, 20
# Experiments whose constants are exchanged: as many as give this many points, within bounds. Time grows cubically.
ALL_POINTS, FEWEST_BASES, MOST_BASES = 1000, 24, 100
PART = 0.7
MOST_FITTED = 200  # experiments in one model, which takes cubic time
INTERVAL = (5, 95)  # percent
# A lower end below this counts as 0: an index is never negative, so that of a constant without effect is above 0 too.
FLOOR = 0.05
# Fewer experiments than this, or fewer of them with another value of the constant, do not tell.
FEWEST_MEASURED, FEWEST_OTHERS = 10, 3
# A model that predicts less than this fraction of the variance of the experiments that it did not see tells nothing.
LEAST_EXPLAINED = 0.2
WIDEST = 0.6  # of an interval that tells something
MOST_CONSTANTS = 40
LOG_FROM = 10.0  # ratio of the largest to the smallest tried value from which the logarithm is used


@dataclass(frozen=True)
class Importance:
    """A constant and how much it matters.

    Attributes:
        tried: number of different values.
        share: total Sobol index, 0 to 1, the median; None if there are too few experiments to tell.
        low, high: ends of the 90 % interval of `share`; None as `share` is.
    """

    dimension: Dimension
    tried: int
    share: float | None = None
    low: float | None = None
    high: float | None = None


def importances(known: Space | None, history: Sequence[Experiment], direction: Direction) -> list[Importance]:
    """Return every constant that took more than one value, the most important first, at most MOST_CONSTANTS.

    Args:
        known: the space of the search; None if it cannot be read, so that the tried values give the ranges.
        history: all experiments of the session.
        direction: which way the metric is better.
    """
    space = known if known is not None else observed(history)
    history = aligned(space, history)
    values = {d.key: Counter(e.parameters[d.key] for e in history if d.key in e.parameters) for d in space.dimensions}
    varied = sorted((d for d in space.dimensions if len(values[d.key]) > 1), key=lambda d: -len(values[d.key]))
    varied = varied[:MOST_CONSTANTS]
    shares = _shares(space, [d.key for d in varied], history, direction)
    found = []
    for dimension in varied:
        counts = values[dimension.key]
        share = shares.get(dimension.key)
        if share is None or counts.total() - max(counts.values()) < FEWEST_OTHERS or share[2] - share[1] > WIDEST:
            found.append(Importance(dimension, len(counts)))
        else:
            found.append(Importance(dimension, len(counts), *share))
    return sorted(found, key=lambda each: -1.0 if each.share is None else each.share, reverse=True)


def observed(history: Sequence[Experiment]) -> Space:
    """Return a space with the constants that all experiments have, as wide as the values that were tried."""
    names = [name for name in (history[0].parameters if history else {}) if all(name in e.parameters for e in history)]
    return Space({}, {}, tuple(_dimension(name, [e.parameters[name] for e in history]) for name in names))


def _dimension(name: str, values: Sequence[Value]) -> Dimension:
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool) and abs(v) <= LARGEST]
    if len(numbers) < len(values):
        return Dimension(name, "", name, "choice", values[-1], choices=tuple(dict.fromkeys(values)))
    low, high = min(numbers), max(numbers)
    kind: Literal["float", "int"] = "int" if all(isinstance(v, int) for v in numbers) else "float"
    return Dimension(name, "", name, kind, values[-1], low, high, log=low > 0 and high / low >= LOG_FROM)


def _shares(
    space: Space, keys: Sequence[str], history: Sequence[Experiment], direction: Direction
) -> Mapping[str, tuple[float, float, float]]:
    """Return key -> median and interval of its index; empty if the model has too little to learn from, or fails."""
    rows, targets = training_set(space, history, direction)
    if len(rows) < FEWEST_MEASURED or not keys or min(targets) == max(targets):
        return {}
    try:
        drawn = _drawn(space, keys, rows, targets)
    except (ArithmeticError, ValueError):  # odd measurements; LinAlgError is a ValueError
        return {}
    return {key: each for key, each in drawn.items() if all(map(math.isfinite, each))}


@one_thread()
def _drawn(
    space: Space, keys: Sequence[str], rows: Sequence[Sequence[float]], targets: Sequence[float]
) -> dict[str, tuple[float, float, float]]:
    """Return key -> median and interval of its index, over functions of models of parts of the experiments."""
    import numpy as np

    points, wanted, group, random = np.array(rows), np.array(targets), groups(space), np.random.default_rng(0)
    places = {d.key: np.flatnonzero(group == i) for i, d in enumerate(space.dimensions)}
    refits = [_indices(points, wanted, group, [places[key] for key in keys], random) for _ in range(REFITS)]
    if np.median([explained for _, explained in refits]) < LEAST_EXPLAINED:
        return {}
    found = np.concatenate([shares for shares, _ in refits])
    low, middle, high = np.percentile(found, (INTERVAL[0], 50, INTERVAL[1]), axis=0)
    low = np.where(low < FLOOR, 0.0, low)
    return {key: (float(middle[i]), float(low[i]), float(high[i])) for i, key in enumerate(keys)}


def _indices(
    points: Array, wanted: Array, group: Array, places: Sequence[Array], random: np.random.Generator
) -> tuple[Array, float]:
    """Return the indices of all constants in functions of one model of a part of the experiments.

    Returns:
        The indices, of shape (DRAWS, constants), and the fraction of the variance of the other experiments that the
        model predicts; negative if it predicts them worse than the mean does.
    """
    import numpy as np

    from agent.proposers.search.gaussian_process import fit

    # Without replacement: a point that occurs twice with the same value would look like one without noise.
    order, size = random.permutation(len(points)), min(math.ceil(PART * len(points)), MOST_FITTED)
    chosen, others = order[:size], order[size:]
    model = fit(points[chosen], wanted[chosen], group, np.ones(size))
    wrong = (wanted[others] - model.predict(points[others])[0]) ** 2
    explained = 1 - wrong.mean() / max(float(((wanted[others] - wanted[chosen].mean()) ** 2).mean()), 1e-12)
    count = min(max(ALL_POINTS // (len(places) + 1), FEWEST_BASES), MOST_BASES)
    base = random.integers(len(points), size=count)
    moved = [_exchanged(points, base, features, random) for features in places]
    whole = np.concatenate([points[base], *(each for each, _ in moved)])
    different, index = np.unique(whole, axis=0, return_inverse=True)
    drawn = model.draw(different, DRAWS, random)[:, index.ravel()].reshape(DRAWS, len(places) + 1, count)
    weights = np.array([weight for _, weight in moved])
    lost = 0.5 * (weights * (drawn[:, :1] - drawn[:, 1:]) ** 2).mean(axis=2)
    variance = drawn[:, 0].var(axis=1, ddof=1)
    shares: Array = np.minimum(lost / np.maximum(variance, 1e-12)[:, None], 1.0)
    return shares, float(explained)


def _exchanged(points: Array, base: Array, features: Array, random: np.random.Generator) -> tuple[Array, Array]:
    """Return the base points with another experiment's value of one constant, and the weight of each.

    The other experiment is drawn from those with another value, because most have the same; the weight is their
    fraction, so that the mean is that of an exchange with any experiment.
    """
    import numpy as np

    moved, weights = points[base].copy(), np.zeros(len(base))
    for place, row in enumerate(base):
        others = np.flatnonzero((points[:, features] != points[row, features]).any(axis=1))
        if len(others):
            moved[place, features] = points[random.choice(others), features]
            weights[place] = len(others) / len(points)
    return moved, weights
