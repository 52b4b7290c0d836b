"""Draw candidates around the incumbent, and map candidates to points: each constant's range becomes 0..1."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agent.journal.experiment import Value
from agent.proposers.search.space import Dimension, Space

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]
    Indices = np.ndarray[Any, np.dtype[np.int64]]

# How many constants a candidate changes, and by which fraction of the range (standard deviation): drawn from these.
CHANGED = (1, 1, 2, 3)
SPREADS = (0.03, 0.08, 0.2, 0.3)
SMALLEST_SPREAD = 0.03
# Integers change by at least this fraction: the effect of a smaller change is lost in the noise.
SMALLEST_SHARE = 0.02
# A space of at most this many candidates is searched to its end.
MOST_LISTED = 2000
# Distance between two choices, as a fraction of a numeric range.
CHOICE_DISTANCE = 0.6
# How far outside 0..1 a point may lie.
OUTSIDE = 0.5


def draw_candidates(space: Space, rng: random.Random, count: int, reach: float = 1.0) -> list[dict[str, Value]]:
    """Draw up to `count` different changes of the incumbent: one to three constants each, by small and large steps.

    Args:
        reach: factor on the size of the steps.
    """
    found: dict[tuple[tuple[str, Value], ...], dict[str, Value]] = {}
    for _ in range(count):
        spread = max(rng.choice(SPREADS) * reach, SMALLEST_SPREAD)
        chosen = rng.sample(space.dimensions, min(rng.choice(CHANGED), len(space.dimensions)))
        values = {dimension.key: _moved(dimension, rng, spread) for dimension in chosen}
        found[tuple(sorted(values.items()))] = values
    return list(found.values())


def remaining(space: Space, rng: random.Random, count: int) -> Iterator[dict[str, Value]]:
    """Yield candidates from the whole space, whatever their distance: each once in random order if it is small.

    Args:
        count: how many to draw from a larger space.
    """
    sizes = [_size(dimension) for dimension in space.dimensions]
    total = 1.0
    for size in sizes:
        total *= min(size, 2 * MOST_LISTED)  # the product of large integers is too large for a float
    if total > MOST_LISTED:
        for _ in range(count):
            yield {d.key: _anywhere(d, rng) for d in space.dimensions}
        return
    for number in rng.sample(range(int(total)), int(total)):
        rest, values = number, dict[str, Value]()
        for dimension, size in zip(space.dimensions, sizes, strict=True):
            rest, index = divmod(rest, int(size))
            values[dimension.key] = _numbered(dimension, index)
        yield values


def _size(dimension: Dimension) -> float:
    """Return how many values a constant may take; infinite for a float, unless its range is a single value."""
    if dimension.kind == "choice":
        return len(dimension.choices)
    outside = dimension.start != dimension.value  # the present value then is one more
    if dimension.kind == "power":
        return int(math.log2(dimension.high)) - math.ceil(math.log2(max(dimension.low, 1))) + 1 + outside
    if dimension.kind == "int":
        return int(dimension.high) - int(dimension.low) + 1 + outside
    return 1 if dimension.low == dimension.high else math.inf


def _numbered(dimension: Dimension, index: int) -> Value:
    """Return the value of a constant at a place in the order of all its values."""
    if dimension.kind == "choice":
        return dimension.choices[index]
    if dimension.kind == "float":
        return dimension.value
    power = dimension.kind == "power"
    value = int(2 ** (math.ceil(math.log2(max(dimension.low, 1))) + index)) if power else int(dimension.low) + index
    return value if value <= dimension.high else dimension.value


def _anywhere(dimension: Dimension, rng: random.Random) -> Value:
    """Return any value of a constant, uniform on the scale on which it is searched."""
    if dimension.kind == "choice":
        return rng.choice(dimension.choices)
    drawn = rng.uniform(scaled(dimension, dimension.low), scaled(dimension, dimension.high))
    return dimension.rounded(unscaled(dimension, drawn))


def groups(space: Space) -> Indices:
    """Return the index of the constant of each feature: a number has one feature, a choice has one for each value."""
    import numpy as np

    return np.repeat(np.arange(len(space.dimensions)), [len(d.choices) or 1 for d in space.dimensions])


def point(space: Space, values: Mapping[str, Value]) -> list[float]:
    """Return the features of a candidate.

    Args:
        values: key -> value of every constant of the space.

    Raises:
        KeyError: a constant is missing.
        TypeError: a value does not have the type of its constant.
    """
    return [feature for d in space.dimensions for feature in _features(d, values[d.key])]


def points(space: Space, candidates: Sequence[Mapping[str, Value]]) -> Array:
    """Return the points of changes of the incumbent.

    Args:
        candidates: the changed constants of each candidate.

    Returns:
        An array of shape (candidates, features).
    """
    import numpy as np

    starts = dict(zip((d.key for d in space.dimensions), np.unique(groups(space), return_index=True)[1], strict=True))
    found = np.tile(np.array(point(space, space.values())), (len(candidates), 1))
    by_key = {d.key: d for d in space.dimensions}
    for row, changes in zip(found, candidates, strict=True):
        for key, value in changes.items():
            features = _features(by_key[key], value)
            row[starts[key] : starts[key] + len(features)] = features
    return found


def _features(dimension: Dimension, value: Value) -> list[float]:
    if dimension.kind == "choice":
        return [CHOICE_DISTANCE * math.sqrt(0.5) * (value == choice) for choice in dimension.choices]
    if not isinstance(value, int | float):
        raise TypeError(dimension.key)
    return [min(max(_unit(dimension, value), -OUTSIDE), 1 + OUTSIDE)]


def _moved(dimension: Dimension, rng: random.Random, spread: float) -> Value:
    value = dimension.value
    if dimension.kind == "choice":
        return rng.choice(dimension.choices)
    assert isinstance(value, int | float)
    low, high = scaled(dimension, dimension.low), scaled(dimension, dimension.high)
    moved = scaled(dimension, dimension.start) + rng.gauss(0, spread) * (high - low)
    moved = min(max(moved, low), high)
    new = dimension.rounded(unscaled(dimension, moved))
    if dimension.kind != "float" and abs(_number(new) - value) < max(SMALLEST_SHARE * abs(value), 0.5):
        # Rounding lost the change: take the smallest step.
        direction = rng.choice((-1, 1))
        step = max(1.0, SMALLEST_SHARE * abs(value))
        start = dimension.start
        return dimension.rounded(start * 2.0**direction if dimension.kind == "power" else start + direction * step)
    return new


def _number(value: Value) -> float:
    assert isinstance(value, int | float)
    return value


def _unit(dimension: Dimension, value: float) -> float:
    low, high = scaled(dimension, dimension.low), scaled(dimension, dimension.high)
    return (scaled(dimension, value) - low) / ((high - low) or 1.0)


def scaled(dimension: Dimension, value: float) -> float:
    """Return a number on the scale on which its constant is searched.

    Rates whose range begins at zero have a square root: 0.01 differs from zero by more than 0.21 from 0.2.
    """
    if is_root(dimension):
        return math.sqrt(max(value, 0.0))
    if not _is_log(dimension):
        return value
    return math.log(max(value, sys.float_info.min))  # a value outside the range may be zero or less


def unscaled(dimension: Dimension, value: float) -> float:
    """Return the number that `scaled` maps to a value, which is zero or more on a scale of roots."""
    if is_root(dimension):
        return max(value, 0.0) ** 2
    return math.exp(value) if _is_log(dimension) else value


def is_root(dimension: Dimension) -> bool:
    """Return whether a constant is searched on a scale of square roots."""
    return dimension.kind == "float" and dimension.low == 0 and not dimension.log


def _is_log(dimension: Dimension) -> bool:
    return dimension.kind == "power" or dimension.log
