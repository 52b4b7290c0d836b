"""The limits that end a session."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar

from agent.decision.estimate import estimate
from agent.format import counted
from agent.journal.experiment import Verdict
from agent.journal.state import State, gain
from agent.protocol.models import Protocol

NOTED: dict[str, type] = {"experiments": int, "until": float, "patience": int, "target": float}
LARGEST = sys.float_info.max
SECONDS_OF_A_DAY = 86400
LATEST = 1e11  # the latest Unix time that a calendar can show
RESERVED = "the remaining time is reserved for confirmation"

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Limits:
    """Limits set by the user or the protocol's miningLoop; None means no limit.

    Attributes:
        experiments: number of experiments in the whole session, so that repeating the command leads to the same end.
        seconds: time since this start.
        until: Unix time in seconds.
        patience: number of experiments in a row without a keep.
        target: metric value to reach.
    """

    experiments: int | None = None
    seconds: float | None = None
    until: float | None = None
    patience: int | None = None
    target: float | None = None

    def within(self, protocol: Protocol) -> Limits:
        """Return the stricter of these limits and the protocol's."""
        mining = protocol.mining_loop
        return Limits(
            experiments=_least(self.experiments, mining.max_trials),
            seconds=_least(self.seconds, mining.max_session_wall_seconds),
            until=self.until,
            patience=_least(self.patience, mining.max_consecutive_non_improvements),
            target=self.target,
        )

    def words(self) -> str:
        """Describe what ends the session: `after 100 experiments, or at 07:00`; empty without limits."""
        hours = f"{self.seconds / 3600:.3g} hours" if self.seconds is not None else ""
        said = [
            f"after {counted(self.experiments, 'experiment')}" if self.experiments is not None else "",
            f"after {hours}" if hours else "",
            f"at {_clock(self.until)}" if self.until is not None else "",
            f"after {counted(self.patience, 'experiment')} in a row without a keep"
            if self.patience is not None
            else "",
            f"at the target {self.target:g}" if self.target is not None else "",
        ]
        return ", or ".join(each for each in said if each)

    def flags(self) -> str:
        """Return these limits as flags of `run`, except hours, each with a space before it."""
        until = None if self.until is None else datetime.fromtimestamp(self.until).isoformat(timespec="minutes")
        target = None if self.target is None else f"{self.target!r}"
        given = {"max-experiments": self.experiments, "until": until, "patience": self.patience, "target": target}
        return "".join(f" --{name} {value}" for name, value in given.items() if value is not None)


def noted(limits: Limits, now: float) -> dict[str, Any]:
    """Return the limits in a form for other processes, with `seconds` converted to Unix time."""
    ends = _least(limits.until, None if limits.seconds is None else now + limits.seconds)
    found = {"experiments": limits.experiments, "until": ends, "patience": limits.patience, "target": limits.target}
    return {name: value for name, value in found.items() if value is not None}


def of_note(note: Mapping[str, Any]) -> Limits:
    """Return the limits that `noted` wrote; invalid entries are ignored."""
    found = {
        name: kind(note[name])
        for name, kind in NOTED.items()
        if isinstance(note.get(name), int | float) and abs(note[name]) < (LARGEST if name == "target" else LATEST)
    }
    return Limits(**found)


def reached(limits: Limits, state: State, seconds: float, reserve: float = 0.0) -> str | None:
    """Describe the limit that ends the session now; None if no limit is reached.

    Args:
        seconds: time since this start.
        reserve: seconds that must remain, for confirmation.
    """
    incumbent, done = state.incumbent, len(state.experiments) - 1
    if limits.experiments is not None and done >= limits.experiments:
        return f"{counted(done, 'experiment')} {'is' if done == 1 else 'are'} done"
    if limits.seconds is not None and seconds + reserve >= limits.seconds:
        hours = f"{limits.seconds / 3600:.3g} hours"
        return f"{hours} have passed" if seconds >= limits.seconds else f"{hours} have almost passed: {RESERVED}"
    if limits.until is not None and time.time() + reserve >= limits.until:
        until = _clock(limits.until)
        if time.time() < limits.until:
            return f"it is almost {until}: {RESERVED}"
        return f"it is {until}" if _is_today(limits.until) else f"it is past {until}"
    if limits.patience is not None and state.since_keep >= limits.patience:
        return f"no improvement in the last {counted(state.since_keep, 'experiment')}"
    worth = estimate(incumbent) if incumbent is not None else None
    if limits.target is not None and worth is not None:
        assert state.session is not None
        if gain(limits.target, worth, state.session["direction"]) >= 0:
            return f"the target of {limits.target:g} is reached"
    return None


def left_of(limits: Limits, state: State, seconds: float) -> Limits:
    """Return the limits that have not ended the session, with hours as Unix time.

    Args:
        seconds: time since this start.
    """
    ends = of_note(noted(limits, time.time() - seconds))
    reserved = RESERVED in (state.ended or "")
    each: list[dict[str, Any]] = [{name: getattr(ends, name)} for name in NOTED if not (reserved and name == "until")]
    left = [one for one in each if reached(Limits(**one), state, 0.0) is None]
    return Limits(**{name: value for one in left for name, value in one.items()})


def goes_on(limits: Limits, state: State, seconds: float, left: float) -> bool:
    """Return whether another experiment will start after the one in progress, if that is not kept.

    Args:
        seconds: time since this start.
        left: seconds for the experiment in progress, and those that must remain after it for confirmation.
    """
    assert state.pending is not None
    rejected = replace(state.pending, verdict=Verdict("discard", "")).experiment
    return reached(limits, replace(state, experiments=(*state.experiments, rejected)), seconds, left) is None


def _clock(until: float) -> str:
    """Return a moment as a time of day, with its date if that could mean another day."""
    near = _is_today(until) or 0 <= until - time.time() < SECONDS_OF_A_DAY
    return time.strftime("%H:%M" if near else "%Y-%m-%d %H:%M", time.localtime(until))


def _is_today(moment: float) -> bool:
    return datetime.fromtimestamp(moment).date() == datetime.now().date()


def _least(first: Number | None, second: Number | None) -> Number | None:
    given = [value for value in (first, second) if value is not None]
    return min(given) if given else None
