"""A table whose columns have names, types and an order that do not depend on the format."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agent.format import one_line
from agent.journal.experiment import Value

Kind = Literal["int", "float", "bool", "text", "time"]
LARGEST_INT = 2**63


@dataclass(frozen=True)
class Column:
    """A column. `kind` "time" holds Unix seconds, which each format spells in its own way."""

    name: str
    kind: Kind


@dataclass(frozen=True)
class Table:
    """Columns, and rows with one value for each of them; None where a value is missing."""

    columns: tuple[Column, ...]
    rows: Iterable[Sequence[Any]]


class Extra:
    """The columns for the names that runs and recipes bring along: secondary metrics, conditions, constants.

    A name that is taken gets the prefix of its family. Columns stand in the order in which their names first appear,
    so that a longer session adds columns and moves none.

    Args:
        families: prefix -> the values of each row by name.
        taken: names of the columns before them.
    """

    def __init__(self, families: Mapping[str, Sequence[Mapping[str, Value]]], taken: Iterable[str]) -> None:
        names = set(taken)
        self._places: list[tuple[str, str, Kind]] = []
        self.columns: list[Column] = []
        for prefix, rows in families.items():
            for name in dict.fromkeys(name for row in rows for name in row):
                shown = one_line(name)
                while shown in names:
                    shown = f"{prefix}.{shown}"
                names.add(shown)
                kind = kind_of(row[name] for row in rows if name in row)
                self._places.append((prefix, name, kind))
                self.columns.append(Column(shown, kind))

    def values(self, families: Mapping[str, Mapping[str, Value]]) -> Iterator[Any]:
        """Yield the values of one row, by family."""
        for prefix, name, kind in self._places:
            value = families[prefix].get(name)
            yield None if value is None else _AS[kind](value)


def kind_of(values: Iterable[Value]) -> Kind:
    """Return the narrowest type that holds all values."""
    found: dict[type, Value] = {}
    for value in values:
        kept = found.get(type(value), value)
        wider = isinstance(value, int) and isinstance(kept, int) and abs(value) > abs(kept)
        found[type(value)] = value if wider else kept
    if found.keys() <= {bool}:
        return "bool"
    if found.keys() <= {int, float}:
        small = found.keys() == {int} and abs(int(found[int])) < LARGEST_INT
        return "int" if small else "float"
    return "text"


def _number(value: Value) -> float:
    try:
        return float(value)
    except OverflowError:  # an int beyond the range of floats
        return math.inf if int(value) > 0 else -math.inf


_AS: Mapping[str, Callable[[Value], Any]] = {
    "int": int,
    "float": _number,
    "bool": bool,
    "text": lambda value: one_line(str(value)),
}
