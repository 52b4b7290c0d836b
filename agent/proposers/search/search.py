"""Propose values of the constants: first steps by rules of thumb, then by the expected improvement of a model.

The search stores nothing: its proposals depend only on the seed, the number of the experiment, the history, the
experiments of other sessions that this one learns from, and the playbook.
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
from agent.proposers.earlier import Earlier
from agent.proposers.search import near_misses, parallel, transfer, turns
from agent.proposers.search.candidates import draw_candidates, groups, point, points
from agent.proposers.search.space import NAME_CONSTANTS, Dimension, Space, space_of, why_nothing

# On slow machines most of the gain comes from more steps, by smaller batches and shallower models; then from size, then
# from rates. Untried constants are weighted in this order, each rank by RANK_FACTOR less than the one before. Constants
# that only split a step into micro-steps come last.
PRIORITIES = ("BATCH|DEPTH|LAYER", "WIDTH|DIM|ASPECT|HIDDEN|MLP|EXPAN|FFN", "LR$|LEARNING|RATE$", "")
FIRST_WEIGHT, RANK_FACTOR = 3.0, 0.3
LAST = "DEVICE|MICRO|ACCUM"
# In the first two ranks smaller values are preferred: they make more steps in a fixed time.
SMALLER_RANKS, LARGER_FACTOR = 2, 0.4
ATTEMPTS = 300
# The model takes over after FIRST_STEPS experiments, if it has at least FEWEST values to learn from.
FIRST_STEPS, FEWEST = 8, 4
# Candidates that the model compares, and how many of the best are checked for being new and valid.
POOL, SHORTLIST = 400, 40
# After PATIENCE experiments without a keep, the model's steps shrink by this factor with each further experiment.
PATIENCE, SHRINK = 4, 0.93
FARTHEST = 3.0  # limit of the targets that the model learns
SMALLEST_STEP, LARGEST_STEP = 1.3, 2.0
# An integer below this moves by one; a larger one by a fraction of itself.
COUNTED = 32
SMALLEST_SHARE, LARGEST_SHARE = 0.08, 0.25
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


class SearchProposer:
    """The built-in search; see the module docstring."""

    name = "search"

    def tell(self, experiment: Experiment) -> None:
        """Do nothing: each `ask` comes with the history."""

    def repair(self, context: Context, error: str, attempt: int) -> Proposal | None:  # noqa: ARG002
        """Return None: the search learns from values that crash instead of repairing them."""
        return None

    def ask(self, context: Context) -> Proposal:
        """Return a candidate with other values of the constants.

        Raises:
            Exhausted: no constant can be searched, everything drawn was tried before, or the search itself failed, so
                that a model proposes, or the session ends with a reason.
        """
        try:
            return self._ask(context)
        except (Exhausted, AutoresearchError):
            raise
        except Exception as error:
            raise Exhausted(f"the search failed unexpectedly: {fault(error)}") from error

    def _ask(self, context: Context) -> Proposal:
        seen = {each.digest for each in context.history} | {each.digest for each in context.flight}
        for proposal in near_misses.proposals(context):
            if digest({**context.files, **proposal.files}) not in seen:
                return proposal
        space = space_of(context.files, context.constants)
        if (nothing := why_nothing(context.files, context.constants)) is not None:
            raise Exhausted(f"{nothing}; {NAME_CONSTANTS}")
        rng = random.Random(f"{context.seed}:{context.number}")
        earlier = transfer.on_this_scale(context.earlier, context.history)
        seen |= transfer.beaten(earlier, _value(context.incumbent), context.direction)
        failed = transfer.failed(space, earlier)
        for values, why in chain(
            _kept_elsewhere(space, context, earlier),
            turns.of_playbook(space, context),
            _until_it_fails(_expected(space, context, earlier, rng)),
            _steps(space, context, rng),
        ):
            texts, whole = space.apply(values), {**space.values(), **values}
            if tuple(whole[dimension.key] for dimension in space.dimensions) in failed:
                continue
            if texts and digest({**context.files, **texts}) not in seen and not space.refuses(values):
                return Proposal(texts, _describe(space, values), why, whole, playbook=turns.title_of(why))
        raise Exhausted(
            f"the search found no new candidate in {2 * ATTEMPTS} draws; widen the ranges, or start another session "
            "with --tag"
        )


def _kept_elsewhere(
    space: Space, context: Context, earlier: Sequence[Earlier]
) -> Iterator[tuple[dict[str, Value], str]]:
    """Yield the best candidates of other sessions that are better than the incumbent, each once, with a reason."""
    known = [each.parameters for each in context.history] + [each.parameters for each in context.flight]
    tried = [{d.key: parameters.get(d.key) for d in space.dimensions} for parameters in known]
    for values, each in transfer.wins(space, earlier, _value(context.incumbent), context.direction):
        if {**space.values(), **values} not in tried:
            yield values, f"#{each.number} of session {each.tag}, its best"


def _expected(
    space: Space, context: Context, earlier: Sequence[Earlier], rng: random.Random
) -> Iterator[tuple[dict[str, Value], str]]:
    """Yield the candidates around the incumbent with the largest expected improvement, best first, with a reason."""
    if context.number + len(earlier) <= FIRST_STEPS:
        return
    import numpy as np

    from agent.proposers.search.gaussian_process import fit, improvement

    rows, values = _measured(space, context.history, context.direction)
    for parameters, value in parallel.measured(context):
        with contextlib.suppress(KeyError, TypeError):  # it lacks a constant of the current space
            rows.append(point(space, parameters))
            values.append(value)
    own = len(values)
    doubts = [1.0] * own
    for each in earlier:
        with contextlib.suppress(KeyError, TypeError):  # it lacks a constant of the current space
            rows.append(point(space, each.parameters))
            values.append(each.metric if each.metric is None or context.direction == "minimize" else -each.metric)
            doubts.append(transfer.doubt(each))
    if sum(value is not None for value in values) < FEWEST:
        return
    known, targets = np.array(rows), np.array(_targets(values))
    model = fit(known, targets, groups(space), np.array(doubts))
    # The best of this session: that of another one is proposed before this, and may be worse here.
    here = [value is not None and index < own for index, value in enumerate(values)]
    best = float(model.predict(known)[0][here].min())
    model = model.pending(np.array(parallel.pending(space, context)))
    fruitless = context.number - len(context.flight) - context.incumbent.number - PATIENCE
    candidates = draw_candidates(space, rng, POOL, SHRINK ** max(0, fruitless))
    expected = improvement(model, points(space, candidates), best)
    known_by = f"{own} and {len(values) - own} earlier" if len(values) > own else f"{own}"
    for index in np.argsort(-expected, kind="stable")[:SHORTLIST]:
        yield candidates[index], f"best expected improvement by a model of {known_by} experiments"


def _until_it_fails(candidates: Iterator[tuple[dict[str, Value], str]]) -> Iterator[tuple[dict[str, Value], str]]:
    """Yield candidates until the model fails: odd measurements must not end the search, which continues without it."""
    with contextlib.suppress(
        ArithmeticError, ValueError, LookupError, TypeError, MemoryError
    ):  # LinAlgError is a ValueError
        yield from candidates


def _steps(space: Space, context: Context, rng: random.Random) -> Iterator[tuple[dict[str, Value], str]]:
    """Yield steps by rules of thumb, then random draws, with a reason.

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


def _measured(
    space: Space, history: Sequence[Experiment], direction: Direction
) -> tuple[list[list[float]], list[float | None]]:
    """Return the points of the experiments and their values, None for a failure; smaller values are better.

    Experiments that lack a constant of the current space are left out.
    """
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
    """Return the targets of the model: the distance to the best value in units of the median distance.

    Above 1 the distance grows logarithmically, up to FARTHEST, so that an outlier (9 among values of 1.1) does not hide
    the differences between the others. A failure counts as the worst value.
    """
    known = [value for value in values if value is not None]
    best = min(known)
    usual = statistics.median(value - best for value in known) or max(known) - best or 1.0
    scaled = [None if value is None else (value - best) / usual for value in values]
    bent = [None if z is None else min(z if z <= 1 else 1 + math.log(z), FARTHEST) for z in scaled]
    worst = max(1.0, *(z for z in bent if z is not None))
    return [worst if z is None else z for z in bent]


def training_set(
    space: Space, history: Sequence[Experiment], direction: Direction
) -> tuple[list[list[float]], list[float]]:
    """Return the points and the targets that the model is fitted to, for others to fit it; empty if it learns nothing.

    Smaller targets are better.
    """
    rows, values = _measured(space, history, direction)
    known = sum(value is not None for value in values)
    return (rows, _targets(values)) if known >= FEWEST else ([], [])


def _value(experiment: Experiment) -> float | None:
    """Return the metric, estimated for a pruned run; None if there is nothing to learn from.

    The search reads metrics nowhere else.
    """
    metric = estimate(experiment)
    return metric if metric is not None and math.isfinite(metric) else None


def _is_unknown(experiment: Experiment) -> bool:
    """Return whether an experiment failed by a fault of the machine, from which the search learns nothing."""
    return bool(experiment.runs) and experiment.runs[-1].fault != ""


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
        values[move.key] = _moved(dimension, move.direction, rng)
        reasons.append(f"{dimension.name} (kept before)" if lessons[move] >= KEPT else dimension.name)
        if re.search(PRIORITIES[0], dimension.name):
            values = _allowed(space, values, rng)
    return values, f"step from the incumbent: {', '.join(reasons)}"


def _allowed(space: Space, values: dict[str, Value], rng: random.Random) -> dict[str, Value]:
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
        return [_moved(dimension, direction, rng) for direction in (-1, 1)]
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


def _describe(space: Space, values: Mapping[str, Value]) -> str:
    """Describe the changes, at most three of them: `MATRIX_LR 0.04 -> 0.028`."""
    changes = [
        f"{d.name} {_show(d.value)} -> {_show(values[d.key])}"
        for d in space.dimensions
        if d.key in values and values[d.key] != d.value
    ]
    return ", ".join(changes[:3]) + (f", +{len(changes) - 3} more" if len(changes) > 3 else "")


def _show(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
