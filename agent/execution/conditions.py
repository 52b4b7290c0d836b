"""The conditions of a run that can slow down the same code, as reported by the operating system."""

from __future__ import annotations

import contextlib
import os
import re
import statistics
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from agent.execution.process import seconds_given_way
from agent.journal.experiment import Run
from agent.system.ask import ask

# Cores that other programs may use on top of those during the incumbent's run: a number, or a fraction of all cores.
MORE_CORES, MORE_SHARE = 0.3, 0.1
HOTTER, SLOWED = 15.0, 5.0  # degrees Celsius, percent of the processor's speed
MORE_SWAP = 0.25  # GiB
LEAST_SPEED = 0.8  # fraction of the incumbent's steps, if a step of both takes equally long
# Seconds. The kernel counts in hundredths of a second, which is too coarse for shorter runs.
SHORTEST_RUN = 5.0


@dataclass(frozen=True)
class Clock:
    """What the system has counted so far: seconds, and bytes of swap.

    A station that has some cores of a machine to itself counts those only: what others do on theirs is no disturbance.

    Attributes:
        wall: monotonic clock.
        busy: CPU time of all programs.
        stolen: CPU time taken by other virtual machines on this host.
        own: CPU time of this program and its children, among them an agent that works beside the run. It gives way to
            the run, so that its work is no disturbance.
        swap: swap in use, and bytes written to it since the start of the system; None if unknown.
    """

    wall: float
    busy: float
    stolen: float
    own: float
    swap: tuple[int, int] | None = None


def clock() -> Clock:
    times, own = _times(), os.times()
    busy = sum(getattr(each, name, 0.0) for each in times for name in ("user", "nice", "system", "irq", "softirq"))
    spent = own.user + own.system + own.children_user + own.children_system + seconds_given_way()
    stolen = sum(getattr(each, "steal", 0.0) for each in times)
    return Clock(time.monotonic(), busy, stolen, spent, _swap())


def _times() -> list[Any]:
    """Return the times of the cores that this process may use, or of the whole machine at once if it may use all."""
    if sys.platform == "linux":
        own, every = os.sched_getaffinity(0), psutil.cpu_times(percpu=True)
        if len(own) < len(every) and max(own) < len(every):
            return [every[core] for core in own]
    return [psutil.cpu_times()]


def _swap() -> tuple[int, int] | None:
    with contextlib.suppress(AttributeError, KeyError, OSError, psutil.Error), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # psutil warns if /proc/vmstat is missing, as in some containers
        found = psutil.swap_memory()
        # On macOS psutil reports the pages written to files of any kind, which is not swap.
        return found.used, found.sout if sys.platform == "linux" else 0
    return None


def swapped(before: Clock, now: Clock) -> float | None:
    """Return how much the machine swapped out between two clocks, in GiB; None if unknown.

    Swap in use alone misses a full swap that is written again and again, and the bytes written miss a compressed cache
    in front of it (zswap): the larger of the two counts.
    """
    if before.swap is None or now.swap is None:
        return None
    return max(0, *(late - early for early, late in zip(before.swap, now.swap, strict=True))) / 2**30


def conditions(since: Clock, running: float = 0.0) -> dict[str, float]:
    """Return the conditions since an earlier `clock()`.

    Args:
        running: CPU time since then of own children that have not ended, which the system does not count as own yet.

    Returns:
        `others`, the cores that other programs used on average; `swapped_gb`, the memory that was swapped out, in GiB;
        `load`, the load average of the last minute; `battery_percent`; `plugged_in`, 1 or 0; `celsius`, the hottest
        sensor; `speed_limit`, in percent of the processor's speed (macOS). Unknown ones are left out.
    """
    now, found = clock(), {}
    seconds = max(now.wall - since.wall, 1e-3)
    others = now.busy - since.busy - (now.own - since.own) - running + now.stolen - since.stolen
    found["others"] = round(max(0.0, others / seconds), 2)
    swap = swapped(since, now)
    if swap is not None:
        found["swapped_gb"] = round(swap, 2)
    with contextlib.suppress(OSError):
        found["load"] = round(os.getloadavg()[0], 2)
    # These functions do not exist on every platform.
    with contextlib.suppress(AttributeError, OSError, psutil.Error):
        battery = psutil.sensors_battery()
        if battery is not None:
            found["battery_percent"] = round(battery.percent, 1)
            found["plugged_in"] = float(bool(battery.power_plugged))
    with contextlib.suppress(AttributeError, OSError, psutil.Error):
        readings = [reading.current for chip in psutil.sensors_temperatures().values() for reading in chip]
        if readings:
            found["celsius"] = round(max(readings), 1)
    limit = _speed_limit()
    return found if limit is None else {**found, "speed_limit": limit}


def _speed_limit() -> float | None:
    """Return the speed limit that `pmset -g therm` reports on macOS, in percent; 100 means full speed."""
    limit = re.search(r"CPU_Speed_Limit\s*=\s*(\d+)", ask("pmset", "-g", "therm") or "")
    return float(limit[1]) if limit else None


def disturbed(
    runs: Sequence[Run], reference: Sequence[Run], *, equally_long: bool, than: str = "the incumbent"
) -> str | None:
    """Return why external conditions slowed down `runs` compared with `reference`, or None if they did not.

    The medians of both are compared.

    Args:
        equally_long: whether a step takes equally long in both: they are the same program or differ only in rates.
            Then fewer steps are evidence as well.
        than: how the text names the reference.
    """
    if any(run.metric is None for run in runs):
        return None
    return hindered(runs, reference, equally_long=equally_long, than=than)


def hindered(runs: Sequence[Run], reference: Sequence[Run], *, equally_long: bool, than: str) -> str | None:
    """Return what `disturbed` does, also of runs without a metric."""
    if any(run.seconds < SHORTEST_RUN for run in runs):
        return None
    others, before = _condition(runs, "others"), _condition(reference, "others")
    most = max(MORE_CORES, MORE_SHARE * (os.cpu_count() or 1))
    if others is not None and before is not None and others > before + most:
        return f"other programs used {others:.1f} cores, against {before:.1f} for {than}"
    plugged, was = _condition(runs, "plugged_in"), _condition(reference, "plugged_in")
    if plugged == 0 and was == 1:
        return f"the machine was on battery power, but on mains power for {than}"
    warm, cool = _condition(runs, "celsius"), _condition(reference, "celsius")
    if warm is not None and cool is not None and warm > cool + HOTTER:
        return f"the machine was at {warm:.0f} degrees Celsius, against {cool:.0f} for {than}"
    limit, full = _condition(runs, "speed_limit"), _condition(reference, "speed_limit")
    if limit is not None and full is not None and limit < full - SLOWED:
        return f"heat limited the processor to {limit:.0f} % of its speed, against {full:.0f} % for {than}"
    if swaps_more(runs, reference):
        swap, usual = (_condition(each, "swapped_gb") for each in (runs, reference))
        return f"the machine swapped {swap:.1f} GB, against {usual:.1f} GB for {than}"
    steps, usual = _steps(runs), _steps(reference)
    if equally_long and steps is not None and usual is not None and steps < LEAST_SPEED * usual:
        return f"it made {steps:.0f} steps, against {usual:.0f} for {than} with the same work per step"
    return None


def swaps_more(runs: Sequence[Run], reference: Sequence[Run]) -> bool:
    """Return whether the machine swapped clearly more during `runs` than during `reference`."""
    swap, usual = _condition(runs, "swapped_gb"), _condition(reference, "swapped_gb")
    return swap is not None and usual is not None and swap > usual + MORE_SWAP


def undisturbed(runs: Sequence[Run]) -> list[Run]:
    """Return the runs of one program that were not disturbed compared with their median, or all if none is left."""
    return [run for run in runs if disturbed([run], runs, equally_long=True) is None] or list(runs)


def _condition(runs: Sequence[Run], name: str) -> float | None:
    return _median([run.conditions[name] for run in runs if name in run.conditions])


def _steps(runs: Sequence[Run]) -> float | None:
    return _median([run.secondary["num_steps"] for run in runs if "num_steps" in run.secondary])


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None
