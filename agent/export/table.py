"""A table whose columns have names, types and an order that do not depend on the format."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agent.format import one_line
from agent.journal.experiment import Value

Kind = Literal["int", "float", "bool", "text", "time"]


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

    What a column is called and holds depends only on the first row that has it, so a longer session adds columns to
    each family and changes none. All numbers are floats. The values of a name that have another type than its first
    one are in a column of their own, `NAME.text` for example. A name that is taken gets the prefix of its family.

    Args:
        rows: the values of each row by name, by prefix of the family. All rows have the same families.
        taken: names of the columns before them.
    """

    def __init__(self, rows: Sequence[Mapping[str, Mapping[str, Value]]], taken: Iterable[str]) -> None:
        names, shown = set(taken), dict[tuple[str, str], str]()
        found: dict[str, dict[tuple[str, Kind], Column]] = {prefix: {} for prefix in rows[0]} if rows else {}
        for prefix, name, value in ((p, name, value) for row in rows for p in row for name, value in row[p].items()):
            kind = kind_of(value)
            if (name, kind) in found[prefix]:
                continue
            column = f"{shown[prefix, name]}.{kind}" if (prefix, name) in shown else one_line(name)
            while column in names:
                column = f"{prefix}.{column}"
            names.add(column)
            shown.setdefault((prefix, name), column)
            found[prefix][name, kind] = Column(column, kind)
        self._places = [(prefix, name, kind) for prefix, family in found.items() for name, kind in family]
        self.columns = [column for family in found.values() for column in family.values()]

    def values(self, families: Mapping[str, Mapping[str, Value]]) -> Iterator[Any]:
        """Yield the values of one row, by family."""
        for prefix, name, kind in self._places:
            value = families[prefix].get(name)
            yield None if value is None or kind_of(value) != kind else _AS[kind](value)


def kind_of(value: Value) -> Kind:
    """Return the type of the column for a value. An integer is a float, since a later one may have a fraction."""
    return "bool" if isinstance(value, bool) else "text" if isinstance(value, str) else "float"


def _number(value: Value) -> float:
    try:
        return float(value)
    except OverflowError:  # an int beyond the range of floats
        return math.inf if int(value) > 0 else -math.inf


_AS: Mapping[str, Callable[[Value], Any]] = {
    "float": _number,
    "bool": bool,
    "text": lambda value: one_line(str(value)),
}
