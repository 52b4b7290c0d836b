"""Text that somebody else wrote, made fit to be shown: what steers a terminal or turns text around goes."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Whole sequences first, so that no `[31m` is left of one: CSI, the strings OSC, DCS, SOS, PM and APC, then the rest.
_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c|(?=\n)|$)"
    r"|\x1b[ -/]*[0-~]?"
)
# Controls but tab and newline, zero-width signs, what turns text around, tags, and halves of characters.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
# What a progress display leaves in a log beside colours: another way to a line's start, bells, backspaces.
_TO_START = re.compile(r"\x1b\[[01]?G")
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f\u200b-\u200f\u2060\ufeff]")


class Painted(str):
    """A line with a terminal's codes that the program itself has put there."""


def plain(text: str) -> str:
    """Remove control characters, terminals' escapes, what turns text around and zero-width signs; keep lines and tabs.

    White space at both ends goes too.
    """
    return block(text).strip()


def block(text: str) -> str:
    """As `plain`, with white space at the ends as it is. A carriage return at a line's end goes like any control."""
    return _HIDDEN.sub("", _SEQUENCES.sub("", text))


def printed(text: str) -> str:
    """A log as a terminal shows it: without colours and controls. Carriage returns within a line are kept."""
    if "\x1b" in text:
        text = _SEQUENCES.sub("", _TO_START.sub("\r", text))
    if _CONTROLS.search(text):
        text = _CONTROLS.sub("", text)
    text = text.replace("\r\n", "\n")
    return re.sub(r"\r+\n", "\n", text) if "\r\n" in text else text


def one_line(text: str) -> str:
    """Tabs, newlines and other controls as spaces, without what is hidden: a line that is read as it stands there."""
    return flat(text).strip()


def flat(text: str) -> str:
    """As `one_line`, with spaces at the ends as they are: for a part of a line."""
    return _HIDDEN.sub("", re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text))


def fence(*texts: str) -> str:
    """Backticks for a fence around these texts: more than any of them has in a row, three at least."""
    longest = max((len(run) for text in texts for run in re.findall(r"`+", text)), default=0)
    return "`" * max(3, longest + 1)


def fenced(text: str, language: str = "") -> str:
    """A text between fences that nothing in it can close."""
    mark = fence(text)
    return f"{mark}{language}\n{text}\n{mark}"


def fenced_files(files: Iterable[tuple[str, str]]) -> str:
    """Each path on a line of its own, and its text between fences."""
    return "\n\n".join(f"{plain(path)}\n{fenced(text)}" for path, text in files)
