"""Whether measurements compare: those do that were taken under the same fingerprint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HARNESS = "harness"
RECENT = frozenset({HARNESS})  # what earlier versions did not record: missing, it counts as the same


def comparable(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether two fingerprints are those of measurements that compare."""
    return not differences(before, now)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return one phrase for every entry that differs."""
    return [
        f"{key} was {_show(before.get(key))} and is {_show(now.get(key))}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key) and not (key in RECENT and (key not in before or key not in now))
    ]


def _show(value: object) -> str:
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)
