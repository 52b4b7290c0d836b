"""A bounded cache."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


def remember(known: MutableMapping[Key, Value], key: Key, value: Value, most: int) -> None:
    """Store a value under its key. If `most` values are stored already, drop the oldest."""
    if key not in known and len(known) >= most:
        del known[next(iter(known))]
    known[key] = value
