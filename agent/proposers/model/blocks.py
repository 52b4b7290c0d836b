"""Parse a model's edits from its answer: search and replace blocks, or a whole file as a last resort."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from itertools import accumulate, islice, pairwise

from agent.format import plain
from agent.proposers.model.placing import UnusableEdit, occurrences, replaced
from agent.source.constants import parsed

FORMAT = """\
Each edit is a block that names the file on its own line, quotes the lines to replace exactly as they are in the file
(as few as make them unique), and gives their replacement:

train.py
<<<<<<< SEARCH
MATRIX_LR = 0.04
=======
MATRIX_LR = 0.05
>>>>>>> REPLACE

Several blocks are applied in order. Only if nearly every line changes, give the whole file instead:

WHOLE FILE train.py
```python
...
```

If the file has such fences itself, enclose it in longer ones."""

MOST_BLOCKS = 1000
LONGEST_SECONDS = 10.0  # for all blocks of an answer; each inexact one may need a large file to be parsed
MOST_DIVIDERS = 10  # of a block
MOST_PARSED = 20  # ends of Python files that are tried
LONGEST_MARK = 500  # characters of a line that may be a marker
LONGEST_SHOWN = 60
MARK = "\ufeff"  # a byte order mark

# In a list, a quotation or a code fence, markers are indented, follow a sign, or share their line with the fence.
_LISTED = r"[ \t]*(?:(?:[-*+]|\d{1,3}[.)])[ \t]+)?"
_QUOTE = re.compile(r"[ \t]*>(?!>)[ \t]?")
_SEARCH = re.compile(
    rf"(?P<before>{_LISTED}(?:[`~]{{3,}}\w*[ \t]*)?)<{{5,9}} ?SEARCH[ \t:]*(?P<path>[\w./-]*)[ \t]*", re.IGNORECASE
)
_MIDDLE = re.compile(r"(?P<before>[ \t]*)={5,9}[ \t]*")
_REPLACE = re.compile(r"[ \t]*>{5,9} ?REPLACE[ \t:]*(?:`{3,}|~{3,})?[ \t]*", re.IGNORECASE)
_WHOLE = re.compile(r"[ \t*_#`\d.)+-]*WHOLE FILE:? +`?(?P<path>[^\s`*]+)[`*_: \t]*", re.IGNORECASE)
# In capitals: files have a `description:` of their own.
_DESCRIBED = re.compile(r"[ \t>*_`\d.)-]*DESCRIPTION[ \t*_`]*:")
_FENCED = re.compile(r"(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})(?P<info>[^\n]*)")
_LANGUAGE = re.compile(r"[ \t]*[\w{.][^`]*")
_FENCE = re.compile(r"[ \t]*(?:`{3,}|~{3,})(?P<info>[^\n]*)")
# Markers of other formats, and misspelled ones.
_NEAR = re.compile(
    r"[ \t>*`-]{0,9}(?:<{3,}|>{5,}).*|\W{0,20}\b(?:SEARCH|REPLACE|ORIGINAL|UPDATED)(?: BLOCK)?\W{0,20}", re.IGNORECASE
)
# Outside all blocks, these are edits that would be left out.
_LOST = re.compile(
    r"[ \t>*`-]{0,9}<{5,9} ?\w+.*|[ \t]*(?:diff --git |@@ -\d|\*\*\* (?:Begin Patch|Update File)).*"
    r"|[ \t*_#`\d.)+-]*WHOLE FILE:? .*\.\w+[`*_: \t]*"
)
_DIFF = re.compile(r"@@ .*|diff --git .*|(?:---|\+\+\+) \S+\.\w+.*|\*\*\* (?:Begin Patch|Update File).*")


@dataclass(frozen=True)
class Block:
    """An edit of one file.

    Attributes:
        search: the lines to replace; None if `replace` is the whole file.
        others: search and replace if the divider is a later line: `=======` also underlines a heading.
        begin, end: indices of its first line and of the line after its last.
    """

    path: str
    search: str | None
    replace: str
    begin: int
    end: int
    others: tuple[tuple[str, str], ...] = ()


def apply(
    answer: str, files: Mapping[str, str], allows: Callable[[str], bool], tick: Callable[[], None] = lambda: None
) -> dict[str, str]:
    """Return path -> new text of the files that the answer changes.

    Args:
        files: path -> text of the mutable files.
        allows: whether a candidate may change a path.
        tick: called before each block; may raise to stop.

    Raises:
        UnusableEdit: the answer has no edits, or one of them cannot be applied: a part of an idea is another idea.
    """
    blocks = parse(answer, list(files))
    if not blocks:
        raise UnusableEdit(_slip(_lines(answer)))
    texts, began = dict(files), time.monotonic()
    for number, block in enumerate(blocks, start=1):
        tick()
        if time.monotonic() - began > LONGEST_SECONDS:
            raise UnusableEdit(f"its {len(blocks)} blocks take too long to apply: give fewer, with exact quotes")
        if not (block.path.isprintable() and allows(block.path)):
            raise UnusableEdit(f"block {number} edits {block.path}, which is not a mutable file")
        if block.search is None:
            texts[block.path] = like(texts.get(block.path, ""), block.replace)
        elif block.path not in texts:
            raise UnusableEdit(f"block {number} edits {block.path}, which was not found among {', '.join(files)}")
        else:
            texts[block.path] = _replaced(texts[block.path], block, f"block {number}")
    changed = {path: text for path, text in texts.items() if files.get(path) != text}
    if not changed:
        raise UnusableEdit("its edits change nothing")
    if binary := next((path for path, text in changed.items() if "\0" in text), None):
        raise UnusableEdit(f"it puts a NUL character into {binary}, which is a text file")
    return changed


def _replaced(text: str, block: Block, name: str) -> str:
    """Return the text of a file after a block of lines to replace; `name` is the block's, for messages.

    Of several dividers it is the last one up to which the block quotes the file.
    """
    assert block.search is not None
    parts = [(block.search, block.replace), *block.others]
    if len(parts) > 1:
        parts = [(search, replace) for search, replace in parts if occurrences(text, search) == 1][-1:]
    if not parts:
        raise UnusableEdit(
            f"{name} has {1 + len(block.others)} dividers, lines with only `=======`, and what it quotes before none "
            f"of them occurs exactly once in {block.path}: quote other lines"
        )
    return replaced(text, block.path, *parts[0], name)


def like(old: str, new: str) -> str:
    """Return a new text with the byte order mark and the line ends of the old one."""
    mark, first = MARK * old.startswith(MARK), old.split("\n", 1)[0]
    return mark + (new.replace("\n", "\r\n") if first.endswith("\r") else new).removeprefix(mark)


def parse(answer: str, known: list[str]) -> list[Block]:
    """Return the blocks in order. A block without a file name edits the file of the one before it, or the only file.

    Every line is examined at most twice, whatever the answer repeats or leaves unclosed.

    Args:
        known: paths of the mutable files.

    Raises:
        UnusableEdit: a block is incomplete, or there are too many, or an edit in another format is beside them.
    """
    lines = _lines(answer)
    whole = list(_whole_files(lines, known))
    taken = {number for block in whole for number in range(block.begin, block.end)}
    found = sorted([*whole, *_edits(lines, known, taken)], key=lambda block: block.begin)
    if len(found) > MOST_BLOCKS:
        raise UnusableEdit(f"it has {len(found)} blocks, more than {MOST_BLOCKS}: give the whole file instead")
    inside = {number for block in found for number in range(block.begin, block.end)}
    for number, line in enumerate(lines):
        lost = found and number not in inside and _LOST.fullmatch(line[:LONGEST_MARK])
        if lost and not _SEARCH.fullmatch(line):  # else it was given up for a whole file
            shown = plain(line)[:LONGEST_SHOWN]
            raise UnusableEdit(f"line {number + 1}, `{shown}`, is outside of its blocks: write each edit as shown")
    return found


def _lines(answer: str) -> list[str]:
    return answer.replace("\r\n", "\n").split("\n")


def _edits(lines: list[str], known: list[str], taken: Set[int]) -> Iterator[Block]:
    """Yield each block of lines to search and replace. One that is given up for a whole file is none.

    Args:
        taken: indices of the lines of whole files.
    """
    path = known[0] if len(known) == 1 else ""
    before = ""  # the last line that is neither empty nor a fence
    begin = -1
    middles: list[int] = []
    quoted = indented = False
    for number, whole in enumerate(lines):
        if number in taken:
            begin, middles, quoted = -1, [], False
            continue
        line = _unquoted(whole) if quoted or begin < 0 else whole
        if mark := _SEARCH.fullmatch(line):
            if begin >= 0:
                raise UnusableEdit(f"the block that begins in line {begin + 1} is not closed before another begins")
            begin, quoted, indented = number, line != whole, mark["before"] != ""
            # The file is named on the marker itself, or else before it.
            path = _named_in(mark["path"], known) or _named_in(before, known) or path or _mentioned_in(before, known)
        elif begin >= 0 and (mark := _MIDDLE.fullmatch(line)) and (indented or not mark["before"]):
            middles.append(number)
        elif middles and _REPLACE.fullmatch(line):
            if not path:
                raise UnusableEdit(f"a block does not say which file it edits: name one of {', '.join(known)} above it")
            inside = [_unquoted(each) for each in lines[begin + 1 : number]] if quoted else lines[begin + 1 : number]
            places = [middle - begin - 1 for middle in middles[:MOST_DIVIDERS]]
            first, *others = [(_text(inside[:place]), _text(inside[place + 1 :])) for place in places]
            yield Block(path, *first, begin, number + 1, tuple(others))
            begin, middles, quoted = -1, [], False
        fence = _FENCE.match(line)
        if line.strip() and (fence is None or _named_in(fence["info"], known)):
            before = line if fence is None else fence["info"]
    if begin >= 0:
        raise UnusableEdit(_unclosed(begin, has_middle=bool(middles)))


def _unclosed(begin: int, *, has_middle: bool) -> str:
    lacks = ">>>>>>> REPLACE" if has_middle else "======="
    return f"the block that begins in line {begin + 1} is not closed: missing a line with only `{lacks}`"


def _unquoted(line: str) -> str:
    """Remove the quotation sign from a line, but not the signs of a marker."""
    quote = _QUOTE.match(line)
    return line[quote.end() :] if quote else line


def spans(answer: str) -> list[tuple[int, int]]:
    """Return begin and end of what complete edits quote, in characters: nothing in it is about the answer itself."""
    raw = answer.split("\n")
    lines = [line.removesuffix("\r") for line in raw]
    starts = [0, *accumulate(len(line) + 1 for line in raw)]
    begun = [number for number, line in enumerate(lines) if _begins(line)]
    found = [
        (starts[first + number], starts[first + closing])
        for first, end in pairwise([*begun, len(lines)])
        for _, number, _, closing in _wholes(lines[first:end])
    ]
    begin = -1
    for number, line in enumerate(lines):
        if _begins(line):
            begin = -1
        elif _SEARCH.fullmatch(line) or _SEARCH.fullmatch(_unquoted(line)):
            begin = number
        elif begin >= 0 and (_REPLACE.fullmatch(line) or _REPLACE.fullmatch(_unquoted(line))):
            found.append((starts[begin], starts[number]))
            begin = -1
    return sorted(found)


def _begins(line: str) -> bool:
    """Return whether an answer, or a whole file in it, begins with this line."""
    line = line[:LONGEST_MARK]
    return _DESCRIBED.match(line) is not None or _WHOLE.fullmatch(line) is not None


def _whole_files(lines: list[str], known: list[str]) -> Iterator[Block]:
    """Yield each whole file.

    Raises:
        UnusableEdit: it may go on after its closing fence, which may be one of its own.
    """
    around = set[str]()  # fences that are open before the file
    before = 0
    for begin, number, opened, closing in _wholes(lines):
        named = _WHOLE.fullmatch(lines[begin])
        assert named is not None
        for line in lines[before:begin]:
            if fence := _FENCED.fullmatch(line):
                around ^= {fence["fence"]}
        path, before = _in_workspace(named["path"], known), closing + 1
        content = _content(lines, number, opened, closing)
        # A line of Python is a fence only inside a string, which the first one would leave open.
        if not (path.endswith(".py") and parsed(content) is not None):
            _require_end(lines, before, opened, is_enclosed=opened["fence"] in around)
        yield Block(path, None, content, begin, before)


def _wholes(lines: list[str]) -> Iterator[tuple[int, int, re.Match[str], int]]:
    """Yield of each whole file its first line, its opening fence as index and match, and the closing one like it."""
    unclosed: set[str] = set()  # so that each is looked for once
    tries = iter(range(MOST_PARSED))
    number = 0
    while number < len(lines):
        begin = number
        number += 1
        named = _WHOLE.fullmatch(lines[begin]) if len(lines[begin]) <= LONGEST_MARK else None
        if named is None:
            continue
        while number < len(lines) - 1 and not lines[number]:
            number += 1
        opened = _FENCED.fullmatch(lines[number]) if number < len(lines) else None
        if opened is None or opened["fence"] in unclosed:
            continue
        closing = _end_of_python(lines, number, opened, tries) if named["path"].endswith(".py") else None
        if closing is None:
            closing = next(_unpaired(lines, number + 1, opened), None)
        if closing is None:
            unclosed.add(opened["fence"])
            continue
        yield begin, number, opened, closing
        number = closing + 1


def _end_of_python(lines: list[str], begin: int, opened: re.Match[str], tries: Iterator[int]) -> int | None:
    """Return the first closing fence up to which the text is Python.

    Args:
        begin: index of the opening fence.
        tries: has as many items as fences may still be tried.
    """
    closing = (number for number in range(begin + 1, len(lines)) if _is_closing(lines[number], opened))
    return next(
        (n for n, _ in zip(closing, tries, strict=False) if parsed(_content(lines, begin, opened, n)) is not None), None
    )


def _is_closing(line: str, opened: re.Match[str]) -> bool:
    found = _FENCED.fullmatch(line)
    if found is None or found["fence"] != opened["fence"] or found["info"].strip(" \t"):
        return False
    return found["indent"] in ("", opened["indent"])


def _content(lines: list[str], begin: int, opened: re.Match[str], closing: int) -> str:
    """Return the text between the fences in two lines."""
    return _text([_outdented(line, len(opened["indent"])) for line in lines[begin + 1 : closing]])


def _unpaired(lines: list[str], start: int, opened: re.Match[str]) -> Iterator[int]:
    """Yield the lines from `start` with the opening fence, indented like it or not, that close no inner fence.

    A fence with a language opens one, as in a Markdown file with code; the next one like it closes that.
    """
    inner = 0
    for number in range(start, len(lines)):
        found = _FENCED.fullmatch(lines[number])
        if found is None or found["fence"] != opened["fence"]:
            continue
        if _LANGUAGE.fullmatch(found["info"]):
            inner += 1
        elif inner:
            inner -= 1
        elif _is_closing(lines[number], opened):
            yield number


def _require_end(lines: list[str], end: int, opened: re.Match[str], *, is_enclosed: bool) -> None:
    """Raise UnusableEdit if a whole file may go on, because a fence like its own follows.

    Args:
        end: index of the line after its closing fence.
        is_enclosed: whether a fence like it is open around the file.
    """
    ahead = range(end, len(lines))
    after = next((n for n in ahead if _SEARCH.fullmatch(lines[n]) or _WHOLE.fullmatch(lines[n][:LONGEST_MARK])), None)
    rest = lines[end:after]
    fences = [*islice(_unpaired(rest, 0, opened), 3)]
    if fences and is_enclosed:
        fences.pop(0)
    if fences not in ([], [len(rest) - 1] if after is not None else []):  # that one may be around a block
        raise UnusableEdit(
            f"the whole file seems to go on after the fence in line {end}: if the file has fences itself, enclose it "
            "in longer ones, such as ````"
        )


def _outdented(line: str, width: int) -> str:
    """Remove from a line as much indentation as its fence has (CommonMark 0.31, 4.5)."""
    return line[min(width, len(line) - len(line.lstrip(" \t"))) :]


def _slip(lines: list[str]) -> str:
    """Explain to the model why its answer has no edit block."""
    for number, line in enumerate(lines, start=1):
        if _NEAR.fullmatch(line[:LONGEST_MARK]):
            shown = plain(line)[:LONGEST_SHOWN]
            return f"line {number}, `{shown}`, is not one of the three markers of a block: write them exactly as shown"
        if _DIFF.fullmatch(line):
            return f"line {number} begins a diff, which is not supported: quote the lines in a block as shown"
        if len(line) <= LONGEST_MARK and _WHOLE.fullmatch(line):
            return f"the whole file in line {number} is not enclosed in two identical fences"
    if any(map(_FENCE.match, lines)):
        return "its code is in a fence without the markers of a block: put these around it exactly as shown"
    return "it has no edit block; use the format exactly as shown"


def _text(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _named_in(line: str, known: list[str]) -> str | None:
    """Return the last file named on the line before a block, or None if the line is a sentence."""
    words = re.findall(r"[\w./-]+", line)
    named = [path for path in (_in_workspace(word, known) for word in words) if path in known or path.endswith(".py")]
    return named[-1] if named and len(words) <= 3 else None


def _mentioned_in(line: str, known: list[str]) -> str:
    """Return the only one of the files that a sentence mentions, or an empty string."""
    named = {_in_workspace(word.rstrip("."), known) for word in re.findall(r"[\w./-]+", line)} & {*known}
    return named.pop() if len(named) == 1 else ""


def _in_workspace(path: str, known: list[str]) -> str:
    """Return a path relative to the workspace: a model may name an absolute path although it was told of none."""
    path = path.removeprefix("./")
    ends = [each for each in known if path.startswith("/") and path.endswith(f"/{each}")]
    return max(ends, key=len, default=path)
