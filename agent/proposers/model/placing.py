"""Apply a model's edit: find the lines that it quotes in a file and replace them, even if it quotes them inexactly.

The file's line endings and indentation are kept, even if the quote has other indentation steps, has spaces for tabs, or
lacks the indentation of its first line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

from agent.source.constants import parsed

MOST_PLACES = 100
USUAL_STEP = 4  # spaces per tab, if a block does not show it

_END = re.compile(r"(\r\n|\n|\r)")


class UnusableEdit(Exception):
    """The answer has no edits that can be applied; the text is what the model is told."""


def replaced(text: str, path: str, search: str, replace: str, block: str) -> str:
    """Return `text` with the lines of `search` replaced; if they do not match exactly, ignoring space around lines.

    Args:
        block: name of the edit, for messages.

    Raises:
        UnusableEdit: the lines are not found, or found more than once.
    """
    quoted, new = _lines(search), _lines(replace)
    bodies, ends = _split(text)
    bare = [line.strip() for line in quoted]
    if not any(bare):
        raise UnusableEdit(f"{block} quotes no line to replace")
    places = _places(bodies, quoted)
    if len(places) > 1:
        raise UnusableEdit(
            f"the lines quoted by {block} occur {len(places)} times in {path}: quote more lines around them"
        )
    if places:
        return _put(bodies, ends, places[0], len(quoted), new)
    places = _places([line.strip() for line in bodies], bare)[:MOST_PLACES]
    if len(places) != 1:
        where = f"occur {len(places)} times" if places else "do not occur"
        first = next(line for line in bare if line)
        raise UnusableEdit(f"the lines quoted by {block} {where} in {path}; they begin with {first[:80]!r}")
    real = bodies[places[0] : places[0] + len(quoted)]
    ways = [_put(bodies, ends, places[0], len(quoted), lines) for lines in _ways(quoted, real, new, block)]
    if len({*ways}) == 1 or not path.endswith(".py"):  # parsing a large file for each block takes long
        return ways[0]
    return next((way for way in ways if parsed(way)), ways[0])


def occurrences(text: str, search: str) -> int:
    """Return how often the lines of `search` occur in a text; if never exactly, ignoring space around lines."""
    quoted, (bodies, _) = _lines(search), _split(text)
    bare = [line.strip() for line in quoted]
    if not any(bare):
        return 0
    return len(_places(bodies, quoted) or _places([line.strip() for line in bodies], bare))


def _lines(text: str) -> list[str]:
    """Split a text that is empty or ends with a newline."""
    return text.split("\n")[:-1]


def _split(text: str) -> tuple[list[str], list[str]]:
    """Return the lines and the ending of each, which is empty for a last line without a newline."""
    parts = _END.split(text)
    bodies, ends = parts[0::2], [*parts[1::2], ""]
    return (bodies, ends) if bodies[-1] else (bodies[:-1], ends[:-1])


def _places(lines: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Return the indices of the lines where `wanted` begins, matching whole lines."""
    text, part = "".join(f"\n{line}" for line in lines) + "\n", "".join(f"\n{line}" for line in wanted) + "\n"
    found, number, counted = [], 0, 0
    place = text.find(part)
    while place >= 0:
        number += text.count("\n", counted, place)
        counted = place
        found.append(number)
        place = text.find(part, place + max(1, len(part) - 1))  # the last newline of one match may start the next
    return found


def _put(bodies: Sequence[str], ends: Sequence[str], start: int, count: int, new: Sequence[str]) -> str:
    """Return the text with `count` lines from `start` replaced; new lines get the ending of the first replaced one."""
    end = ends[start] or next((each for each in ends if each), "\n")
    new_ends = [end] * len(new)
    if new and not ends[start + count - 1]:
        new_ends[-1] = ""
    lines = [*bodies[:start], *new, *bodies[start + count :]]
    return "".join(map("".join, zip(lines, [*ends[:start], *new_ends, *ends[start + count :]], strict=True)))


def _ways(quoted: Sequence[str], real: Sequence[str], new: Sequence[str], block: str) -> list[list[str]]:
    """Return the replacement indented like the file, in every plausible way, most likely first.

    Args:
        quoted, real: the replaced lines as the block and as the file have them.

    Raises:
        UnusableEdit: the indentation cannot be determined.
    """
    pairs = [(_indentation(q), _indentation(r)) for q, r in zip(quoted, real, strict=True) if q.strip()]
    step = _step(pairs, new)
    first, rest = pairs[0], dict(pairs[1:])
    flat = len({q for q, _ in pairs}) < len({r for _, r in pairs}) and len({q for q, _ in pairs}) == 1
    if flat or any(rest[q] != r for q, r in pairs[1:]):
        return [_by_their_words(quoted, real, new, block)]
    if rest and _moved(first[0], rest, step) != first[1]:
        return [_indented(new, first, rest, step)]
    ways = [_indented(new, first, {first[0]: first[1], **rest}, step)]
    # If a single line without its indentation is quoted, later lines of the replacement may have theirs or not.
    return ways if rest else [*ways, _indented(new, first, {first[1]: first[1]}, step)]


def _indented(new: Sequence[str], first: tuple[str, str], known: Mapping[str, str], step: tuple[str, str]) -> list[str]:
    """Return the replacement with the file's indentation.

    Args:
        first: indentation of the first line in the block and in the file; it applies to the replacement's first line.
        known: indentation in the block -> indentation in the file.
        step: one step of indentation in the block and in the file.
    """
    lines: list[str] = []
    begun = False
    for line in new:
        own = _indentation(line)
        if not line.strip():
            lines.append("")
            continue
        lines.append((first[1] if not begun and own == first[0] else _moved(own, known, step)) + line[len(own) :])
        begun = True
    return lines


def _by_their_words(quoted: Sequence[str], real: Sequence[str], new: Sequence[str], block: str) -> list[str]:
    """Return the replacement for a quote without indentation: unchanged lines keep the file's indentation.

    Raises:
        UnusableEdit: lines were added or removed, so that the indentation of changed lines is unknown.
    """
    by_words = {line.strip(): _indentation(line) for line in real}
    lines = []
    for number, line in enumerate(new):
        bare = line.strip()
        if bare in by_words:
            lines.append(by_words[bare] + bare)
        elif not bare:
            lines.append("")
        elif len(new) == len(quoted):
            lines.append(_indentation(real[number]) + bare)
        else:
            raise UnusableEdit(f"{block} has lost the indentation of its lines: keep it in both parts of the block")
    return lines


def _moved(indentation: str, known: Mapping[str, str], step: tuple[str, str]) -> str:
    """Translate an indentation in the block to one in the file.

    Args:
        known: indentation in the block -> indentation in the file.
        step: one step of indentation in the block and in the file.
    """
    if indentation in known:
        return known[indentation]
    within = max((each for each in known if indentation.startswith(each)), key=len, default=None)
    if within is not None:
        return known[within] + indentation[len(within) :].replace(*step)
    around = min((each for each in known if each.startswith(indentation)), key=len, default=None)
    if around is not None:
        more = around[len(indentation) :].replace(*step)
        if more and known[around].endswith(more):
            return known[around][: -len(more)]
    return indentation


def _step(pairs: Sequence[tuple[str, str]], new: Sequence[str]) -> tuple[str, str]:
    """Return one step of indentation in the block and in the file; one space each if both use the same characters."""
    tabs_quoted, tabs_real = (any("\t" in pair[side] for pair in pairs) for side in (0, 1))
    if not tabs_quoted and tabs_real:
        return " " * _width(pairs, [_indentation(line) for line in new]), "\t"
    if tabs_quoted and not tabs_real:
        return "\t", " " * _width([(real, quoted) for quoted, real in pairs], [])
    return " ", " "


def _width(pairs: Sequence[tuple[str, str]], more: Sequence[str]) -> int:
    """Return how many spaces in the first of each pair stand for one tab in the second."""
    known = sorted({(len(spaces), len(tabs)) for spaces, tabs in pairs})
    widths = [
        (many - few) // (most - less)
        for (few, less), (many, most) in [*pairwise(known), ((0, 0), known[-1])]
        if most > less and many > few and (many - few) % (most - less) == 0
    ]
    return min(widths, default=math.gcd(*(len(each) for each in more))) or USUAL_STEP


def _indentation(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]
