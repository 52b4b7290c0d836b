"""What was found once is kept, and never more of it than a bound."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


def remember(known: MutableMapping[Key, Value], key: Key, value: Value, most: int) -> None:
    """Keep a value under its key. Where `most` are kept already, the oldest goes."""
    if key not in known and len(known) >= most:
        del known[next(iter(known))]
    known[key] = value
