"""Two texts side by side: lines that changed, with a few around them, and within a changed line what is new."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

AROUND = 3
ALIKE = 0.4  # lines less alike than this are shown as wholly removed and wholly new

Piece = tuple[str, bool]  # a part of a line, and whether it differs from the other side


@dataclass(frozen=True)
class Line:
    number: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Row:
    """kind: same, changed, removed, added, or gap, where unchanged lines are left out."""

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
    """Line by line where both sides have one that is alike, else what went and then what came."""
    for index in range(max(len(left), len(right))):
        i = left[index] if index < len(left) else None
        j = right[index] if index < len(right) else None
        if i is None and j is not None:
            yield Row("added", None, _whole(new, j))
        elif j is None and i is not None:
            yield Row("removed", _whole(old, i))
        elif i is not None and j is not None:
            yield Row("changed", *_marked(old[i], new[j], i + 1, j + 1))


def _marked(old: str, new: str, i: int, j: int) -> tuple[Line, Line]:
    a, b = (re.findall(r"\w+|\s+|.", text) for text in (old, new))
    matcher = difflib.SequenceMatcher(None, a, b, autojunk=False)
    if matcher.ratio() < ALIKE:
        return Line(i, ((old, True),)), Line(j, ((new, True),))
    codes = matcher.get_opcodes()
    left = tuple(("".join(a[s:e]), kind != "equal") for kind, s, e, _, _ in codes if s < e)
    right = tuple(("".join(b[s:e]), kind != "equal") for kind, _, _, s, e in codes if s < e)
    return Line(i, left), Line(j, right)


def _whole(lines: Sequence[str], index: int) -> Line:
    return Line(index + 1, ((lines[index], False),))
