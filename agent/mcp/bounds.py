"""Bounds on what the server sends, because a client cuts or drops what its model cannot take."""

from __future__ import annotations

import json
import math
from typing import Any

from agent.errors import AutoresearchError
from agent.format import block

LONGEST_ANSWER = 64_000  # characters, about 20,000 tokens: Claude Code drops answers above 25,000
LONGEST_TEXT = 16_000  # characters of one text in it
MOST_ITEMS = 200  # of one list or object
SHORTEST_TEXT, FEWEST_ITEMS = 100, 10
LONGEST_KEY = 200


def bounded(value: Any) -> Any:
    """Return plain data of at most LONGEST_ANSWER characters as indented JSON, without control characters.

    Long texts, lists and objects are cut, with a note in place of the rest. If the whole is still too long, they are
    cut shorter.

    Raises:
        AutoresearchError: it has too many parts.
    """
    longest, most = LONGEST_TEXT, MOST_ITEMS
    while True:
        found = _cut_parts(value, longest, most)
        if len(json.dumps(found, indent=2)) <= LONGEST_ANSWER:  # the SDK's own layout
            return found
        if longest <= SHORTEST_TEXT and most <= FEWEST_ITEMS:
            raise AutoresearchError("the answer is too long to send", hint="read it with the command line")
        longest, most = max(SHORTEST_TEXT, longest // 2), max(FEWEST_ITEMS, most // 2)


def cut(text: str, most: int = LONGEST_ANSWER) -> str:
    """Return a text without control characters, and with a note in place of what exceeds `most` characters."""
    text = block(text)
    return text if len(text) <= most else f"{text[:most]}\n[cut: {len(text) - most} more characters]"


def _cut_parts(value: Any, longest: int, most: int) -> Any:
    if isinstance(value, str):
        return cut(value, longest)
    if isinstance(value, dict):
        pairs = list(value.items())
        more = {"[cut]": f"{len(pairs) - most} more"} if len(pairs) > most else {}
        return {block(str(key))[:LONGEST_KEY]: _cut_parts(part, longest, most) for key, part in pairs[:most]} | more
    if isinstance(value, list | tuple):
        rest = [f"[cut: {len(value) - most} more]"] if len(value) > most else []
        return [*(_cut_parts(part, longest, most) for part in value[:most]), *rest]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no such number, and some clients drop the whole answer
    return value
