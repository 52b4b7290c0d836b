"""A model's edits out of its answer: search and replace blocks, or a whole file as a last resort."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
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

_EDIT = re.compile(
    r"^<{5,9} ?SEARCH[ \t]*\n(?P<search>.*?)^={5,9}[ \t]*\n(?P<replace>.*?)^>{5,9} ?REPLACE[ \t]*$",
    re.MULTILINE | re.DOTALL,
)
_WHOLE = re.compile(
    r"^[ \t*_#`]*WHOLE FILE:? +`?(?P<path>[^\s`*]+)[`*_: \t]*\n+"
    r"(?P<fence>`{3,}|~{3,})[^\n]*\n(?P<text>.*?)^(?P=fence)[ \t]*$",
    re.MULTILINE | re.DOTALL | re.IGNORECASE,
)
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
    """The blocks in order. A block without a file's name belongs to the one before it, or to the only file there is."""
    answer = answer.replace("\r\n", "\n")
    found: list[tuple[int, Block]] = [
        (match.start(), Block(match["path"], None, match["text"])) for match in _WHOLE.finditer(answer)
    ]
    path = known[0] if len(known) == 1 else ""
    for match in _EDIT.finditer(answer):
        path = _named_before(answer[: match.start()], known) or path
        if not path:
            raise Unusable(f"a block does not say which file it edits: name one of {', '.join(known)} above it")
        found.append((match.start(), Block(path, match["search"], match["replace"])))
    return [block for _, block in sorted(found, key=lambda each: each[0])]


def _named_before(text: str, known: list[str]) -> str | None:
    """The file named on the last line before a block, fences left out."""
    lines = [line for line in text.splitlines() if line.strip() and not _FENCE.match(line)]
    words = re.findall(r"[\w./-]+", lines[-1]) if lines else []
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
    return len(re.findall(rf"(?m)^{re.escape(search)}", _ended(text)))


def _put(text: str, search: str, replace: str) -> str:
    return re.sub(rf"(?m)^{re.escape(search)}", lambda _: replace, _ended(text), count=1)


def _ended(text: str) -> str:
    return text if text.endswith("\n") else text + "\n"


def _loosely(text: str, search: str, block: Block, number: int) -> str:
    lines, wanted = _ended(text).splitlines(keepends=True), search.splitlines()
    bare = [line.strip() for line in wanted]
    places = [
        start
        for start in range(len(lines) - len(wanted) + 1)
        if [line.strip() for line in lines[start : start + len(wanted)]] == bare
    ]
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
