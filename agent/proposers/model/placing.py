"""Where a model's edit goes: the lines that it quotes, found in a file and replaced, however it quoted them.

Line ends stay those of the file, and so does the indentation, whether the quote has other steps, spaces for tabs, or
has lost that of its first line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

from agent.source.constants import parsed

MOST_PLACES = 100
USUAL_STEP = 4  # spaces for a tab, where a block does not tell

_END = re.compile(r"(\r\n|\n|\r)")


class UnusableEdit(Exception):
    """The answer holds no edits that apply; its text is what the model is told."""


def replaced(text: str, path: str, search: str, replace: str, block: str) -> str:
    """`text` with the lines of `search` replaced: on an exact match, else on one that agrees but for white space at the
    lines' ends.

    block: what the edit is called. Raises UnusableEdit where there is no such place, or more than one.
    """
    quoted, new = _lines(search), _lines(replace)
    bodies, ends = _split(text)
    bare = [line.strip() for line in quoted]
    if not any(bare):
        raise UnusableEdit(f"{block} quotes no line to be replaced")
    places = _places(bodies, quoted)
    if len(places) > 1:
        raise UnusableEdit(f"what {block} quotes stands {len(places)} times in {path}: quote more lines around it")
    if places:
        return _put(bodies, ends, places[0], len(quoted), new)
    places = _places([line.strip() for line in bodies], bare)[:MOST_PLACES]
    if len(places) != 1:
        where = f"stands {len(places)} times" if places else "does not stand"
        first = next(line for line in bare if line)
        raise UnusableEdit(f"what {block} quotes {where} in {path}; it begins with {first[:80]!r}")
    real = bodies[places[0] : places[0] + len(quoted)]
    ways = [_put(bodies, ends, places[0], len(quoted), lines) for lines in _ways(quoted, real, new, block)]
    return next((way for way in ways if not path.endswith(".py") or parsed(way)), ways[0])


def _lines(text: str) -> list[str]:
    """Of a text that is empty or ends with a line's end."""
    return text.split("\n")[:-1]


def _split(text: str) -> tuple[list[str], list[str]]:
    """Its lines, and what ends each: nothing, for a last one that is not ended."""
    parts = _END.split(text)
    bodies, ends = parts[0::2], [*parts[1::2], ""]
    return (bodies, ends) if bodies[-1] else (bodies[:-1], ends[:-1])


def _places(lines: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """The numbers of the lines where `wanted` begins, as whole lines."""
    text, part = "".join(f"\n{line}" for line in lines) + "\n", "".join(f"\n{line}" for line in wanted) + "\n"
    found, number, counted = [], 0, 0
    place = text.find(part)
    while place >= 0:
        number += text.count("\n", counted, place)
        counted = place
        found.append(number)
        place = text.find(part, place + max(1, len(part) - 1))  # the end of one may begin the next
    return found


def _put(bodies: Sequence[str], ends: Sequence[str], start: int, count: int, new: Sequence[str]) -> str:
    """The text with `count` lines from `start` replaced; the new ones end as the first of them does."""
    end = ends[start] or next((each for each in ends if each), "\n")
    new_ends = [end] * len(new)
    if new and not ends[start + count - 1]:
        new_ends[-1] = ""
    lines = [*bodies[:start], *new, *bodies[start + count :]]
    return "".join(map("".join, zip(lines, [*ends[:start], *new_ends, *ends[start + count :]], strict=True)))


def _ways(quoted: Sequence[str], real: Sequence[str], new: Sequence[str], block: str) -> list[list[str]]:
    """The replacement indented as the file is, the likeliest way first.

    quoted, real: the same lines, as the block has them and as they stand. Raises UnusableEdit where it cannot be told.
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
    # A single line that has lost its indentation does not tell whether those after it have theirs.
    return ways if rest else [*ways, _indented(new, first, {first[1]: first[1]}, step)]


def _indented(new: Sequence[str], first: tuple[str, str], known: Mapping[str, str], step: tuple[str, str]) -> list[str]:
    """first: how the first line is quoted and how it stands, which goes for that of the replacement too."""
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
    """Where the quote has no indentation of its own: lines that stay as they are keep theirs."""
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
            raise UnusableEdit(f"{block} has lost the indentation of its lines: quote and replace them as they stand")
    return lines


def _moved(indentation: str, known: Mapping[str, str], step: tuple[str, str]) -> str:
    """An indentation of the block's as the file has it. known: some of the block's, and those of the same lines."""
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
    """One step of indentation as the block has it, and as the file does; a space for a space where both agree."""
    tabs_quoted, tabs_real = (any("\t" in pair[side] for pair in pairs) for side in (0, 1))
    if not tabs_quoted and tabs_real:
        return " " * _width(pairs, [_indentation(line) for line in new]), "\t"
    if tabs_quoted and not tabs_real:
        return "\t", " " * _width([(real, quoted) for quoted, real in pairs], [])
    return " ", " "


def _width(pairs: Sequence[tuple[str, str]], more: Sequence[str]) -> int:
    """How many spaces the first of each pair has for a tab of the second."""
    known = sorted({(len(spaces), len(tabs)) for spaces, tabs in pairs})
    widths = [
        (many - few) // (most - less)
        for (few, less), (many, most) in [*pairwise(known), ((0, 0), known[-1])]
        if most > less and many > few and (many - few) % (most - less) == 0
    ]
    return min(widths, default=math.gcd(*(len(each) for each in more))) or USUAL_STEP


def _indentation(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]
