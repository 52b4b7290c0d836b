"""What a station says about its machine, as values for the journal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.fleet.cluster import StationInfo
from agent.station.orders import LARGEST_NUMBER

PASSING = ("pid", "host", "version", "python", "name")  # what may change without a change of the numbers


def facts_of(station: StationInfo) -> dict[str, Any]:
    """Return the facts of a station with those of its machine beside them."""
    machine = station.facts.get("machine")
    found = {**(machine if isinstance(machine, Mapping) else {}), **station.facts}
    return {name: value for name, value in found.items() if value is None or _is_plain(value)}


def _is_plain(value: Any) -> bool:
    """Return whether a journal can hold a value."""
    return isinstance(value, str) or (isinstance(value, int | float) and abs(value) <= LARGEST_NUMBER)


def changed_facts(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return what has changed of a machine so that new runs are not comparable with earlier ones; empty if nothing."""
    names = [name for name in before.keys() & now.keys() if name not in PASSING and before[name] != now[name]]
    return "; ".join(f"{name}: {before[name]}, now {now[name]}" for name in sorted(names))
