"""Step from the incumbent by rules of thumb: one constant at a time, those first that mattered elsewhere."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from agent.journal.experiment import Experiment, Value
from agent.proposers.base import Context
from agent.proposers.search.candidates import draw_candidates, is_root, remaining, scaled, unscaled
from agent.proposers.search.space import Dimension, Space
from agent.proposers.search.training_set import value_of

# On slow machines most of the gain comes from more steps, by smaller batches and shallower models; then from size, then
# from rates. Untried constants are weighted in this order, each rank by RANK_FACTOR less than the one before. Constants
# that only split a step into micro-steps come last.
PRIORITIES = ("BATCH|DEPTH|LAYER", "WIDTH|DIM|ASPECT|HIDDEN|MLP|EXPAN|FFN", "LR$|LEARNING|RATE$", "")
FIRST_WEIGHT, RANK_FACTOR = 3.0, 0.3
LAST = "DEVICE|MICRO|ACCUM"
# In the first two ranks smaller values are preferred: they make more steps in a fixed time.
SMALLER_RANKS, LARGER_FACTOR = 2, 0.4
ATTEMPTS = 300
SMALLEST_STEP, LARGEST_STEP = 1.3, 2.0
# An integer below COUNTED moves by one, a larger one by a fraction of itself; a float by a fraction of its range.
COUNTED = 32
SMALLEST_SHARE, LARGEST_SHARE = 0.08, 0.25
# The same on a scale of roots: from zero to 2 % of the range at least, since less would be lost in the noise.
SMALLEST_ROOT, LARGEST_ROOT = 0.15, 0.4
# The weight of a kept move, and the fraction of its first weight that a move retains after a discard and after a crash:
# on a noisy machine, one bad measurement must not rule out the most promising move.
KEPT, RETRY_FAILED, RETRY_CRASHED = 4.0, 0.5, 0.1


@dataclass(frozen=True)
class Move:
    """A change of one constant.

    Attributes:
        direction: +1 or -1; 0 for a choice.
    """

    key: str
    direction: int


def steps(space: Space, context: Context, rng: random.Random) -> Iterator[tuple[dict[str, Value], str]]:
    """Yield steps by rules of thumb, then random draws, then any candidates, with a reason.

    The preferences weaken with each attempt, so that an almost exhausted space still yields new candidates.
    """
    lessons = _lessons(space, context.history, context.incumbent)
    for each in context.flight:
        for move in _moves(space, context.incumbent.parameters, each.parameters):
            lessons[move] *= RETRY_FAILED
    for attempt in range(ATTEMPTS):
        yield _local(space, lessons, rng, attempt / ATTEMPTS)
    for values in draw_candidates(space, rng, ATTEMPTS):
        yield values, "random draw, because the usual steps are used up"
    for values in remaining(space, rng, ATTEMPTS):
        yield values, "any candidate of the space, because near ones are used up"


def _local(
    space: Space, lessons: Mapping[Move, float], rng: random.Random, loose: float
) -> tuple[dict[str, Value], str]:
    """Return one constant moved by a moderate step from the incumbent's value, with a reason.

    Args:
        lessons: weight of each move.
        loose: 0 to 1; larger values even out the weights, and move two or three constants more often.
    """
    count = rng.choices((1, 2, 3), (1 - 0.7 * loose, 0.4 * loose, 0.3 * loose))[0]
    values: dict[str, Value] = {}
    reasons = []
    for _ in range(min(count, len(space.dimensions))):
        move = rng.choices(list(lessons), [weight + loose for weight in lessons.values()])[0]
        dimension = next(d for d in space.dimensions if d.key == move.key)
        values[move.key] = moved(dimension, move.direction, rng)
        label = space.label(dimension)
        reasons.append(f"{label} (kept before)" if lessons[move] >= KEPT else label)
        if re.search(PRIORITIES[0], dimension.name):
            values = allowed(space, values, rng)
    return values, f"step from the incumbent: {', '.join(reasons)}"


def allowed(space: Space, values: dict[str, Value], rng: random.Random) -> dict[str, Value]:
    """Return `values`, moving one more constant if only that satisfies the asserts, such as the micro-batch size."""
    if not space.refuses(values):
        return values
    for dimension in space.dimensions:
        if dimension.key not in values and re.search("|".join(PRIORITIES[:SMALLER_RANKS]), dimension.name):
            for value in _neighbors(dimension, rng):
                if not space.refuses({**values, dimension.key: value}):
                    return {dimension.key: value, **values}
    return values


def _neighbors(dimension: Dimension, rng: random.Random) -> list[Value]:
    """Return the neighbors of the current value: the nearest choices first, or smaller before larger."""
    if dimension.kind != "choice":
        return [moved(dimension, direction, rng) for direction in (-1, 1)]
    place = dimension.choices.index(dimension.value)
    others = [index for index in range(len(dimension.choices)) if index != place]
    return [dimension.choices[index] for index in sorted(others, key=lambda index: abs(index - place))]


def _unknown(dimension: Dimension, direction: int) -> float:
    """Return the weight of an untried move: the earlier its constant matches in PRIORITIES, the larger."""
    rank = next(i for i, words in enumerate(PRIORITIES) if re.search(words, dimension.name))
    if re.search(LAST, dimension.name):
        rank = len(PRIORITIES)
    larger = direction > 0 and rank < SMALLER_RANKS
    return FIRST_WEIGHT * RANK_FACTOR**rank * (LARGER_FACTOR if larger else 1.0)


def moved(dimension: Dimension, direction: int, rng: random.Random) -> Value:
    """Return another value of a constant: a moderate step up (1) or down (-1), or another choice."""
    if dimension.kind == "choice":
        return rng.choice([choice for choice in dimension.choices if choice != dimension.value] or [dimension.value])
    value = dimension.start
    if dimension.kind == "power":
        return dimension.rounded(value * 2.0**direction)
    factor = rng.uniform(SMALLEST_STEP, LARGEST_STEP) ** direction
    if dimension.kind == "int":
        if dimension.log:
            step = dimension.rounded(value * factor)
        else:
            step = dimension.rounded(value + direction * _stride(value, rng))
        return step if step != value else dimension.rounded(value + direction)
    if dimension.log:
        return dimension.rounded(value * factor)
    low, high = scaled(dimension, dimension.low), scaled(dimension, dimension.high)
    share = rng.uniform(*((SMALLEST_ROOT, LARGEST_ROOT) if is_root(dimension) else (SMALLEST_SHARE, LARGEST_SHARE)))
    return dimension.rounded(unscaled(dimension, scaled(dimension, value) + direction * share * (high - low)))


def _stride(value: float, rng: random.Random) -> float:
    """Return how far an integer without `log` moves: small ones by one, large ones by a fraction of themselves."""
    return 1 if abs(value) < COUNTED else abs(value) * rng.uniform(SMALLEST_SHARE, LARGEST_SHARE)


def _lessons(space: Space, history: Sequence[Experiment], incumbent: Experiment) -> dict[Move, float]:
    """Return the weights of all moves: high for moves that were kept, low for those that failed from this incumbent."""
    unknown = {
        Move(dimension.key, direction): _unknown(dimension, direction)
        for dimension in space.dimensions
        for direction in ((0,) if dimension.kind == "choice" else (1, -1))
    }
    weights, crashed = dict(unknown), Counter[Move]()
    best = history[0] if history else incumbent
    for experiment in history[1:]:
        if experiment.ended_by_fault:
            continue
        for move in _moves(space, best.parameters, experiment.parameters):
            if value_of(experiment) is None:
                crashed[move] += 1
                weights[move] = unknown[move] * RETRY_CRASHED / crashed[move]
            elif experiment.kept:
                back = Move(move.key, -move.direction)
                weights |= {back: unknown[back] * RETRY_FAILED, move: KEPT}
            else:
                weights[move] = min(weights[move], unknown[move]) * RETRY_FAILED
        if experiment.kept:
            best = experiment
            # What failed from the old incumbent may succeed from the new one.
            for move in unknown.keys() - crashed.keys():
                weights[move] = max(weights[move], unknown[move] * RETRY_FAILED)
    return weights


def _moves(space: Space, before: Mapping[str, Value], after: Mapping[str, Value]) -> list[Move]:
    """Return the moves from `before` to `after`.

    Constants that only split a step into micro-steps do not count if another constant moved as well.
    """
    moves = []
    for dimension in space.dimensions:
        a, b = before.get(dimension.key), after.get(dimension.key)
        if dimension.kind == "choice" and None not in (a, b) and a != b:
            moves.append(Move(dimension.key, 0))
        elif isinstance(a, int | float) and isinstance(b, int | float) and a != b:
            moves.append(Move(dimension.key, 1 if b > a else -1))
    return [move for move in moves if len(moves) == 1 or not re.search(LAST, move.key)]
