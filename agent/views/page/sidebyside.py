"""A side-by-side diff of two texts, with context lines and the changed parts of each line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

AROUND = 3
ALIKE = 0.4  # lines with a lower similarity are shown as removed and added
LONGEST_BLOCK = 60  # longest block of changed lines in which lines are matched, which takes quadratic time

Piece = tuple[str, bool]  # part of a line, and whether it differs from the other side


@dataclass(frozen=True)
class Line:
    number: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Row:
    """A row of the diff.

    Attributes:
        kind: same, changed, removed, added, or gap for unchanged lines that are left out.
    """

    kind: str
    left: Line | None = None
    right: Line | None = None


def rows(before: str, after: str) -> Iterator[Row]:
    old, new = before.splitlines(), after.splitlines()
    groups = difflib.SequenceMatcher(None, old, new, autojunk=False).get_grouped_opcodes(AROUND)
    for index, group in enumerate(groups):
        if index:
            yield Row("gap")
        for kind, a, b, c, d in group:
            if kind == "equal":
                for i, j in zip(range(a, b), range(c, d), strict=True):
                    yield Row("same", _whole(old, i), _whole(new, j))
            else:
                yield from _changed(old, new, range(a, b), range(c, d))


def _changed(old: Sequence[str], new: Sequence[str], left: range, right: range) -> Iterator[Row]:
    """Yield rows of a changed block: similar lines in one row, others as removed and added."""
    for i, j in _pairs(old, new, left, right):
        if j is None:
            yield Row("removed", None if i is None else _whole(old, i))
        elif i is None:
            yield Row("added", None, _whole(new, j))
        else:
            yield Row("changed", *_marked(old[i], new[j], i + 1, j + 1))


def _pairs(old: Sequence[str], new: Sequence[str], left: range, right: range) -> list[tuple[int | None, int | None]]:
    """Match old and new lines by index, using that ndiff puts a line next to its replacement."""
    if max(len(left), len(right)) > LONGEST_BLOCK:
        return [*((i, None) for i in left), *((None, j) for j in right)]
    found: list[tuple[int | None, int | None]] = []
    before, after = iter(left), iter(right)
    for line in difflib.ndiff([old[i] for i in left], [new[j] for j in right]):
        if line[0] == "-":
            found.append((next(before), None))
        elif line[0] == "+":
            j = next(after)
            i = found[-1][0] if found and found[-1][1] is None else None
            if i is not None and difflib.SequenceMatcher(None, old[i], new[j]).ratio() >= ALIKE:
                found[-1] = (i, j)
            else:
                found.append((None, j))
        elif line[0] == " ":
            found.append((next(before), next(after)))
    return found


def _marked(old: str, new: str, i: int, j: int) -> tuple[Line, Line]:
    a, b = (re.findall(r"\w+|\s+|.", text) for text in (old, new))
    codes = difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
    left = tuple(("".join(a[s:e]), kind != "equal") for kind, s, e, _, _ in codes if s < e)
    right = tuple(("".join(b[s:e]), kind != "equal") for kind, _, _, s, e in codes if s < e)
    return Line(i, left), Line(j, right)


def _whole(lines: Sequence[str], index: int) -> Line:
    return Line(index + 1, ((lines[index], False),))
