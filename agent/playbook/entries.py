"""Read playbook.md: one entry for each idea, which a person writes by hand.

## Halve the batch

- what: train on half as many tokens in a step, for twice as many steps.
- turns: TOTAL_BATCH_SIZE down
- where: a small GPT trained for 300 s on one GPU
- effect: 1.2 %
- source: a record, a paper, or a session

The file is data. What cannot be read is left out with a note, and nothing of it is executed.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from agent.format import block, one_line
from agent.journal.experiment import Value
from agent.system.files import Unusable, read_bounded, reason
from agent.system.names import PLAYBOOK

LARGEST_FILE = 2**18  # bytes
MOST_ENTRIES = 200
LONGEST_TITLE, LONGEST_FIELD, LONGEST_LINE = 120, 600, 4000
MOST_TURNS, LONGEST_VALUE = 4, 80
MOST_NOTES = 5
NO_TURNS = ("", "-", "none", "code")
FIELDS = ("what", "turns", "where", "effect", "source")

_HEADING = re.compile(r"(#{1,6})[ \t]+(.*)")
_FIELD = re.compile(rf"[ \t]*(?:[-*+][ \t]+)?[*_`]{{0,3}}({'|'.join(FIELDS)})[*_`]{{0,3}}[ \t]*:[*_`]{{0,3}}(.*)", re.I)
_FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})(.*)")
_NAME = re.compile(r"(?:[\w./+-]{1,200}:)?[A-Za-z_][A-Za-z0-9_]{0,79}")  # with its path if several files have it
# The effect counts only at the beginning of its line, so that no interval or temperature is taken for one.
# With commas between thousands, or one as a decimal point.
_NUMBER = r"[+\-\u2212]?(?:[1-9]\d{0,2}(?:,\d{3}){1,3}(?:\.\d{1,6})?|\d{1,9}(?:[.,]\d{1,6})?)"
_PERCENT = re.compile(
    rf"(?:(?:about|roughly|up to|less than|under|more than|over|at least|at most) |[~<>\u2248\u2264\u2265] ?)?"
    rf"({_NUMBER})(?: ?(?:-|\u2013|to) ?{_NUMBER})? ?%([^,;.:()]*)",
    re.IGNORECASE,
)
_THOUSANDS = re.compile(r"[1-9]\d{0,2}(,\d{3})+(\.|$)")
_TIME = {
    "time",
    "faster",
    "quicker",
    "steps",
    "sooner",
    "speed",
    "speedup",
    "wall",
    "wallclock",
    "walltime",
    "throughput",
}
# Under which conditions, or when: no longer of what it is a percentage.
_CONDITION = re.compile(r"\b(?:after|at|by|for|in|on|when|with)\b", re.IGNORECASE)
# Less time to the same loss is worth about this fraction of it as less loss after the same time.
WORTH_OF_TIME = 0.1


@dataclass(frozen=True)
class Turn:
    """A move of one constant.

    Attributes:
        name: NAME, or path:NAME for that of one file.
        direction: +1 for up, -1 for down, 0 for a value.
        value: the new value; None for a direction.
    """

    name: str
    direction: int
    value: Value | None = None

    def __str__(self) -> str:
        if self.direction:
            return f"{self.name} {'up' if self.direction > 0 else 'down'}"
        return f'{self.name} "{self.value}"' if isinstance(self.value, str) else f"{self.name} {self.value}"


@dataclass(frozen=True)
class Entry:
    """An idea.

    Attributes:
        turns: constants that stand for the idea, whichever of them a recipe has; empty if it is a change of code.
        line: where it begins in the file.
    """

    title: str
    what: str
    turns: tuple[Turn, ...] = ()
    where: str = ""
    effect: str = ""
    source: str = ""
    line: int = 0

    @property
    def gain(self) -> float | None:
        """The percentage that `effect` begins with, as one of the metric; None if it begins with none.

        Of a range, the first.
        """
        found = _PERCENT.match(self.effect)
        if found is None:
            return None
        number = found[1].replace("\u2212", "-")
        value = float(number.replace(",", "" if _THOUSANDS.match(number.lstrip("+-")) else "."))
        of = _CONDITION.split(found[2], maxsplit=1)[0].lower()
        return value * (WORTH_OF_TIME if _TIME & {*re.findall(r"\w+", of)} else 1.0)

    @property
    def key(self) -> str:
        return key_of(self.title)


@dataclass(frozen=True)
class Book:
    """What was read.

    Attributes:
        entries: in the order of the file.
        notes: a sentence for each thing that could not be read, at most MOST_NOTES.
        exists: whether there is a file at all.
    """

    entries: tuple[Entry, ...] = ()
    notes: tuple[str, ...] = ()
    exists: bool = True


@dataclass
class _Draft:
    """An entry while its lines are read."""

    title: str
    line: int
    fields: dict[str, str] = field(default_factory=dict)


def read_book(folder: Path) -> Book:
    """Return the playbook of a workspace; without entries if it has none, or if the file cannot be used."""
    try:
        text = text_of(read_bounded(folder / PLAYBOOK, LARGEST_FILE))
    except (FileNotFoundError, NotADirectoryError):
        return Book(exists=False)
    except OSError as error:
        return Book(notes=(f"{PLAYBOOK} is not used: {one_line(reason(error))}",))
    return parse(text)


def text_of(content: bytes) -> str:
    """Return the text of a playbook. Raises Unusable if it is none."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeError:
        raise Unusable("is not valid UTF-8") from None
    if "\0" in text:
        raise Unusable("is not text")
    return text


def sources_of(text: str) -> list[str]:
    """Return the sources of all entries, those that are left out included."""
    return [draft.fields.get("source", "") for draft in _drafts(text)]


def open_fence(text: str) -> int | None:
    """Return the line of the fence that is open at the end of a text, so that nothing after it is read; else None."""
    fence, begins = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        before, fence = fence, _fence_after(line[:LONGEST_LINE], fence)
        begins = begins if before else number
    return begins if fence else None


def is_playbook(text: str) -> bool:
    """Return whether sessions may add entries to a file: it has some, is empty, or its title says what it is.

    A stranger's repository may have a file of this name for another purpose.
    """
    return not text.strip() or _is_titled(text) or bool(parse(text).entries)


def _is_titled(text: str) -> bool:
    first = next((line for line in text.splitlines() if line.strip()), "")
    return re.match(r"#\s+\W*playbook\b", first, re.I) is not None


def parse(text: str) -> Book:
    """Return the entries of a text. Sections without any field are prose."""
    entries: dict[str, Entry] = {}
    notes: list[str] = []
    for draft in _drafts(text):
        if len(entries) == MOST_ENTRIES:
            notes.append(f"{PLAYBOOK}: only its first {MOST_ENTRIES} entries are read")
            break
        fault = _fault_of(draft, entries)
        if fault:
            notes.append(f"{PLAYBOOK}, line {draft.line}: {fault}, so the entry is left out")
            continue
        turns = turns_of(draft.fields.get("turns", ""))
        if turns is None:
            notes.append(
                f"{PLAYBOOK}, line {draft.line}: `turns` is not like `NAME up` or `NAME 0.1`, so nothing is turned"
            )
        rest = {name: draft.fields.get(name, "") for name in FIELDS if name != "turns"}
        entry = Entry(draft.title, turns=turns or (), line=draft.line, **rest)
        entries[entry.key] = entry
    if (entries or _is_titled(text)) and (fence := open_fence(text)) is not None:
        notes.append(f"{PLAYBOOK}, line {fence}: the fence is not closed, so nothing after it is read")
    if len(notes) > MOST_NOTES:
        notes = [
            *notes[: MOST_NOTES - 1],
            f"{PLAYBOOK}: {len(notes) - MOST_NOTES + 1} more of its lines cannot be read",
        ]
    return Book(tuple(entries.values()), tuple(notes))


def turns_of(text: str) -> tuple[Turn, ...] | None:
    """Return the moves in `MATRIX_LR up, MUON_LR 0.05`: alternatives, for recipes that use other names.

    Returns:
        None if one of them is malformed, or there are too many.
    """
    if text.strip(" .").lower() in NO_TURNS:
        return ()
    parts = [part.strip() for part in re.split(r"[,;]", text.replace("`", "")) if part.strip()]
    if len(parts) > MOST_TURNS:
        return None
    found = [_turn(part) for part in parts]
    return None if None in found else tuple(each for each in found if each is not None)


def key_of(title: str) -> str:
    """Return what two spellings of a title have in common."""
    return " ".join(re.findall(r"\w+", title.casefold()))


def _turn(text: str) -> Turn | None:
    name, _, to = text.replace("->", " ").replace("=", " ").partition(" ")
    to = to.strip().removesuffix(".").rstrip()
    if not _NAME.fullmatch(name) or not to or len(to) > LONGEST_VALUE:
        return None
    if to.lower() in ("up", "down"):
        return Turn(name, 1 if to.lower() == "up" else -1)
    if to.lower() in ("true", "false"):
        return Turn(name, 0, to.lower() == "true")
    try:
        value = ast.literal_eval(to)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):  # TypeError: a list in a set
        return Turn(name, 0, to) if re.fullmatch(r"[\w.-]+", to) else None
    if isinstance(value, str | bool) or (isinstance(value, int | float) and abs(value) <= 1e300):
        return Turn(name, 0, value)
    return None


def _fence_after(line: str, fence: str) -> str:
    """Return the fence that is open after a line, or an empty text (CommonMark 0.31, 4.5, at any indentation).

    Args:
        fence: the one that is open before it.
    """
    found = _FENCE.fullmatch(line)
    if found is None:
        return fence
    signs, rest = found[1], found[2]
    if fence:
        return "" if signs.startswith(fence) and not rest.strip(" \t") else fence
    return "" if "`" in signs and "`" in rest else signs


def _drafts(text: str) -> Iterator[_Draft]:
    """Yield the sections that have fields."""
    draft: _Draft | None = None
    last, fence = "", ""
    for number, whole in enumerate(text.splitlines(), start=1):
        line = whole[:LONGEST_LINE]
        before, fence = fence, _fence_after(line, fence)
        if before or fence:
            last = ""
            continue
        heading = _HEADING.fullmatch(line)
        if heading is not None:
            if draft is not None and draft.fields:
                yield draft
            draft = _Draft(_clean(heading[2].rstrip("# \t")), number) if len(heading[1]) == 2 else None
            last = ""
        elif draft is None:
            continue
        elif (found := _FIELD.fullmatch(line)) is not None:
            last = found[1].lower()
            draft.fields.setdefault(last, _bounded(found[2]))
        elif line.strip() and last and not re.match(r"[ \t]*[-*+][ \t]", line):
            if len(draft.fields[last]) < LONGEST_FIELD:  # else each of many lines would clean all of it again
                draft.fields[last] = _bounded(f"{draft.fields[last]} {line.strip()}")
        else:
            last = ""
    if draft is not None and draft.fields:
        yield draft


def _bounded(text: str) -> str:
    return _clean(text)[:LONGEST_FIELD]


def _clean(text: str) -> str:
    """Return a text on one line, without control characters and terminal escapes."""
    return one_line(block(text))


def _fault_of(draft: _Draft, known: dict[str, Entry]) -> str:
    """Return why an entry is left out; empty if it is not."""
    if not key_of(draft.title):
        return "its heading has no words"
    if len(draft.title) > LONGEST_TITLE:
        return f"its title is longer than {LONGEST_TITLE} characters"
    if not draft.fields.get("what"):
        return "it does not say `what`"
    same = known.get(key_of(draft.title))
    return f"its title is that of line {same.line}" if same is not None else ""
