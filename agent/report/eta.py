"""Estimate how many more experiments fit before a limit."""

from __future__ import annotations

import math
import time

from agent.decision.limits import Limits
from agent.journal.state import State


def experiments_left(limits: Limits, state: State, now: float, seconds: float) -> str | None:
    """Forecast the experiments left: `11.2 an hour, about 62 more by 07:00`, or the rate alone without a limit.

    Args:
        limits: what ends the session.
        state: the session.
        now: Unix time.
        seconds: seconds since this start, from which --max-hours counts.

    Returns:
        The forecast; None before the first experiment is done.
    """
    done = len(state.experiments) - 1
    if done < 1 or state.loop_seconds <= 0:
        return None
    each = state.loop_seconds / done
    rate = f"{3600 / each:,.1f} an hour" if each > 36 else f"{60 / each:,.1f} a minute"
    ends = [limits.until] if limits.until is not None else []
    ends += [now + limits.seconds - seconds] if limits.seconds is not None else []
    # The running experiment is finished even if the time limit passes.
    room = max(0, math.ceil((min(ends) - now) / each)) if ends else None
    wanted = max(0, limits.experiments - done) if limits.experiments is not None else None
    if wanted is not None and (room is None or wanted <= room):
        return f"{rate}, {wanted:,} more until about {_clock(now + wanted * each)}"
    return rate if room is None else f"{rate}, about {room:,} more by {_clock(min(ends))}"


def _clock(at: float) -> str:
    return time.strftime("%H:%M", time.localtime(at))
