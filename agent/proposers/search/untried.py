"""Find the directions that no experiment has taken: each constant is moved once up and once down before any other plan.

A model cannot tell an unknown direction from a bad one: it expects a bad value wherever nothing was measured.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from agent.journal.experiment import Value
from agent.proposers.base import Context
from agent.proposers.earlier import Earlier
from agent.proposers.search.space import Dimension, Space
from agent.proposers.search.steps import LAST, PRIORITIES, allowed, moved

SIZES = 4  # draws of the size of a step
MOST_CHOICES = 8  # a choice of more values is not tried in full


def untried(space: Space, context: Context, earlier: Sequence[Earlier], rng: random.Random) -> list[dict[str, Value]]:
    """Return changes of one constant each, to where no experiment of this session or of an earlier one has been.

    A number has two directions from the incumbent's value. For a choice each of its values is one. What failed counts,
    whatever the cause, so that nothing is forced twice, except on another machine or with another budget. What a
    session of other code has measured does not count: the change of code may have moved the optimum. Left out is what
    the asserts refuse, and constants that only split a step into micro-steps, which barely change the result.

    Args:
        earlier: experiments of other sessions that the model knows.
    """
    known = [each.parameters for each in context.history]
    known += [each.parameters for each in context.flight]
    known += [each.parameters for each in earlier if each.alike or (each.metric is not None and each.same_code)]
    found = []
    for dimension in space.dimensions:
        if re.search(LAST, dimension.name):
            continue
        for value in _values(dimension, [each[dimension.key] for each in known if dimension.key in each], rng):
            change: dict[str, Value] = {dimension.key: value}
            found.append(allowed(space, change, rng) if re.search(PRIORITIES[0], dimension.name) else change)
    return [each for each in found if not space.refuses(each)]


def _values(dimension: Dimension, known: list[Value], rng: random.Random) -> list[Value]:
    """Return values in the untried directions of a constant."""
    if dimension.kind == "choice":
        return [each for each in dimension.choices if each not in known] if len(set(known)) < MOST_CHOICES else []
    numbers = [each for each in known if isinstance(each, int | float)]
    value = dimension.value
    assert isinstance(value, int | float)
    found: dict[Value, None] = {}
    for direction in (-1, 1):
        if any((each - value) * direction > 0 for each in numbers):
            continue
        for _ in range(SIZES):
            new = moved(dimension, direction, rng)
            # Rounding may turn a step at a bound around, and a factor that of a negative number.
            if isinstance(new, int | float) and (new - value) * direction > 0:
                found[new] = None
    return [*found]
