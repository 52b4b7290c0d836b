"""How many more experiments the night has room for."""

from __future__ import annotations

import math
import time

from agent.decision.limits import Limits
from agent.journal.state import State


def experiments_left(limits: Limits, state: State, now: float, seconds: float) -> str | None:
    """`about 62 more by 07:00`, `about 3 more, until about 23:10`, or the rate alone; None before there is one.

    now: Unix time. seconds: since this start, which --max-hours counts from.
    """
    done = len(state.experiments) - 1
    if done < 1 or state.seconds <= 0:
        return None
    each = state.seconds / done
    rate = f"{3600 / each:,.1f} an hour" if each > 36 else f"{60 / each:,.1f} a minute"
    ends = [limits.until] if limits.until is not None else []
    ends += [now + limits.seconds - seconds] if limits.seconds is not None else []
    # The one under way is finished even if the time comes meanwhile.
    room = max(0, math.ceil((min(ends) - now) / each)) if ends else None
    wanted = max(0, limits.experiments - done) if limits.experiments is not None else None
    if wanted is not None and (room is None or wanted <= room):
        return f"{rate}, {wanted:,} more until about {_clock(now + wanted * each)}"
    return rate if room is None else f"{rate}, about {room:,} more by {_clock(min(ends))}"


def _clock(at: float) -> str:
    return time.strftime("%H:%M", time.localtime(at))
