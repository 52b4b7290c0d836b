"""The built-in proposer: moves around the incumbent first, Optuna's TPE over all that was learnt later.

Nothing is stored: what it knows is the session's history, told again at each start, and what it draws depends only on
the seed, the number of the experiment and that history.
"""

from __future__ import annotations

import random
import re
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.experiment import Direction, Experiment, Proposal, Value, digest
from agent.proposers.base import Context, Exhausted
from agent.proposers.space import Dimension, Space, space_of
from agent.state import gain

if TYPE_CHECKING:
    import optuna

# Where the gain is on slow machines: more steps, then size, then rates. Constants never tried go in this order.
PRIORITIES = ("BATCH", "DEPTH|LAYER", "WIDTH|DIM|ASPECT|HIDDEN", "LR$|RATE|LEARNING", "")
ATTEMPTS = 300
# A wide proposal needs something to learn from; the share of them grows while nothing is kept.
WIDE_AFTER = 10
WIDE_SHARE, WIDE_SHARE_STUCK, STUCK_AFTER = 0.25, 0.5, 8
STARTUP_TRIALS = 8
SMALLEST_STEP, LARGEST_STEP = 1.3, 2.0
RETRY_CRASHED = 0.1


@dataclass(frozen=True)
class Move:
    """A change of one constant: its direction is +1 or -1, or 0 for a choice."""

    key: str
    direction: int


class SearchProposer:
    """Asks and tells; see the module."""

    name = "search"

    def __init__(self) -> None:
        self._told: list[Experiment] = []

    def tell(self, experiment: Experiment) -> None:
        self._told.append(experiment)

    def mend(self, context: Context, error: str, attempt: int) -> Proposal | None:  # noqa: ARG002
        """None: values that crash are a lesson, not something to mend."""
        return None

    def ask(self, context: Context) -> Proposal:
        """Raises Exhausted where no constants can be searched, or all that can be drawn has been tried."""
        space = space_of(context.files, context.constants)
        if not space.dimensions:
            raise Exhausted(
                "there is nothing to search: the mutable files hold no ALL_CAPS constants at module level; "
                "name the numbers to be tuned, as in RATE = 0.1"
            )
        seen = {experiment.digest for experiment in context.history}
        rng = random.Random(f"{context.seed}:{context.number}")
        lessons = _lessons(context.history, context.incumbent, context.direction)
        wide = self._wants_wide(context, rng)
        for attempt in range(ATTEMPTS):
            # A space that is nearly used up gives up its favourites step by step.
            loose = attempt / ATTEMPTS
            values, why = (
                self._wide(space, context, rng) if wide and attempt < 5 else _local(space, lessons, rng, loose)
            )
            texts = space.apply(values)
            if texts and digest({**context.files, **texts}) not in seen and not space.refuses(values):
                return Proposal(texts, _describe(space, values), why, {**space.values(), **values})
        raise Exhausted(f"the search found nothing new in {ATTEMPTS} draws: widen the ranges, or start another --tag")

    def _wants_wide(self, context: Context, rng: random.Random) -> bool:
        if len(context.history) <= WIDE_AFTER:
            return False
        stuck = context.number - context.incumbent.number > STUCK_AFTER
        return rng.random() < (WIDE_SHARE_STUCK if stuck else WIDE_SHARE)

    def _wide(self, space: Space, context: Context, rng: random.Random) -> tuple[dict[str, Value], str]:
        """TPE's suggestion for some of the constants, the others as the incumbent has them."""
        import optuna

        count = rng.randint(2, max(2, min(len(space.dimensions), 2 + len(self._told) // 20)))
        chosen = rng.sample(space.dimensions, min(count, len(space.dimensions)))
        trials = _trials(space, self._told, context.direction)
        # Narrowly: both are Optuna's remarks on features of its own that are chosen here on purpose.
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            tpe = optuna.samplers.TPESampler(
                multivariate=True, n_startup_trials=STARTUP_TRIALS, seed=rng.randrange(2**31)
            )
            kept = {d.key: _encode(d, d.value) for d in space.dimensions if d not in chosen}
            sampler = optuna.samplers.PartialFixedSampler(kept, tpe)
            study = optuna.create_study(direction=context.direction, sampler=sampler)
            study.add_trials(trials)
            trial = study.ask({d.key: _distribution(d) for d in space.dimensions})
        values = {d.key: _decode(d, trial.params[d.key]) for d in chosen}
        return values, f"TPE over {len(trials)} trials, {len(chosen)} constants"


def _local(
    space: Space, lessons: Mapping[Move, float], rng: random.Random, loose: float
) -> tuple[dict[str, Value], str]:
    """One constant, sometimes two or three, moved by a moderate step from where the incumbent has it."""
    count = rng.choices((1, 2, 3), (0.8 - 0.5 * loose, 0.15 + 0.25 * loose, 0.05 + 0.25 * loose))[0]
    values: dict[str, Value] = {}
    reasons = []
    for _ in range(min(count, len(space.dimensions))):
        weights = {}
        for dimension in space.dimensions:
            directions = (0,) if dimension.kind == "choice" else (1, -1)
            for direction in directions:
                move = Move(dimension.key, direction)
                weights[move] = lessons.get(move, _unknown(dimension)) + loose
        move = rng.choices(list(weights), list(weights.values()))[0]
        dimension = next(d for d in space.dimensions if d.key == move.key)
        values[move.key] = _moved(dimension, move.direction, rng)
        reasons.append(f"{dimension.name} {'went well' if lessons.get(move, 0) > 2 else 'is tried'}")
    return values, f"a step from the incumbent: {', '.join(reasons)}"


def _unknown(dimension: Dimension) -> float:
    """The weight of a move never made: the earlier its kind of constant stands in PRIORITIES, the larger."""
    rank = next(i for i, words in enumerate(PRIORITIES) if re.search(words, dimension.name))
    return 1.5 * 0.6**rank + 0.1


def _moved(dimension: Dimension, direction: int, rng: random.Random) -> Value:
    if dimension.kind == "choice":
        return rng.choice([choice for choice in dimension.choices if choice != dimension.value] or [dimension.value])
    value = dimension.value
    assert isinstance(value, int | float)
    if dimension.kind == "power":
        return dimension.rounded(value * 2.0**direction)
    factor = rng.uniform(SMALLEST_STEP, LARGEST_STEP) ** direction
    if dimension.kind == "int":
        step = dimension.rounded(value * factor) if dimension.log else value
        return step if step != value else dimension.rounded(value + direction)
    if dimension.log:
        return dimension.rounded(value * factor)
    return dimension.rounded(value + direction * rng.uniform(0.08, 0.25) * (dimension.high - dimension.low))


def _lessons(history: Sequence[Experiment], incumbent: Experiment, direction: Direction) -> dict[Move, float]:
    """Weights of the moves that were made: repeat what was kept last, not what failed from this very incumbent."""
    weights: dict[Move, float] = defaultdict(float)
    best = history[0] if history else incumbent
    crashed: dict[Move, int] = defaultdict(int)
    for experiment in history[1:]:
        moves = _moves(best.parameters, experiment.parameters)
        for move in moves:
            if experiment.metric is None:
                crashed[move] += 1
                weights[move] = RETRY_CRASHED / crashed[move]
            elif experiment.verdict.status == "keep":
                weights[move] = 3.0
                weights[Move(move.key, -move.direction)] = 0.1
            else:
                near = best.metric is not None and abs(gain(best.metric, experiment.metric, direction)) < _spread(
                    history
                )
                weights[move] = 0.3 if near or len(moves) > 1 else 0.1
        if experiment.verdict.status == "keep":
            best = experiment
            # From a new incumbent, what failed from the old one may be tried again.
            for move in weights:
                weights[move] = max(weights[move], 0.15) if not crashed[move] else weights[move]
    return weights


def _moves(before: Mapping[str, Value], after: Mapping[str, Value]) -> list[Move]:
    moves = []
    for key in before.keys() & after.keys():
        a, b = before[key], after[key]
        if a != b:
            ordered = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (a, b))
            moves.append(Move(key, (1 if b > a else -1) if ordered else 0))  # type: ignore[operator]
    return sorted(moves, key=lambda move: move.key)


def _spread(history: Sequence[Experiment]) -> float:
    """The interquartile range of all metrics: what counts as far apart in this session."""
    metrics = sorted(e.metric for e in history if e.metric is not None)
    return metrics[(3 * len(metrics)) // 4 if len(metrics) > 3 else -1] - metrics[len(metrics) // 4] if metrics else 0.0


def _trials(space: Space, told: Sequence[Experiment], direction: Direction) -> list[optuna.trial.FrozenTrial]:
    """The history as Optuna's trials. Failures count as worse than the worst; what does not fit is left out."""
    from optuna.trial import create_trial

    metrics = [e.metric for e in told if e.metric is not None]
    if not metrics:
        return []
    worst = max(metrics) if direction == "minimize" else min(metrics)
    failed = worst + (_spread(told) or abs(worst) * 0.1) * (1 if direction == "minimize" else -1)
    distributions = {d.key: _distribution(d) for d in space.dimensions}
    trials = []
    for experiment in told:
        values = experiment.parameters
        if all(d.key in values and d.fits(values[d.key]) for d in space.dimensions):
            params = {d.key: _encode(d, values[d.key]) for d in space.dimensions}
            value = experiment.metric if experiment.metric is not None else failed
            trials.append(create_trial(params=params, distributions=distributions, value=value))
    return trials


def _distribution(dimension: Dimension) -> optuna.distributions.BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if dimension.kind == "choice":
        return CategoricalDistribution(dimension.choices)
    if dimension.kind == "power":
        return IntDistribution(int(_encode(dimension, dimension.low)), int(_encode(dimension, dimension.high)))
    if dimension.kind == "int":
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _encode(dimension: Dimension, value: Value) -> Value:
    """Powers of two by their exponent, everything else as it is."""
    return int(value).bit_length() - 1 if dimension.kind == "power" else value


def _decode(dimension: Dimension, value: Value) -> Value:
    if dimension.kind == "choice":
        return value
    assert isinstance(value, int | float)
    return int(2**value) if dimension.kind == "power" else dimension.rounded(value)


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
