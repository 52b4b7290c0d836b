"""A model's edits out of its answer: search and replace blocks, or a whole file as a last resort."""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

FORMAT = """\
Each edit is a block that names the file on a line of its own, quotes the lines to be replaced exactly as they stand
there (as few as make them unique), and gives what takes their place:

train.py
<<<<<<< SEARCH
MATRIX_LR = 0.04
=======
MATRIX_LR = 0.05
>>>>>>> REPLACE

Several blocks are applied in order. Only where nearly every line changes, give the whole file instead:

WHOLE FILE train.py
```python
...
```"""

MOST_BLOCKS = 1000
MOST_PLACES = 100
LONGEST_MARK = 500  # characters of a line that names a whole file

_SEARCH = re.compile(r"<{5,9} ?SEARCH[ \t]*")
_MIDDLE = re.compile(r"={5,9}[ \t]*")
_REPLACE = re.compile(r">{5,9} ?REPLACE[ \t]*")
_WHOLE = re.compile(r"[ \t*_#`]*WHOLE FILE:? +`?(?P<path>[^\s`*]+)[`*_: \t]*", re.IGNORECASE)
_FENCED = re.compile(r"(?P<fence>`{3,}|~{3,})[^\n]*")
_FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})")


class Unusable(Exception):
    """The answer holds no edits that apply; its text is what the model is told."""


@dataclass(frozen=True)
class Block:
    """search None: `replace` is the whole file."""

    path: str
    search: str | None
    replace: str


def apply(answer: str, files: Mapping[str, str], allows: Callable[[str], bool]) -> dict[str, str]:
    """The new texts of the files that the answer changes. Raises Unusable."""
    blocks = parse(answer, list(files))
    if not blocks:
        raise Unusable("it holds no edit block; use the format exactly as shown")
    texts = dict(files)
    for number, block in enumerate(blocks, start=1):
        if not allows(block.path):
            raise Unusable(f"block {number} edits {block.path}, which may not change")
        if block.search is None:
            texts[block.path] = block.replace
        elif block.path not in texts:
            raise Unusable(f"block {number} edits {block.path}, and there is no such file; there is {', '.join(files)}")
        else:
            texts[block.path] = _replaced(texts[block.path], block, number)
    changed = {path: text for path, text in texts.items() if files.get(path) != text}
    if not changed:
        raise Unusable("its edits change nothing")
    return changed


def parse(answer: str, known: list[str]) -> list[Block]:
    """The blocks in order. A block without a file's name belongs to the one before it, or to the only file there is.

    Every line is looked at once or twice, whatever the answer repeats or leaves open. Raises Unusable.
    """
    lines = answer.replace("\r\n", "\n").split("\n")
    found = [*_whole_files(lines), *_edits(lines, known)]
    if len(found) > MOST_BLOCKS:
        raise Unusable(f"it has {len(found)} blocks, more than {MOST_BLOCKS}: give the whole file instead")
    return [block for _, block in sorted(found, key=lambda each: each[0])]


def _edits(lines: list[str], known: list[str]) -> Iterator[tuple[int, Block]]:
    """Each block with the number of its first line. One that is not ended is none, nor is any after it."""
    path = known[0] if len(known) == 1 else ""
    before = ""  # the last line that is neither empty nor a fence
    begin = middle = -1
    for number, line in enumerate(lines):
        if begin < 0 and _SEARCH.fullmatch(line):
            begin = number
            path = _named_in(before, known) or path
        elif begin >= 0 and middle < 0 and _MIDDLE.fullmatch(line):
            middle = number
        elif middle >= 0 and _REPLACE.fullmatch(line):
            if not path:
                raise Unusable(f"a block does not say which file it edits: name one of {', '.join(known)} above it")
            yield begin, Block(path, _text(lines[begin + 1 : middle]), _text(lines[middle + 1 : number]))
            begin = middle = -1
        if line.strip() and not _FENCE.match(line):
            before = line


def _whole_files(lines: list[str]) -> Iterator[tuple[int, Block]]:
    """Each with the number of its first line. The fence that ends it is the one that began it."""
    ends: dict[str, list[int]] = {}
    for number, line in enumerate(lines):
        if line[:1] in ("`", "~"):
            ends.setdefault(line.rstrip(" \t"), []).append(number)
    number = 0
    while number < len(lines):
        begin = number
        number += 1
        mark = _WHOLE.fullmatch(lines[begin]) if len(lines[begin]) <= LONGEST_MARK else None
        if mark is None:
            continue
        while number < len(lines) - 1 and not lines[number]:
            number += 1
        opened = _FENCED.fullmatch(lines[number]) if number < len(lines) else None
        closing = ends.get(opened["fence"], []) if opened else []
        place = bisect.bisect_right(closing, number)
        if place < len(closing):
            yield begin, Block(mark["path"], None, _text(lines[number + 1 : closing[place]]))
            number = closing[place] + 1


def _text(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _named_in(line: str, known: list[str]) -> str | None:
    """The file named on the last line before a block."""
    words = re.findall(r"[\w./-]+", line)
    named = [word.removeprefix("./") for word in words if word.removeprefix("./") in known or word.endswith(".py")]
    return named[-1] if named and len(words) <= 3 else None


def _replaced(text: str, block: Block, number: int) -> str:
    """`text` with the block applied: on an exact match, else on one that agrees but for spaces at the lines' ends and a
    common indentation. Raises Unusable where there is none, or more than one.
    """
    search = block.search or ""
    crlf = "\r\n" in text
    plain = text.replace("\r\n", "\n")
    if not search.strip():
        raise Unusable(f"block {number} quotes no line to be replaced")
    count = _count_of_lines(plain, search)
    if count == 1:
        changed = _put(plain, search, block.replace)
    elif count > 1:
        raise Unusable(f"what block {number} quotes stands {count} times in {block.path}: quote more lines around it")
    else:
        changed = _loosely(plain, search, block, number)
    return changed.replace("\n", "\r\n") if crlf else changed


def _count_of_lines(text: str, search: str) -> int:
    """How often `search` stands in `text` as whole lines."""
    return len(_places("\n" + _ended(text), "\n" + search))


def _put(text: str, search: str, replace: str) -> str:
    text = _ended(text)
    place = ("\n" + text).find("\n" + search)
    return text[:place] + replace + text[place + len(search) :]


def _places(text: str, wanted: str) -> list[int]:
    """Where `wanted`, which begins and ends with a line's end, stands in `text`; the ends of two may be one."""
    found = []
    place = text.find(wanted)
    while place >= 0:
        found.append(place)
        place = text.find(wanted, place + max(1, len(wanted) - 1))
    return found


def _ended(text: str) -> str:
    return text if text.endswith("\n") else text + "\n"


def _loosely(text: str, search: str, block: Block, number: int) -> str:
    lines, wanted = _ended(text).splitlines(keepends=True), search.splitlines()
    bare = [line.strip() for line in wanted]
    stripped = "".join(f"\n{line.strip()}" for line in lines) + "\n"
    quoted_bare = "".join(f"\n{line}" for line in bare) + "\n"
    places = [stripped.count("\n", 0, place) for place in _places(stripped, quoted_bare)[:MOST_PLACES]]
    if len(places) != 1:
        where = f"stands {len(places)} times" if places else "does not stand"
        raise Unusable(f"what block {number} quotes {where} in {block.path}; it begins with {bare[0][:80]!r}")
    start = places[0]
    # What the quoted lines lack in indentation their replacement lacks too.
    first = next(i for i, line in enumerate(bare) if line)
    real, quoted = _indentation(lines[start + first]), _indentation(wanted[first])
    new = [_indented(line, quoted, real) for line in block.replace.splitlines(keepends=True)]
    return "".join([*lines[:start], *new, *lines[start + len(wanted) :]])


def _indentation(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _indented(line: str, quoted: str, real: str) -> str:
    if not line.strip():
        return line
    return real + line[len(quoted) :] if line.startswith(quoted) else line
