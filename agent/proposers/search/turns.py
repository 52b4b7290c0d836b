"""Turn the constants that entries of the playbook name: one move for each entry that was not tried here, best first.

The size of a step up or down is fixed, so that a proposal depends on the playbook and the history alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from agent.journal.experiment import Value
from agent.playbook.entries import Entry, Turn
from agent.playbook.tried import is_named
from agent.proposers.base import Context
from agent.proposers.ideas import untried_entries
from agent.proposers.search.space import Dimension, Space
from agent.proposers.search.steps import COUNTED, LAST

WHY = "entry of the playbook: "
FACTOR = 1.5  # of a constant on a logarithmic scale
SHARE = 0.15  # of the range, for a number on a linear one
STRIDE = 4  # an integer of COUNTED or more moves by this fraction of itself, a smaller one by one
MOST_HALVINGS, MOST_STEPS = 4, 4


def of_playbook(space: Space, context: Context) -> Iterator[tuple[dict[str, Value], str]]:
    """Yield the move of each entry that turns a constant of the space, with the reason that cites it.

    What has lost where it was published is left to the search's own steps.
    """
    for entry in untried_entries(context):
        values = {} if (entry.gain or 0.0) < 0 else _move(space, entry)
        if values:
            yield values, f"{WHY}{entry.title}"


def title_of(why: str) -> str:
    """Return the title of the entry that a reason cites; empty for other reasons."""
    return why.removeprefix(WHY) if why.startswith(WHY) else ""


def _move(space: Space, entry: Entry) -> dict[str, Value]:
    """Return the first move of an entry that is possible; empty if none is.

    A step that the asserts refuse is made longer: some depths only fit some sizes of a head.
    """
    for turn in entry.turns:
        for dimension in space.dimensions:
            if not is_named(dimension.key, turn.name):
                continue
            for steps in range(1, 1 + (MOST_STEPS if turn.direction else 1)):
                value = _turned(dimension, turn, steps)
                if value is None or value == dimension.value:
                    break
                values = _allowed(space, {dimension.key: value})
                if not space.refuses(values):
                    return values
    return {}


def _turned(dimension: Dimension, turn: Turn, steps: int) -> Value | None:
    """Return the value that a turn leads to after some steps; None if it is out of range."""
    if turn.direction == 0:
        return _given(dimension, turn.value)
    if dimension.kind == "choice":
        return _next_choice(dimension, turn.direction)
    new, value = _stepped(dimension, turn.direction * steps), dimension.value
    assert isinstance(value, int | float)
    # A value outside the range is led into it, and rounding may turn a step at a bound around.
    return new if (new - value) * turn.direction > 0 else None


def _stepped(dimension: Dimension, count: int) -> float:
    """Return the value of a number after some steps up, or down if `count` is negative."""
    value = dimension.start
    if dimension.kind == "power":
        return dimension.rounded(value * 2.0**count)
    if dimension.log:
        moved = dimension.rounded(value * FACTOR**count)
    elif dimension.kind == "int":
        moved = dimension.rounded(value + count * (1 if abs(value) < COUNTED else abs(value) // STRIDE))
    else:
        return dimension.rounded(value + count * SHARE * (dimension.high - dimension.low))
    return dimension.rounded(value + count) if moved == value and dimension.kind == "int" else moved


def _given(dimension: Dimension, value: Value | None) -> Value | None:
    """Return a value of the playbook as one of the constant's type; None if it is not in its range."""
    if isinstance(value, bool) and isinstance(dimension.value, str):
        value = str(value).lower()  # a text that the playbook reads as one of these
    if value is None or isinstance(value, bool) != isinstance(dimension.value, bool) or not dimension.fits(value):
        return None
    if dimension.kind == "choice":
        return next(choice for choice in dimension.choices if choice == value)
    assert isinstance(value, int | float)
    if dimension.kind == "float":
        return float(value)
    if dimension.kind == "int":
        return int(value) if value == int(value) else None
    moved = dimension.rounded(value)
    return moved if moved == value else None


def _next_choice(dimension: Dimension, direction: int) -> Value | None:
    """Return the next larger or smaller choice; None if there is none, or if choices have no order."""
    numbers = [each for each in dimension.choices if isinstance(each, int | float)]
    value = dimension.value
    if len(numbers) < len(dimension.choices) or not isinstance(value, int | float):
        return None
    beyond = [each for each in numbers if (each > value if direction > 0 else each < value)]
    return min(beyond, key=lambda each: abs(each - value), default=None)


def _allowed(space: Space, values: dict[str, Value]) -> dict[str, Value]:
    """Return `values`, halving what only splits a step into micro-steps if the asserts ask for that."""
    if not space.refuses(values):
        return values
    for dimension in space.dimensions:
        if dimension.kind != "power" or dimension.key in values or not re.search(LAST, dimension.name):
            continue
        for halvings in range(1, MOST_HALVINGS + 1):
            assert isinstance(dimension.value, int | float)
            smaller = dimension.rounded(dimension.value / 2**halvings)
            if smaller != dimension.value and not space.refuses({**values, dimension.key: smaller}):
                return {**values, dimension.key: smaller}
    return values
