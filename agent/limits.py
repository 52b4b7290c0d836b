"""When a session ends by itself."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TypeVar

from agent.estimate import estimate
from agent.protocol import Protocol
from agent.state import State, gain

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
