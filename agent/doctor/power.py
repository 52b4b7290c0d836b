"""Checks of the power settings: a display that stays on, and modes that save power at the cost of speed."""

from __future__ import annotations

import re
from collections.abc import Iterator

from agent.doctor.check import Check
from agent.system.ask import ask

# From a Mac with `pmset -g`: "displaysleep 10 (display sleep prevented by Amphetamine)". 0 means never.
DISPLAY = re.compile(r"^\s*displaysleep\s+(\d+)(?:\s+\(display sleep prevented by (.+)\))?\s*$", re.MULTILINE)
# 1 is low power mode. Macs that have a high power mode as well, 2, call the setting `powermode`.
POWER_MODE = re.compile(r"^\s*(lowpowermode|powermode)\s+(\d+)\s*$", re.MULTILINE)


def display() -> Iterator[Check]:
    yield from _found(display_of(ask("pmset", "-g") or ""))


def saving() -> Iterator[Check]:
    yield from _found(mode_of(ask("pmset", "-g") or ""))
    yield from _found(profile_of(ask("powerprofilesctl", "get") or ""))


def display_of(pmset: str) -> Check | None:
    """Check that the display of a Mac turns off, given the output of `pmset -g`; None if that does not say."""
    found = DISPLAY.search(pmset)
    if found is None:
        return None
    why = "is set to stay on" if int(found[1]) == 0 else f"turns off after {found[1]} min"
    if found[2]:
        why = f"is kept on by {found[2]}"
    elif int(found[1]) > 0:
        return Check("display", "ok", f"the display {why}; while it is on, the GPU's watchdog may end runs")
    return Check("display", "warning", f"the display {why}: the GPU's watchdog may end runs", "pmset displaysleepnow")


def mode_of(pmset: str) -> Check | None:
    """Check that a Mac is not in low power mode, given the output of `pmset -g`; None if that does not say."""
    found = POWER_MODE.search(pmset)
    if found is None:
        return None
    if found[2] == "1":
        return Check("power", "warning", "low power mode slows training down", f"sudo pmset -a {found[1]} 0")
    return Check("power", "ok", "low power mode is off")


def profile_of(profile: str) -> Check | None:
    """Check the power profile of a Linux machine, given the output of `powerprofilesctl get`; None if there is none.

    The governor of the processor says nothing: `powersave` is the usual one of intel_pstate, at full speed.
    """
    if not re.fullmatch(r"[\w-]+", profile):
        return None
    if profile == "power-saver":
        message = "the power profile power-saver slows training down"
        return Check("power", "warning", message, "powerprofilesctl set balanced")
    return Check("power", "ok", f"the power profile is {profile}")


def _found(check: Check | None) -> list[Check]:
    return [] if check is None else [check]
