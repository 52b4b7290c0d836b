"""A model's edits out of its answer: search and replace blocks, or a whole file as a last resort."""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from agent.format import plain
from agent.proposers.model.placing import UnusableEdit as UnusableEdit
from agent.proposers.model.placing import replaced

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
LONGEST_MARK = 500  # characters of a line that names a whole file
LONGEST_SHOWN = 60

# In a list, a quotation or a fence the marks are indented, follow a sign, or have a fence on their line.
_LISTED = r"[ \t]*(?:(?:[-*+]|\d{1,3}[.)])[ \t]+)?"
_QUOTE = re.compile(r"[ \t]*>(?!>)[ \t]?")
_SEARCH = re.compile(
    rf"(?P<before>{_LISTED}(?:[`~]{{3,}}\w*[ \t]*)?)<{{5,9}} ?SEARCH[ \t:]*(?P<path>[\w./-]*)[ \t]*", re.IGNORECASE
)
_MIDDLE = re.compile(r"(?P<before>[ \t]*)={5,9}[ \t]*")
_REPLACE = re.compile(r"[ \t]*>{5,9} ?REPLACE[ \t:]*(?:`{3,}|~{3,})?[ \t]*", re.IGNORECASE)
_WHOLE = re.compile(r"[ \t*_#`\d.)+-]*WHOLE FILE:? +`?(?P<path>[^\s`*]+)[`*_: \t]*", re.IGNORECASE)
_FENCED = re.compile(r"(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})[^\n]*")
_FENCE = re.compile(r"[ \t]*(?:`{3,}|~{3,})(?P<info>[^\n]*)")
# What stands for a mark in other formats, or was meant to be one.
_NEAR = re.compile(
    r"[ \t>*`-]{0,9}(?:<{3,}|>{5,}).*|\W{0,20}\b(?:SEARCH|REPLACE|ORIGINAL|UPDATED)(?: BLOCK)?\W{0,20}", re.IGNORECASE
)
_DIFF = re.compile(r"@@ .*|diff --git .*|(?:---|\+\+\+) \S+\.\w+.*|\*\*\* (?:Begin Patch|Update File).*")


@dataclass(frozen=True)
class Block:
    """search None: `replace` is the whole file."""

    path: str
    search: str | None
    replace: str


def apply(answer: str, files: Mapping[str, str], allows: Callable[[str], bool]) -> dict[str, str]:
    """The new texts of the files that the answer changes. Raises UnusableEdit."""
    blocks = parse(answer, list(files))
    if not blocks:
        raise UnusableEdit(_slip(_lines(answer)))
    texts = dict(files)
    for number, block in enumerate(blocks, start=1):
        if not allows(block.path):
            raise UnusableEdit(f"block {number} edits {block.path}, which may not change")
        if block.search is None:
            texts[block.path] = block.replace
        elif block.path not in texts:
            raise UnusableEdit(
                f"block {number} edits {block.path}, and there is no such file; there is {', '.join(files)}"
            )
        else:
            texts[block.path] = replaced(texts[block.path], block.path, block.search, block.replace, f"block {number}")
    changed = {path: text for path, text in texts.items() if files.get(path) != text}
    if not changed:
        raise UnusableEdit("its edits change nothing")
    return changed


def parse(answer: str, known: list[str]) -> list[Block]:
    """The blocks in order. A block without a file's name belongs to the one before it, or to the only file there is.

    Every line is looked at once or twice, whatever the answer repeats or leaves open. Raises UnusableEdit.
    """
    lines = _lines(answer)
    found = [*_whole_files(lines, known), *_edits(lines, known)]
    if len(found) > MOST_BLOCKS:
        raise UnusableEdit(f"it has {len(found)} blocks, more than {MOST_BLOCKS}: give the whole file instead")
    return [block for _, block in sorted(found, key=lambda each: each[0])]


def _lines(answer: str) -> list[str]:
    return answer.replace("\r\n", "\n").split("\n")


def _edits(lines: list[str], known: list[str]) -> Iterator[tuple[int, Block]]:
    """Each block with the number of its first line. One that is not ended is none."""
    path = known[0] if len(known) == 1 else ""
    before = ""  # the last line that is neither empty nor a fence
    begin = middle = -1
    quoted = indented = False
    for number, whole in enumerate(lines):
        line = _unquoted(whole) if quoted or begin < 0 else whole
        if mark := _SEARCH.fullmatch(line):
            if begin >= 0:
                raise UnusableEdit(f"the block that begins in line {begin + 1} is not ended before another begins")
            begin, quoted, indented = number, line != whole, mark["before"] != ""
            # On the mark itself, else before it.
            path = _named_in(mark["path"], known) or _named_in(before, known) or path or _mentioned_in(before, known)
        elif begin >= 0 and middle < 0 and (mark := _MIDDLE.fullmatch(line)) and (indented or not mark["before"]):
            middle = number
        elif middle >= 0 and _REPLACE.fullmatch(line):
            if not path:
                raise UnusableEdit(f"a block does not say which file it edits: name one of {', '.join(known)} above it")
            parts = lines[begin + 1 : middle], lines[middle + 1 : number]
            search, replace = (_text([_unquoted(each) for each in part] if quoted else part) for part in parts)
            yield begin, Block(path, search, replace)
            begin = middle = -1
            quoted = False
        fence = _FENCE.match(line)
        if line.strip() and (fence is None or _named_in(fence["info"], known)):
            before = line if fence is None else fence["info"]


def _unquoted(line: str) -> str:
    """Without the sign of a quotation, which a mark's own signs are not."""
    quote = _QUOTE.match(line)
    return line[quote.end() :] if quote else line


def _whole_files(lines: list[str], known: list[str]) -> Iterator[tuple[int, Block]]:
    """Each with the number of its first line. The fence that ends it is the one that began it."""
    ends: dict[str, list[int]] = {}
    for number, line in enumerate(lines):
        if line.lstrip(" \t")[:1] in ("`", "~"):
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
        closing = _after(ends, number, opened["indent"], opened["fence"]) if opened else None
        if opened and closing is not None:
            content = [_outdented(line, len(opened["indent"])) for line in lines[number + 1 : closing]]
            yield begin, Block(_in_workspace(mark["path"], known), None, _text(content))
            number = closing + 1


def _after(ends: Mapping[str, list[int]], number: int, indent: str, fence: str) -> int | None:
    """The first line after `number` that is this fence, indented as its beginning or not at all."""
    found = []
    for each in {indent + fence, fence}:
        closing = ends.get(each, [])
        place = bisect.bisect_right(closing, number)
        found += closing[place : place + 1]
    return min(found, default=None)


def _outdented(line: str, width: int) -> str:
    """Without as much of its indentation as the fence around it has (CommonMark 0.31, 4.5)."""
    return line[min(width, len(line) - len(line.lstrip(" \t"))) :]


def _slip(lines: list[str]) -> str:
    """What keeps an answer from having a block, in words that its author can follow."""
    begun = next((number for number, line in enumerate(lines) if _SEARCH.fullmatch(_unquoted(line))), None)
    if begun is not None:
        rest = [_unquoted(line) for line in lines[begun:]]
        lacks = ">>>>>>> REPLACE" if any(map(_MIDDLE.fullmatch, rest)) else "======="
        return f"the block that begins in line {begun + 1} is not ended: the line `{lacks}` of its own is missing"
    for number, line in enumerate(lines, start=1):
        if _NEAR.fullmatch(line[:LONGEST_MARK]):
            shown = plain(line)[:LONGEST_SHOWN]
            return f"line {number}, `{shown}`, is none of the three marks of a block: write them exactly as shown"
        if _DIFF.fullmatch(line):
            return f"line {number} begins a diff, which is not applied: quote the lines in a block as shown"
        if len(line) <= LONGEST_MARK and _WHOLE.fullmatch(line):
            return f"the whole file in line {number} does not stand between two fences that are alike"
    if any(map(_FENCE.match, lines)):
        return "its code stands in a fence without the marks of a block: put these around it exactly as shown"
    return "it holds no edit block; use the format exactly as shown"


def _text(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _named_in(line: str, known: list[str]) -> str | None:
    """The file named on the last line before a block."""
    words = re.findall(r"[\w./-]+", line)
    named = [path for path in (_in_workspace(word, known) for word in words) if path in known or path.endswith(".py")]
    return named[-1] if named and len(words) <= 3 else None


def _mentioned_in(line: str, known: list[str]) -> str:
    """The only one of the files that a sentence speaks of; empty for none."""
    named = {_in_workspace(word.rstrip("."), known) for word in re.findall(r"[\w./-]+", line)} & {*known}
    return named.pop() if len(named) == 1 else ""


def _in_workspace(path: str, known: list[str]) -> str:
    """A path as the workspace has it: a model that was told of no folder may still name one."""
    path = path.removeprefix("./")
    ends = [each for each in known if path.startswith("/") and path.endswith(f"/{each}")]
    return max(ends, key=len, default=path)
