"""Text and figures as they are shown: what steers a terminal or turns text around goes, numbers get their decimals."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

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


class Colored(str):
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


def figure(value: float, like: float | None = None, sign: str = "") -> str:
    """`1.294512`, `-0.012300`, `176,890,964`: a value, or a difference of values `like` one, to the same decimals."""
    size = abs(value if like is None else like)
    return f"{value:{sign},.{6 if size < 100 or not math.isfinite(size) else max(0, 6 - int(math.log10(size)))}f}"


def brief(value: float, digits: int = 4) -> str:
    """`0.04112`, `1,234`, `200.5 M`: so many digits, without an exponent where it is large."""
    if math.isfinite(value) and abs(value) >= 1e6:
        return f"{value / 1e6:,.{max(0, digits - len(str(int(abs(value) / 1e6))))}f} M"
    return f"{value:.{digits}g}" if abs(value) < 10**digits else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """`9.4s`, `6m41s`, `2h05m`."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"


def cost(spent: Mapping[str, Any]) -> str:
    """`12 calls of models, 81,000 tokens in, 9,000 out, $0.41`; money only where a price is known."""
    money = f", ${spent['dollars']:.2f}" if spent["dollars"] else ""
    calls = f"{spent['calls']} call{'s' if spent['calls'] > 1 else ''} of models"
    return f"{calls}, {spent['input_tokens']:,} tokens in, {spent['output_tokens']:,} out{money}"
