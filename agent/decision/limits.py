"""When a session ends by itself."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from agent.decision.estimate import estimate
from agent.journal.state import State, gain
from agent.protocol.models import Protocol

NOTED: dict[str, type] = {"experiments": int, "until": float, "patience": int, "target": float}
LATEST = 1e11  # Unix time that a calendar can show

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Limits:
    """What a person or the protocol's miningLoop asked for; None is no limit.

    experiments: of the whole session, so that the same command run again goes on to the same end.
    seconds: of this start. until: Unix time. patience: experiments in a row without a keep. target: a metric value.
    """

    experiments: int | None = None
    seconds: float | None = None
    until: float | None = None
    patience: int | None = None
    target: float | None = None

    def within(self, protocol: Protocol) -> Limits:
        """The stricter of these limits and the protocol's."""
        mining = protocol.mining_loop
        return Limits(
            experiments=_least(self.experiments, mining.max_trials),
            seconds=_least(self.seconds, mining.max_session_wall_seconds),
            until=self.until,
            patience=_least(self.patience, mining.max_consecutive_non_improvements),
            target=self.target,
        )

    def words(self) -> str:
        """Say what ends the session: `after 100 experiments, or at 07:00`; empty where nothing does."""
        hours = f"{self.seconds / 3600:.3g} hours" if self.seconds is not None else ""
        said = [
            f"after {self.experiments:,} experiments" if self.experiments is not None else "",
            f"after {hours}" if hours else "",
            f"at {time.strftime('%H:%M', time.localtime(self.until))}" if self.until is not None else "",
            f"after {self.patience:,} in a row without a keep" if self.patience is not None else "",
            f"at the target {self.target:g}" if self.target is not None else "",
        ]
        return ", or ".join(each for each in said if each)


def noted(limits: Limits, now: float) -> dict[str, Any]:
    """Return the limits for another process to read, hours as the Unix time at which they are over."""
    ends = _least(limits.until, None if limits.seconds is None else now + limits.seconds)
    found = {"experiments": limits.experiments, "until": ends, "patience": limits.patience, "target": limits.target}
    return {name: value for name, value in found.items() if value is not None}


def of_note(note: Mapping[str, Any]) -> Limits:
    """Return what `noted` wrote; what is no limit in it is left out."""
    found = {
        name: kind(note[name])
        for name, kind in NOTED.items()
        if isinstance(note.get(name), int | float) and math.isfinite(note[name]) and abs(note[name]) < LATEST
    }
    return Limits(**found)


def reached(limits: Limits, state: State, seconds: float, reserve: float = 0.0) -> str | None:
    """The limit that ends the session now, in words. `seconds` since this start; `reserve` of them are needed later."""
    incumbent, done = state.incumbent, len(state.experiments) - 1
    if limits.experiments is not None and done >= limits.experiments:
        return f"{done} experiments are done"
    if limits.seconds is not None and seconds + reserve >= limits.seconds:
        return f"{limits.seconds / 3600:.3g} hours are {_over(seconds >= limits.seconds)}"
    if limits.until is not None and time.time() + reserve >= limits.until:
        until = time.strftime("%H:%M", time.localtime(limits.until))
        return f"it is {until}" if time.time() >= limits.until else f"{until} is near: what is left is for confirming"
    if limits.patience is not None and state.since_keep >= limits.patience:
        return f"{state.since_keep} experiments in a row brought no improvement"
    worth = estimate(incumbent) if incumbent is not None else None
    if limits.target is not None and worth is not None:
        assert state.session is not None
        if gain(limits.target, worth, state.session["direction"]) >= 0:
            return f"the target {limits.target:g} is reached"
    return None


def _over(past: bool) -> str:
    return "over" if past else "nearly over: what is left is for confirming"


def _least(first: Number | None, second: Number | None) -> Number | None:
    given = [value for value in (first, second) if value is not None]
    return min(given) if given else None
