"""The built-in proposer: first steps by rules of thumb, then what a model of all measurements expects most of.

Nothing is stored: what it knows is the session's history, and what it draws depends only on the seed, the number of
the experiment and that history.
"""

from __future__ import annotations

import contextlib
import math
import random
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from agent.decision.estimate import estimate
from agent.errors import AutoresearchError, fault
from agent.journal.experiment import Direction, Experiment, Proposal, Value, digest
from agent.proposers.base import Context, Exhausted
from agent.proposers.search.candidates import draw_candidates, groups, point, points
from agent.proposers.search.space import Dimension, Space, space_of, why_nothing

# Where the gain is on slow machines: more steps, by smaller batches and shallower models, then size, then rates.
# Constants never tried go in this order, each rank by this factor less often, and last what changes only how a step is
# cut up.
PRIORITIES = ("BATCH|DEPTH|LAYER", "WIDTH|DIM|ASPECT|HIDDEN|MLP|EXPAN|FFN", "LR$|LEARNING|RATE$", "")
FIRST_WEIGHT, RANK_FACTOR = 3.0, 0.3
LAST = "DEVICE|MICRO|ACCUM"
# Of the first two ranks the smaller value goes first: in a fixed time it makes more steps.
SMALLER_RANKS, LARGER_FACTOR = 2, 0.4
ATTEMPTS = 300
# The model takes over after so many experiments, with at least so many values to learn from.
FIRST_STEPS, FEWEST = 8, 4
# Candidates that are compared by the model, and how many of the best are tried for being new and allowed.
POOL, SHORTLIST = 400, 40
# With nothing kept for longer than this its steps get shorter, each time by this factor.
PATIENCE, SHRINK = 4, 0.93
FARTHEST = 3.0
SMALLEST_STEP, LARGEST_STEP = 1.3, 2.0
# An integer below this counts one by one; a larger one moves by a share of itself.
COUNTED = 32
SMALLEST_SHARE, LARGEST_SHARE = 0.08, 0.25
# The weight of what was kept, and the shares of its first weight that a failure and a crash leave to a move: on a noisy
# machine one bad measurement does not bury the most promising move.
KEPT, RETRY_FAILED, RETRY_CRASHED = 4.0, 0.5, 0.1


@dataclass(frozen=True)
class Move:
    """A change of one constant: its direction is +1 or -1, or 0 for a choice."""

    key: str
    direction: int


class SearchProposer:
    """Asks and tells; see the module."""

    name = "search"

    def tell(self, experiment: Experiment) -> None:
        """Nothing: the history comes with each question."""

    def repair(self, context: Context, error: str, attempt: int) -> Proposal | None:  # noqa: ARG002
        """None: values that crash are a lesson, not something to mend."""
        return None

    def ask(self, context: Context) -> Proposal:
        """Raises Exhausted where no constants can be searched, or all that can be drawn has been tried.

        So it does where it fails itself: then a model proposes, or the session ends with a sentence.
        """
        try:
            return self._ask(context)
        except (Exhausted, AutoresearchError):
            raise
        except Exception as error:
            raise Exhausted(f"the search failed in a way that nobody expected: {fault(error)}") from error

    def _ask(self, context: Context) -> Proposal:
        space = space_of(context.files, context.constants)
        if (nothing := why_nothing(context.files, context.constants)) is not None:
            raise Exhausted(nothing)
        seen = {experiment.digest for experiment in context.history}
        rng = random.Random(f"{context.seed}:{context.number}")
        for values, why in chain(_until_it_fails(_expected(space, context, rng)), _steps(space, context, rng)):
            texts = space.apply(values)
            if texts and digest({**context.files, **texts}) not in seen and not space.refuses(values):
                return Proposal(texts, _describe(space, values), why, {**space.values(), **values})
        raise Exhausted(
            f"the search found nothing new in {2 * ATTEMPTS} draws: widen the ranges, or start another --tag"
        )


def _expected(space: Space, context: Context, rng: random.Random) -> Iterator[tuple[dict[str, Value], str]]:
    """The candidates around the incumbent of which a model of all that was measured expects most, the best first."""
    if context.number <= FIRST_STEPS:
        return
    import numpy as np

    from agent.proposers.search.gaussian_process import fit, improvement

    rows, values = _measured(space, context.history, context.direction)
    if sum(value is not None for value in values) < FEWEST:
        return
    known, targets = np.array(rows), np.array(_targets(values))
    model = fit(known, targets, groups(space))
    best = float(model.predict(known)[0][[value is not None for value in values]].min())
    fruitless = context.number - context.incumbent.number - PATIENCE
    candidates = draw_candidates(space, rng, POOL, SHRINK ** max(0, fruitless))
    expected = improvement(model, points(space, candidates), best)
    for index in np.argsort(-expected, kind="stable")[:SHORTLIST]:
        yield candidates[index], f"expected improvement by a model of {len(values)} experiments"


def _until_it_fails(candidates: Iterator[tuple[dict[str, Value], str]]) -> Iterator[tuple[dict[str, Value], str]]:
    """No numbers that were measured, however odd, end the search: without its model it goes on by rules of thumb."""
    with contextlib.suppress(
        ArithmeticError, ValueError, LookupError, TypeError, MemoryError
    ):  # LinAlgError is the 2nd
        yield from candidates


def _steps(space: Space, context: Context, rng: random.Random) -> Iterator[tuple[dict[str, Value], str]]:
    """Steps by rules of thumb, then anything. A space that is nearly used up gives up its favourites step by step."""
    lessons = _lessons(space, context.history, context.incumbent)
    for attempt in range(ATTEMPTS):
        yield _local(space, lessons, rng, attempt / ATTEMPTS)
    for values in draw_candidates(space, rng, ATTEMPTS):
        yield values, "a draw: the usual steps are used up"


def _measured(
    space: Space, history: Sequence[Experiment], direction: Direction
) -> tuple[list[list[float]], list[float | None]]:
    """Points and their values, smaller is better, None for a failure. What lacks a constant of today is left out."""
    rows, values = [], []
    for experiment in history:
        if _is_unknown(experiment):
            continue
        try:
            rows.append(point(space, experiment.parameters))
        except (KeyError, TypeError):
            continue
        value = _value(experiment)
        values.append(value if value is None or direction == "minimize" else -value)
    return rows, values


def _targets(values: Sequence[float | None]) -> list[float]:
    """What the model learns: the distance to the best in units of the usual one, its logarithm beyond, and a limit.

    So a metric of 9 among 1.1 hides nothing. A failure is as bad as the worst.
    """
    known = [value for value in values if value is not None]
    best = min(known)
    usual = statistics.median(value - best for value in known) or max(known) - best or 1.0
    scaled = [None if value is None else (value - best) / usual for value in values]
    bent = [None if z is None else min(z if z <= 1 else 1 + math.log(z), FARTHEST) for z in scaled]
    worst = max(1.0, *(z for z in bent if z is not None))
    return [worst if z is None else z for z in bent]


def _value(experiment: Experiment) -> float | None:
    """What was measured, of a pruned run what it would have come to; None where there is nothing to learn from.

    The one place where a metric is read.
    """
    metric = estimate(experiment)
    return metric if metric is not None and math.isfinite(metric) else None


def _is_unknown(experiment: Experiment) -> bool:
    """Whether only the machine failed in it, so that it teaches nothing."""
    return bool(experiment.runs) and experiment.runs[-1].fault != ""


def _local(
    space: Space, lessons: Mapping[Move, float], rng: random.Random, loose: float
) -> tuple[dict[str, Value], str]:
    """One constant moved by a moderate step from where the incumbent has it, two or three when those are used up."""
    count = rng.choices((1, 2, 3), (1 - 0.7 * loose, 0.4 * loose, 0.3 * loose))[0]
    values: dict[str, Value] = {}
    reasons = []
    for _ in range(min(count, len(space.dimensions))):
        move = rng.choices(list(lessons), [weight + loose for weight in lessons.values()])[0]
        dimension = next(d for d in space.dimensions if d.key == move.key)
        values[move.key] = _moved(dimension, move.direction, rng)
        reasons.append(f"{dimension.name} {'went well' if lessons[move] >= KEPT else 'is tried'}")
        if re.search(PRIORITIES[0], dimension.name):
            values = _allowed(space, values, rng)
    return values, f"a step from the incumbent: {', '.join(reasons)}"


def _allowed(space: Space, values: dict[str, Value], rng: random.Random) -> dict[str, Value]:
    """With one more constant moved where only that makes them possible: the micro-step with a batch, say."""
    if not space.refuses(values):
        return values
    for dimension in space.dimensions:
        if dimension.key not in values and re.search("|".join(PRIORITIES[:SMALLER_RANKS]), dimension.name):
            for value in _beside(dimension, rng):
                if not space.refuses({**values, dimension.key: value}):
                    return {dimension.key: value, **values}
    return values


def _beside(dimension: Dimension, rng: random.Random) -> list[Value]:
    """Its neighbours, the nearest choices first, smaller before larger."""
    if dimension.kind != "choice":
        return [_moved(dimension, direction, rng) for direction in (-1, 1)]
    place = dimension.choices.index(dimension.value)
    others = [index for index in range(len(dimension.choices)) if index != place]
    return [dimension.choices[index] for index in sorted(others, key=lambda index: abs(index - place))]


def _unknown(dimension: Dimension, direction: int) -> float:
    """The weight of a move never made: the earlier its kind of constant stands in PRIORITIES, the larger."""
    rank = next(i for i, words in enumerate(PRIORITIES) if re.search(words, dimension.name))
    if re.search(LAST, dimension.name):
        rank = len(PRIORITIES)
    larger = direction > 0 and rank < SMALLER_RANKS
    return FIRST_WEIGHT * RANK_FACTOR**rank * (LARGER_FACTOR if larger else 1.0)


def _moved(dimension: Dimension, direction: int, rng: random.Random) -> Value:
    if dimension.kind == "choice":
        return rng.choice([choice for choice in dimension.choices if choice != dimension.value] or [dimension.value])
    value = dimension.value
    assert isinstance(value, int | float)
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
    return dimension.rounded(value + direction * rng.uniform(0.08, 0.25) * (dimension.high - dimension.low))


def _stride(value: float, rng: random.Random) -> float:
    """How far an integer without `log` moves: small ones count one by one, of large ones one more is no change."""
    return 1 if abs(value) < COUNTED else abs(value) * rng.uniform(SMALLEST_SHARE, LARGEST_SHARE)


def _lessons(space: Space, history: Sequence[Experiment], incumbent: Experiment) -> dict[Move, float]:
    """The weights of all moves: repeat what was kept last, less often what failed from this very incumbent."""
    unknown = {
        Move(dimension.key, direction): _unknown(dimension, direction)
        for dimension in space.dimensions
        for direction in ((0,) if dimension.kind == "choice" else (1, -1))
    }
    weights, crashed = dict(unknown), Counter[Move]()
    best = history[0] if history else incumbent
    for experiment in history[1:]:
        kept = experiment.verdict.status == "keep"
        if _is_unknown(experiment):
            continue
        for move in _moves(space, best.parameters, experiment.parameters):
            if _value(experiment) is None:
                crashed[move] += 1
                weights[move] = unknown[move] * RETRY_CRASHED / crashed[move]
            elif kept:
                back = Move(move.key, -move.direction)
                weights |= {back: unknown[back] * RETRY_FAILED, move: KEPT}
            else:
                weights[move] = min(weights[move], unknown[move]) * RETRY_FAILED
        if kept:
            best = experiment
            # From a new incumbent, what failed from the old one may be tried again.
            for move in unknown.keys() - crashed.keys():
                weights[move] = max(weights[move], unknown[move] * RETRY_FAILED)
    return weights


def _moves(space: Space, before: Mapping[str, Value], after: Mapping[str, Value]) -> list[Move]:
    """What only cuts a step up is no move of its own where it went along with another."""
    moves = []
    for dimension in space.dimensions:
        a, b = before.get(dimension.key), after.get(dimension.key)
        if dimension.kind == "choice" and None not in (a, b) and a != b:
            moves.append(Move(dimension.key, 0))
        elif isinstance(a, int | float) and isinstance(b, int | float) and a != b:
            moves.append(Move(dimension.key, 1 if b > a else -1))
    return [move for move in moves if len(moves) == 1 or not re.search(LAST, move.key)]


def _describe(space: Space, values: Mapping[str, Value]) -> str:
    """`MATRIX_LR 0.04 -> 0.028`, at most three of them."""
    changes = [
        f"{d.name} {_show(d.value)} -> {_show(values[d.key])}"
        for d in space.dimensions
        if d.key in values and values[d.key] != d.value
    ]
    return ", ".join(changes[:3]) + (f", +{len(changes) - 3} more" if len(changes) > 3 else "")


def _show(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
