"""Format text and numbers for display: strip control characters and terminal escapes, round numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# Match whole sequences, so that none leaves a `[31m` behind: CSI; OSC, DCS, SOS, PM and APC strings; then the others.
_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*(?:[@-~]|(?=\n)|$)"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c|(?=\n)|$)"
    r"|\x1b[ -/]*[0-~]?"
)
# On one line, remove a string only if it has its end: text that was read in another encoding has characters that begin
# one, and no newline ends it here. Those of 8 bits end at the next one of 8 bits, so that each looks at its own part.
_FINISHED = re.compile(
    r"\x1b\[[0-?]*[ -/]*(?:[@-~]|(?=\n)|$)|\x9b[0-?]*[ -/]*[@-~]"
    r"|\x1b[\]PX^_][^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)"
    r"|[\x9d\x90\x98\x9e\x9f][^\x07\x1b\x80-\x9f\n]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]*[0-~]?"
)
# Control characters except tab and newline, zero-width and bidirectional characters, tags, and lone surrogates.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
# Besides colors, progress bars leave these in a log: a cursor move to the start of the line, bells, backspaces.
_TO_START = re.compile(r"\x1b\[[01]?G")
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f\u200b-\u200f\u2060\ufeff]")
# Metrics below the first and from the second on have six significant digits, others at least six decimals.
SMALL, LARGE = 1e-3, 1e15
ROUNDING = 1e-14  # of a value: the means of a few equal numbers differ by no more


class Colored(str):
    """A line that contains terminal escapes put there by the program itself."""


def plain(text: str) -> str:
    """Strip control characters, terminal escapes, bidirectional and zero-width characters, and outer white space.

    Newlines and tabs within the text are kept.
    """
    return block(text).strip()


def block(text: str) -> str:
    """Strip the same characters as `plain`, but keep outer white space. Carriage returns are stripped, too."""
    return _HIDDEN.sub("", _SEQUENCES.sub("", text))


def printed(text: str) -> str:
    """Strip colors and control characters from a log. Keep carriage returns within a line."""
    if "\x1b" in text:
        text = _SEQUENCES.sub("", _TO_START.sub("\r", text))
    if _CONTROLS.search(text):
        text = _CONTROLS.sub("", text)
    text = text.replace("\r\n", "\n")
    return re.sub(r"\r+\n", "\n", text) if "\r\n" in text else text


def one_line(text: str) -> str:
    """Put a text on one line: turn control characters into spaces, and strip escapes, hidden ones and outer spaces."""
    return flat(text).strip()


def flat(text: str) -> str:
    """Put a text on one line like `one_line`, but keep outer spaces: for parts of a line."""
    return spaced(_FINISHED.sub("", text))


def spaced(text: str) -> str:
    """Do the same with terminal escapes as earlier versions, which left them without their first character."""
    return _HIDDEN.sub("", re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text))


def fence(*texts: str) -> str:
    """Return a Markdown fence that none of the texts can close: three backticks, or more if a text has as many."""
    longest = max((len(run) for text in texts for run in re.findall(r"`+", text)), default=0)
    return "`" * max(3, longest + 1)


def fenced(text: str, language: str = "") -> str:
    """Put a text between fences that nothing in it can close."""
    mark = fence(text)
    return f"{mark}{language}\n{text}\n{mark}"


def fenced_files(files: Iterable[tuple[str, str]]) -> str:
    """List files: each path on a line of its own, followed by its fenced text."""
    return "\n\n".join(f"{plain(path)}\n{fenced(text)}" for path, text in files)


def ends(text: str, most: int) -> str:
    """Return a text without its middle if it is longer than `most` characters."""
    half = most // 2
    if len(text) <= most:
        return text
    return f"{text[:half]}\n[{len(text) - 2 * half:,} characters are left out here]\n{text[len(text) - half :]}"


def figure(value: float, like: float | None = None, sign: str = "") -> str:
    """Format a metric: `1.294512`, `-0.012300`, `176,890,964`, `2.5e-13`.

    Args:
        like: A value whose decimals to use, for differences, unless they would be zeros; None, and 0, use the value's
            own.
        sign: `+` to show the sign of positive values.
    """
    size, value = abs(like or value), value + 0.0  # minus zero is zero
    if LARGE <= size < math.inf:
        return f"{value:{sign}.6g}"
    if 0 < size < SMALL:
        said = f"{round(value, 5 - math.floor(math.log10(size))):{sign}.6g}"
    else:
        said = f"{value:{sign},.{6 if size < 100 or not math.isfinite(size) else max(0, 6 - int(math.log10(size)))}f}"
    # A small difference of large values is not none, unless it is an error of rounding.
    shows = abs(value) <= ROUNDING * size or re.search("[1-9a-z]", said)
    return said if shows else f"{value:{sign}.4g}"


def tabular(value: float) -> str:
    """Format a metric for a table that programs read: six decimals, or six significant digits if it is small or large.

    Six decimals of a small one would be those of no result.
    """
    small_or_large = 0 < abs(value) < SMALL or abs(value) >= LARGE
    return f"{value + 0.0:{'.6g' if small_or_large else '.6f'}}"


def brief(value: float, digits: int = 4) -> str:
    """Format a number to `digits` significant digits, without an exponent up to LARGE: `0.04112`, `200.5 M`."""
    value += 0.0
    if 1e6 <= abs(value) < LARGE:
        return f"{value / 1e6:,.{max(0, digits - len(str(int(abs(value) / 1e6))))}f} M"
    short = f"{value:.{digits}g}"
    return short if abs(value) >= LARGE or abs(float(short)) < 10**digits else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Format a duration: `9.4s`, `6m41s`, `2h05m`."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"


def counted(number: int, noun: str) -> str:
    """Return `1 experiment`, `1,200 experiments`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def named(names: Sequence[str], most: int = 5) -> str:
    """Return the first names: `a.py, b.py and 3 more`."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return f"{', '.join(map(one_line, names[:most]))}{more}"


def cost(spent: Mapping[str, Any]) -> str:
    """Format a cost: `12 model calls, 81,000 tokens in, 9,000 out, $0.41`; dollars only if the price is known."""
    money = f", ${spent['dollars']:.2f}" if spent["dollars"] else ""
    calls = counted(spent["calls"], "model call")
    return f"{calls}, {spent['input_tokens']:,} tokens in, {spent['output_tokens']:,} out{money}"
