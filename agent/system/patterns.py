"""Untrusted patterns, matched in bounded time: globs without backtracking, regular expressions with a timeout.

`re` cannot be interrupted once `(a+)+$` meets a long line. The `regex` package can, and reads the same syntax. The one
exception, fuzzy matching such as `{e<=1}`, is escaped here, so that it stays literal text as in `re`.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Iterator
from pathlib import PurePosixPath

import regex

LONGEST_EXPRESSION = 1000  # characters
LONGEST_GLOB = 500
LARGEST_EXPANSION = 100_000  # length of an expression with its repetitions written out
SECONDS = 5.0

_BRACE = re.compile(r"\\.|\{(?!\d*,?\d*\})", re.DOTALL)
_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(|\)|\{(\d*),?(\d*)\}|.", re.DOTALL)
_CAPTURES = re.compile(r"\((?!\?)|\(\?P<")
_GLOB = re.compile(r"(\*\*/|\*\*|\*|\?)")


class Endless(Exception):
    """An expression that exceeded its time limit."""


def fault_of_expression(pattern: str, longest: int = LONGEST_EXPRESSION) -> str | None:
    """Return why an expression is invalid, or None if it can be used: "is not a valid regular expression: ..."."""
    if len(pattern) > longest:
        return f"is longer than {longest} characters"
    try:
        groups = re.compile(pattern, re.MULTILINE).groups
        if _expansion(pattern) > LARGEST_EXPANSION:
            return "has too many repetitions: use smaller counts"
        compiled(pattern)
    except (re.error, regex.error) as error:
        return f"is not a valid regular expression: {error}"
    except (OverflowError, RecursionError, MemoryError, ValueError):
        return "is not a valid regular expression: it is nested or repeated too deeply"
    return "needs a group around the number" if groups < 1 else None


@functools.lru_cache(maxsize=64)
def compiled(pattern: str) -> regex.Pattern[str]:
    """Compile an expression as `re` with MULTILINE would read it."""
    literal = _BRACE.sub(lambda found: r"\{" if found[0] == "{" else found[0], pattern)
    return regex.compile(literal, regex.MULTILINE | regex.VERSION0)


@functools.lru_cache(maxsize=64)
def widened(pattern: str, more: str) -> str:
    """Return an expression whose first group also matches `more`, an expression without groups of its own.

    It comes back unchanged if its first group cannot be told for certain, as in a verbose one.
    """
    depth = 0
    for token in [] if re.compile(pattern).flags & re.VERBOSE else _TOKEN.finditer(pattern):
        if token[0] == "(":
            depth += depth > 0
            if not depth and _CAPTURES.match(pattern, token.start()):
                depth = 1
        elif token[0] == ")" and depth:
            depth -= 1
            if not depth:
                wider = f"{pattern[: token.start()]}|{more}{pattern[token.start() :]}"
                return wider if fault_of_expression(wider, longest=2 * LONGEST_EXPRESSION) is None else pattern
    return pattern


def found(pattern: str, text: str, seconds: float = SECONDS) -> Iterator[regex.Match[str]]:
    """Yield every match of an expression. Raises Endless if the search takes longer than `seconds`."""
    ends = time.monotonic() + seconds
    try:
        for match in compiled(pattern).finditer(text, timeout=seconds):
            yield match
            if time.monotonic() > ends:
                raise TimeoutError
    except (TimeoutError, MemoryError, RecursionError):
        raise Endless(f"the pattern {short(pattern)} did not finish within {seconds:g} s") from None


def matches(path: str, glob: str) -> bool:
    """Return whether `path` matches `glob`.

    `*` and `?` stay within a folder, `**` crosses folders, and a folder matches everything in it. All states of the
    glob are followed at once, as bits of an integer, so that the time is linear in the length of the path.
    """
    literals, anywhere, inside, loops, skips, end = _automaton(glob)
    states = _closed(1, skips)
    for sign in path:
        if sign == "/" and states >> end & 1:
            return True
        stay = states & anywhere if sign == "/" else states & (anywhere | inside)
        steps = literals.get(sign, 0) | (loops if sign == "/" else literals.get("", 0))
        states = _closed(stay | (states & steps) << 1, skips)
        if not states:
            return False
    return bool(states >> end & 1)


def short(text: str, most: int = 60) -> str:
    """Return the repr of a text, cut after `most` characters."""
    return repr(text if len(text) <= most else text[:most] + "...")


_Automaton = tuple[dict[str, int], int, int, int, tuple[tuple[int, int], ...], int]


@functools.lru_cache(maxsize=4096)
def _automaton(glob: str) -> _Automaton:
    """Compile a glob into a nondeterministic automaton whose sets of states are bits of an integer.

    Returns:
        By character, the states that it advances ("" is any character but a slash); the states that stay on any
        character; those that stay on any but a slash; those that stay on any and advance on a slash; pairs of a state
        and one that it reaches without a character; and the final state.
    """
    literals: dict[str, int] = {}
    anywhere = inside = loops = 0
    skips: list[tuple[int, int]] = []
    state = 0
    parts = [part for part in _GLOB.split(PurePosixPath(glob).as_posix()[: LONGEST_GLOB + 1]) if part]
    for part in _collapsed(parts):
        if part == "**/":  # matches nothing, or anything that ends with a slash
            skips += [(state, state + 1), (state, state + 2)]
            anywhere |= 1 << state + 1
            loops |= 1 << state + 1
            state += 2
        elif part in ("*", "**"):
            skips.append((state, state + 1))
            if part == "*":
                inside |= 1 << state
            else:
                anywhere |= 1 << state
            state += 1
        else:
            for sign in [""] if part == "?" else part:
                literals[sign] = literals.get(sign, 0) | 1 << state
                state += 1
    return literals, anywhere, inside, loops, tuple(skips), state


def _collapsed(parts: list[str]) -> list[str]:
    """Drop each wildcard next to one that covers it."""
    kept: list[str] = []
    for part in parts:
        before = kept[-1] if kept else ""
        if (part in ("*", "**", "**/") and before == "**") or (part in ("*", "**/") and part == before):
            continue
        while part == "**" and kept and kept[-1] in ("*", "**", "**/"):
            kept.pop()
        kept.append(part)
    return kept


def _closed(states: int, skips: tuple[tuple[int, int], ...]) -> int:
    """Add all states that are reachable without a character. The pairs are in order."""
    for state, other in skips:
        if states >> state & 1:
            states |= 1 << other
    return states


def _expansion(pattern: str) -> int:
    """Estimate the length of an expression with its repetitions written out."""
    lengths, last = [0], 0
    for token in _TOKEN.finditer(pattern):
        if token[0] == "(":
            lengths.append(0)
            last = 0
        elif token[0] == ")" and len(lengths) > 1:
            last = lengths.pop()
            lengths[-1] += last
        elif token[1] is not None and token[0] != "{}":
            times = max(int(count or 1) for count in (token[1], token[2] or ""))
            lengths[-1] += last * (times - 1)
            last *= times
        else:
            last = 1
            lengths[-1] += 1
    return sum(lengths)
