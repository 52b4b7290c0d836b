"""The machine around a run: what may make equal code slower. Only what the system tells."""

from __future__ import annotations

import contextlib
import os

import psutil


def conditions() -> dict[str, float]:
    """load: processes ready to run, over the last minute; battery_percent; plugged_in: 1 or 0; celsius: the hottest."""
    found: dict[str, float] = {}
    with contextlib.suppress(OSError):
        found["load"] = round(os.getloadavg()[0], 2)
    # Neither function exists on every platform.
    with contextlib.suppress(AttributeError, OSError, psutil.Error):
        battery = psutil.sensors_battery()
        if battery is not None:
            found["battery_percent"] = round(battery.percent, 1)
            found["plugged_in"] = float(bool(battery.power_plugged))
    with contextlib.suppress(AttributeError, OSError, psutil.Error):
        readings = [reading.current for chip in psutil.sensors_temperatures().values() for reading in chip]
        if readings:
            found["celsius"] = round(max(readings), 1)
    return found
