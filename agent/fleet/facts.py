"""What a station says about its machine, as values for the journal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.fleet.cluster import StationInfo

PASSING = ("pid", "host", "version", "python", "name")  # what may change without a change of the numbers


def facts_of(station: StationInfo) -> dict[str, Any]:
    """Return the facts of a station with those of its machine beside them."""
    machine = station.facts.get("machine")
    found = {**(machine if isinstance(machine, Mapping) else {}), **station.facts}
    return {name: value for name, value in found.items() if value is None or isinstance(value, str | int | float)}


def changed_facts(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return what has changed of a machine so that new runs are not comparable with earlier ones; empty if nothing."""
    names = [name for name in before.keys() & now.keys() if name not in PASSING and before[name] != now[name]]
    return "; ".join(f"{name}: {before[name]}, now {now[name]}" for name in sorted(names))
