"""Decide whether two measurements are comparable: both must have been taken under the same fingerprint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HARNESS, MACOS, VARIABLES = "harness", "macos", "mlx_variables"
SHOWN = ("chip", "cores", "memory_gb", "os", "backend", "mlx")
# Without these two in common, a metric measures something else.
TASK = ("snapshot", HARNESS)
# Entries that earlier versions did not record. If one side lacks such an entry, the two count as equal.
RECENT = frozenset({HARNESS, MACOS, VARIABLES})
# MLX reads this variable as 1 if it is not set (`enable_tf32` in mlx/utils.h).
USUAL_VARIABLES = "MLX_ENABLE_TF32=1"


def machine_in_words(fingerprint: Mapping[str, Any]) -> str:
    """Name the machine of a fingerprint by what a reader compares: `chip M4, cores 10`; empty if nothing is known."""
    return ", ".join(f"{key} {fingerprint[key]}" for key in SHOWN if fingerprint.get(key) is not None)


def comparable(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether earlier measurements with these two fingerprints may be used.

    Those without MLX's variables count as taken with the usual ones. The release of Darwin in `os` stands for a missing
    version of macOS.
    """
    return not differences({VARIABLES: USUAL_VARIABLES, **before}, now)


def of_one_task(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether both measured with the same data and harness, possibly on other machines or with other budgets."""
    one, other = ({key: each[key] for key in TASK if key in each} for each in (before, now))
    return not differences(one, other)


def same_stations(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether sessions with these flags measure in the same place: here, or on as many stations of this machine.

    Other stations join a scheduler each time, and rows are on the scale of whichever measured the baseline first.
    """
    if before.get("scheduler") or now.get("scheduler"):
        return False
    return bool(before.get("stations") == now.get("stations"))


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return one phrase per entry that differs."""
    return [
        f"{key} was {_show(before.get(key))} and is now {_show(now.get(key))}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key) and not (key in RECENT and (key not in before or key not in now))
    ]


def _show(value: object) -> str:
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)
